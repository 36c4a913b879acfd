"""How little a photo fits what a model was trained on: two scores, and the place of a score among reference photos.

The *distance* is that to the k-th nearest training photo (Sun et al., ICML 2022, with cosines), in the space of the
encoder's vectors whitened without labels (`fgvr.selection.whitening`), where differences within a kind count less.
The *energy* is that of the student's logits (Liu et al., NeurIPS 2020); it sees what the student sees, and the distance
what the encoder sees.

Training photos themselves are nearer to training photos than any other photo is. So scores are compared with those of
reference photos: from the same splits, but not trained on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Doubles, Floats
from fgvr.neighbours import Vectors, nearest
from fgvr.selection.whitening import Whitening, fit_whitening

RULES = 1
"""Increase it when the same vectors and predictions would get other scores."""
LEAST = float(np.finfo(np.float32).tiny)


def unit(vectors: npt.NDArray[np.floating]) -> Floats:
    """Vectors at unit length, float32 [N, d]; NaN where there is no direction: zero, or not finite."""
    rows = np.asarray(vectors, np.float32)
    with np.errstate(all="ignore"):
        length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return np.where(np.isfinite(length) & (length > 0), rows / length, np.nan).astype(np.float32)


class Learned:
    """The photos that were learned from, in the whitened space.

    Args:
        bank: their vectors, [M, d]; those that are not finite or zero are left out.
        whitening: as it was made of them; None: it is made.
        threads: number of cores that may be used.
    """

    def __init__(self, bank: Vectors, whitening: Whitening | None = None, threads: int = 1) -> None:
        rows = unit(bank)
        rows = rows[np.isfinite(rows).all(axis=1)]
        self.threads = threads
        self.whitening = whitening
        if whitening is None and len(rows):
            self.whitening = fit_whitening(rows, threads=threads)
        self.rows: Floats = rows if self.whitening is None or not len(rows) else self.whitening.apply(rows)

    def distances(self, vectors: Vectors, k: int) -> Doubles:
        """Cosine distance of each photo to the k-th nearest of them, 0 … 2, float64 [N].

        Args:
            vectors: of the photos, [N, d].
            k: at least 1; where fewer were learned from, their number.

        Returns:
            NaN for photos without a direction, and for all of them if nothing was learned from.

        Raises:
            ValueError: vectors of another length.
        """
        rows = unit(vectors)
        result = np.full(len(rows), np.nan)
        good = np.flatnonzero(np.isfinite(rows).all(axis=1))
        if self.whitening is not None and len(good) and len(self.rows):
            most = min(k, len(self.rows))
            seen = self.whitening.apply(rows[good])
            found = nearest(seen, self.rows, most, threads=self.threads, finite=True)
            result[good] = np.clip(1.0 - found.scores[:, most - 1].astype(np.float64), 0.0, 2.0)
        return result


def energy(logits: npt.NDArray[np.floating]) -> Doubles:
    """−log Σ exp of each row's logits, float64 [N]: the higher, the less a photo is like those trained on."""
    from scipy.special import logsumexp

    values: Doubles = -logsumexp(np.asarray(logits, np.float64), axis=1)
    return values


def unsureness(scores: npt.NDArray[np.floating]) -> Doubles:
    """−log of the highest probability, float64 [N] of [N]: stands in where a model has no logits."""
    values: Doubles = -np.log(np.maximum(np.asarray(scores, np.float64), LEAST))
    return values


def fit(values: Doubles, reference: Doubles) -> Doubles:
    """The share of reference photos that fit no better, float64 [N], in (0, 1]: a conformal p-value.

    Of photos like the reference at most a share t has a value of at most t (Vovk et al., 2005). NaN stays NaN.

    Args:
        values: scores of the photos, the higher the worse they fit.
        reference: those of the reference photos; values that are not finite are left out.
    """
    known = np.sort(np.asarray(reference, np.float64)[np.isfinite(reference)])
    asked = np.asarray(values, np.float64)
    worse = len(known) - np.searchsorted(known, asked, side="left")
    return np.where(np.isnan(asked), np.nan, (1.0 + worse) / (1.0 + len(known)))
