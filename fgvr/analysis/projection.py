"""Aspect vectors in the plane (t-SNE; the paper's figure 5)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PERPLEXITY = 30
LEAST = 5
"""Distinct vectors below which a map would show nothing."""


def project(p_yes: npt.NDArray[np.float32], seed: int) -> Floats | None:
    """t-SNE of aspect vectors [N, Q] as points [N, 2] in the unit square; None for fewer than LEAST distinct ones.

    A missing answer (nan) is taken as the mean of its question.
    """
    if not p_yes.size:
        return None
    there = ~np.isnan(p_yes)
    means = np.where(there, p_yes, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    vectors = np.where(there, p_yes, means).astype(np.float32)
    if len(np.unique(vectors, axis=0)) < LEAST:
        return None
    from sklearn.manifold import TSNE

    model = TSNE(
        perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3),
        init="pca" if vectors.shape[1] > 1 else "random",
        random_state=seed,
        n_jobs=1,
    )
    points = model.fit_transform(vectors).astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    placed: Floats = (points - low) / np.maximum(high - low, 1e-9)
    return placed
