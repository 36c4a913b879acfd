"""How far the student's aspect outputs follow the MLLM's answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AspectAgreement:
    """Two p(yes) of the same images compared, question by question; nan where nothing can be said.

    Attributes:
        images: compared; those without any answer on either side left out.
        correlation: Pearson's, float64 [Q]; nan where one side always says the same.
        difference: mean |p - q|, float64 [Q].
        same: share of images with the same answer, yes from 0.5 on, float64 [Q].
    """

    images: int
    correlation: Floats
    difference: Floats
    same: Floats


def compare_aspects(mllm: npt.NDArray[np.float32], student: npt.NDArray[np.float32]) -> AspectAgreement:
    """Compare answers [N, Q] with outputs [N, Q]; nan where there is none."""
    there = ~(np.isnan(mllm) | np.isnan(student))
    questions = mllm.shape[1]
    correlation, difference, same = (np.full(questions, np.nan) for _ in range(3))
    for question in range(questions):
        rows = there[:, question]
        if not rows.any():
            continue
        p, q = mllm[rows, question].astype(np.float64), student[rows, question].astype(np.float64)
        difference[question] = np.abs(p - q).mean()
        same[question] = ((p >= 0.5) == (q >= 0.5)).mean()
        spread = p.std() * q.std()
        if spread > 1e-12:
            correlation[question] = ((p - p.mean()) * (q - q.mean())).mean() / spread
    return AspectAgreement(int(there.any(axis=1).sum()), correlation, difference, same)
