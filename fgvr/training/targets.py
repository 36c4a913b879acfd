"""A student's class targets, from people or a method that names images; which images are used, which for validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr.arrays import Floats, Ids
from fgvr.errors import UserError
from fgvr.losses.makd import UNKNOWN_CLASS
from fgvr.training.examples import SoftClasses

BLOCK = 2**20
"""Images that are processed together."""


class TargetError(UserError, ValueError):
    """There is nothing to learn from the images; the message says what is missing."""


@dataclass(frozen=True)
class ClassTargets:
    """Class targets of N images.

    Attributes:
        classes: int64 [N], index into `labels`; −1 if the image has no target.
        labels: names of the classes.
        source: where the targets come from: `true`, or the method that gave the names.
        weights: how much each image counts, float32 [N]; None: all alike.
        soft: further probable classes; None: the class is certain.
    """

    classes: Ids
    labels: tuple[str, ...]
    source: str
    weights: Floats | None = None
    soft: SoftClasses | None = None

    def chosen(self, which: npt.NDArray[np.bool_]) -> ClassTargets:
        """Those of some of the images: `which` is bool [N]."""
        return ClassTargets(
            self.classes[which],
            self.labels,
            self.source,
            None if self.weights is None else self.weights[which],
            None if self.soft is None else self.soft.chosen(which),
        )


@dataclass(frozen=True)
class TrueClasses:
    """True classes of N images from the samples table: class ids (−1 if unknown) and names."""

    ids: Ids
    names: Sequence[str | None] | pa.ChunkedArray


def true_targets(true: TrueClasses) -> ClassTargets:
    """Targets from true classes. Classes without images get no output; images without a class get no target.

    Raises:
        TargetError: no image has a true class, or one class id has two names.
    """
    known = true.ids != UNKNOWN_CLASS
    if not known.any():
        raise TargetError("makd.target is true, but no training image has a true class (use near, or auto)")
    names: dict[int, str] = {}
    for class_id, name in _named(true, known):
        if names.setdefault(class_id, name) != name:
            raise TargetError(f"class id {class_id} has two names in the samples: {names[class_id]!r} and {name!r}")
    used = np.array(sorted(names), dtype=np.int64)
    classes = np.where(known, np.searchsorted(used, true.ids), UNKNOWN_CLASS)
    return ClassTargets(classes, tuple(names[class_id] for class_id in used.tolist()), "true")


def _named(true: TrueClasses, known: npt.NDArray[np.bool_]) -> Iterator[tuple[int, str]]:
    """Every pair of class id and name at least once, in the order of the images."""
    column = true.names if isinstance(true.names, pa.ChunkedArray) else pa.chunked_array([true.names], pa.string())
    for start in range(0, len(column), BLOCK):
        names = column.slice(start, BLOCK).combine_chunks()
        names = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
        here = known[start : start + BLOCK]
        ids = true.ids[start : start + BLOCK][here]
        codes = names.indices.fill_null(-1).to_numpy(zero_copy_only=False)[here].astype(np.int64)
        first = np.sort(np.unique(ids * (len(names.dictionary) + 1) + codes, return_index=True)[1])
        for class_id, code in zip(ids[first].tolist(), codes[first].tolist(), strict=True):
            yield class_id, (names.dictionary[code].as_py() if code >= 0 else None) or f"class {class_id}"


def spread(ids: Ids, rows: Ids, values: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
    """Values of a table's `rows` (image ids) aligned with the images `ids`; `fill` for images missing in the table.

    Args:
        ids: int64 [N], ascending.
        rows: int64 [M], image ids of the values.
        values: [M, …].
        fill: value for ids without a row.
    """
    spread_values = np.full((len(ids), *values.shape[1:]), fill, dtype=values.dtype)
    if len(ids) == 0 or len(rows) == 0:
        return spread_values
    places = np.minimum(np.searchsorted(ids, rows), len(ids) - 1)
    found = ids[places] == rows
    spread_values[places[found]] = values[found]
    return spread_values


def numbered(classes: Ids) -> tuple[npt.NDArray[np.int32], Ids]:
    """For each of N images the number of its class among the classes that occur, int32 [N]; and each class's size."""
    used = np.unique(classes)
    numbers = np.searchsorted(used, classes).astype(np.int32)  # `return_inverse` would take 24 bytes per image
    return numbers, np.bincount(numbers, minlength=len(used))


def fraction_of(classes: Ids, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which of N images belong to the fraction: bool [N].

    Every class is shuffled; image r of a class of n gets the value (r + u) / n, with one uniform u in [0, 1) per class,
    so that values below f belong to n·f images of every class, within one. The round(N · f) lowest values are chosen:
    with the same seed, a smaller fraction is a subset of a larger one, which largest remainders, drawn anew for each
    fraction, would not guarantee. The first image of every class comes before all others, so that no class is lost:
    there are at least as many images as classes.

    Args:
        classes: int64 [N], the class of each image.
        fraction: in (0, 1].
        seed: seed of the shuffling and of u.
    """
    rng = np.random.default_rng(seed)
    inverse, counts = numbered(classes)
    shuffled = rng.permutation(len(classes))
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    rank = np.empty(len(classes), dtype=np.int64)
    rank[by_class] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (rank + rng.random(len(counts))[inverse]) / counts[inverse]
    place[rank == 0] = -1.0  # the first image of every class comes before all others
    chosen = np.zeros(len(classes), dtype=bool)
    chosen[np.argsort(place, kind="stable")[: max(len(counts), round(len(classes) * fraction))]] = True
    return chosen


def held_out(classes: Ids, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which training images are held out for validation: bool [N], stratified by class.

    `share` of all images with a class, by largest remainders: every class gives its proportional number within one
    image, and always keeps one for training. The images of a class are drawn at random, by `seed`.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(classes), dtype=bool)
    known = np.flatnonzero(classes != UNKNOWN_CLASS)
    if share <= 0 or not known.size:
        return chosen
    inverse, counts = numbered(classes[known])
    quotas = counts * share
    takes = np.minimum(np.floor(quotas).astype(np.int64), counts - 1)
    missing = round(float(quotas.sum())) - int(takes.sum())
    # Largest remainders first; ties in random order, or the first classes would always be chosen.
    order = np.lexsort((rng.random(len(counts)), takes - quotas))
    able = [number for number in order if takes[number] < counts[number] - 1][: max(missing, 0)]
    takes[able] += 1
    shuffled = rng.permutation(len(known))
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    starts = np.cumsum(counts) - counts
    for start, take in zip(starts, takes, strict=True):
        chosen[known[by_class[start : start + take]]] = True
    return chosen
