"""Statistics of a label space, and agreement of methods, when the truth is not known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr.names.spelling import fold_name


@dataclass(frozen=True)
class LabelSpaceStatistics:
    """The shape of a label distribution.

    Attributes:
        names: distinct names |Y|.
        duplicates: names that equal another name after folding case and punctuation.
        singletons: names given to a single image.
        effective: exp(entropy in nats), the number of equally frequent names with the same entropy.
        largest_share: share (0–1) of the images with the most frequent name.
        images: images with a name.
        unnamed: images without one (failed, refused, abstained).
    """

    names: int
    duplicates: int
    singletons: int
    effective: float
    largest_share: float
    images: int
    unnamed: int


def statistics(names: Sequence[str]) -> LabelSpaceStatistics:
    """Statistics of one name per image; "" is an image without a name."""
    counts = Counter(name for name in names if name)
    total = sum(counts.values())
    shares = np.array([count / total for count in counts.values()]) if total else np.zeros(0)
    return LabelSpaceStatistics(
        names=len(counts),
        duplicates=len(counts) - len({fold_name(name) for name in counts}),
        singletons=sum(count == 1 for count in counts.values()),
        effective=float(np.exp(-(shares * np.log(shares)).sum())) if total else 0.0,
        largest_share=float(shares.max()) if total else 0.0,
        images=total,
        unnamed=len(names) - total,
    )


def agreement(first: Sequence[str], second: Sequence[str]) -> float:
    """Share (0–1) of images to which two methods give the same name after folding; a missing name never agrees."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} predictions: they must be of the same images")
    folded = {name: fold_name(name) for name in {*first, *second}}
    pairs = Counter(zip(first, second, strict=True))
    same = sum(images for (a, b), images in pairs.items() if folded[a] and folded[a] == folded[b])
    return same / len(first) if len(first) else 0.0


def agreement_matrix(predictions: dict[str, Sequence[str]]) -> npt.NDArray[np.float64]:
    """Agreement of every method with every other, [M, M] in the order of the dictionary."""
    rows = [[agreement(first, second) for second in predictions.values()] for first in predictions.values()]
    return np.array(rows, dtype=np.float64).reshape(len(predictions), len(predictions))
