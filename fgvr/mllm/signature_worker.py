"""signatures: what a language model answers to multiple-choice questions about each class, one row per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr.mllm.backend import ChoiceScorer
from fgvr.mllm.choices import ChoiceAnswer, ChoiceTask
from fgvr.part_worker import remarks_of
from fgvr.schemas import SIGNATURES, Failure, Reason


@dataclass(frozen=True)
class ClassRows:
    """The names of classes as rows of `class_id` and `name`; see `fgvr.tables.Rows`."""

    names: tuple[str, ...]

    def take(self, ids: npt.NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
        """The rows of these classes, in the order of `ids`."""
        rows = pa.table({"class_id": ids, "name": [self.names[number] for number in ids.tolist()]})
        return rows if columns is None else rows.select(columns)


@dataclass(frozen=True)
class SignatureSettings:
    """What the workers of signatures need; picklable.

    Attributes:
        task: the questions and how to ask them.
        min_label_mass: a class with a lower mean label mass fails.
    """

    task: ChoiceTask
    min_label_mass: float


class SignatureWorker:
    """The PartWorker of signatures; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: SignatureSettings, backend: ChoiceScorer) -> None:
        """Ask a backend that is running already."""
        self.settings, self.backend = settings, backend

    @property
    def remarks(self) -> tuple[str, ...]:
        """See fgvr.part_worker.remarks_of."""
        return remarks_of(self.backend)

    def process(self, rows: pa.Table) -> pa.Table:
        """Signatures for rows with `class_id` and `name`: one row of `SIGNATURES` each, in order."""
        names = rows["name"].to_pylist()
        answers = [self._judged(answer) for answer in self.backend.choices(names, self.settings.task)]
        return signature_rows(rows["class_id"].to_pylist(), names, answers)

    def _judged(self, answer: ChoiceAnswer) -> ChoiceAnswer:
        """The answer, or a failure if the model plainly meant to say something other than a letter."""
        if answer.failure is not None or float(answer.label_mass.mean()) >= self.settings.min_label_mass:
            return answer
        detail = f"mean p(letters) = {float(answer.label_mass.mean()):.2g} is below signatures.min_label_mass"
        return ChoiceAnswer(failure=Failure(Reason.NO_LABEL_MASS, detail))


def signature_rows(ids: Sequence[int], names: Sequence[str], answers: Sequence[ChoiceAnswer]) -> pa.Table:
    """Rows of the signatures table; the reason of a failed class begins with its name."""
    good = [answer.failure is None for answer in answers]
    failures = [
        None if answer.failure is None else replace(answer.failure, detail=f"{name}: {answer.failure.detail}")
        for name, answer in zip(names, answers, strict=True)
    ]
    return pa.table(
        {
            "class_id": ids,
            "name": names,
            "probabilities": [
                [each.tolist() for each in answer.probabilities] if known else None
                for answer, known in zip(answers, good, strict=True)
            ],
            "label_mass": [answer.label_mass if known else None for answer, known in zip(answers, good, strict=True)],
            "prompt_tokens": [answer.prompt_tokens if answer.tokens_known else None for answer in answers],
            "cached_tokens": [answer.cached_tokens for answer in answers],
            "error": [None if failure is None else failure.as_row() for failure in failures],
        },
        schema=SIGNATURES,
    )


def signature_matrix(rows: pa.Table) -> npt.NDArray[np.float32]:
    """All signatures as float32 [C, K], a class's K options of all questions side by side; nan for failed classes.

    Args:
        rows: all rows of the signatures table, in the order of the classes.

    Raises:
        ValueError: the classes have different numbers of options.
    """
    flat = [
        None if found is None else [share for question in found for share in question]
        for found in rows["probabilities"].to_pylist()
    ]
    widths = {len(each) for each in flat if each is not None}
    if len(widths) > 1:
        raise ValueError(f"signatures of different numbers of options: {sorted(widths)}")
    nothing = [np.nan] * (widths.pop() if widths else 0)
    return np.array([nothing if each is None else each for each in flat], np.float32).reshape(rows.num_rows, -1)
