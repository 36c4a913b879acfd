"""Which images a stage works on: those of a split, samples of them, and the discovery set that the MLLM labels."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.arrays import Ids
from fgvr.config.data import Discovery
from fgvr.errors import UserError
from fgvr.simulation import mixed
from fgvr.tables import Table

log = logging.getLogger(__name__)

NO_CLASS = -1


# The ids of a split's images, read one part of the samples table at a time, and random samples of them.
#
# Only 8 bytes per image stay in memory.


def split_ids(samples: Table, splits: Collection[str] | None) -> Ids:
    """Ascending ids of the images of the given splits, int64 [n]; of all images if `splits` is None."""
    if splits is None:
        return np.arange(samples.rows, dtype=np.int64)
    wanted = pa.array(sorted(splits), pa.string())
    ids = np.empty(samples.rows, dtype=np.int64)  # pages that are never written take no memory
    count = 0
    for rows in samples.batches(["image_id", "split"]):
        found = rows.filter(pc.is_in(rows["split"], wanted))["image_id"].to_numpy()
        ids[count : count + len(found)] = found
        count += len(found)
    ids = ids[:count]
    return ids if bool((ids[1:] > ids[:-1]).all()) else np.sort(ids)


def first_of(ids: Ids, count: int | None, seed: int) -> Ids:
    """A random sample of `count` images, ascending: int64 [min(n, count)]; all images if `count` is None.

    The seed puts all possible ids into one order, by a hash of each id; a sample is the beginning of that order. So a
    larger sample contains every smaller one, and stages that draw from the same split draw overlapping images.

    Args:
        ids: int64 [n], without duplicates.
        count: number of images.
        seed: each seed gives a different order.
    """
    if count is None or count >= len(ids):
        return np.sort(ids)
    of_seed = mixed(np.array([seed], dtype=np.uint64))
    place = mixed(of_seed + ids.astype(np.uint64))  # unique: the hash is a bijection
    return np.sort(ids[np.argpartition(place, count - 1)[:count]])


# The discovery set: the images that the multimodal LLM labels and that NeaR learns from.


class DiscoveryError(UserError, ValueError):
    """A discovery set that cannot be drawn from these samples."""


def discovery_ids(samples: Iterable[pa.Table], config: Discovery, among: Ids | None = None) -> Ids:
    """Ascending image ids of the discovery set: int64 [n]. The same seed draws the same images.

    Args:
        samples: parts of the samples table with columns image_id, split, class_id; one at a time is held in memory.
        config: the split, and either m images per true class or a total number of images.
        among: ids of the only images that may be drawn, int64, ascending, of that split; None: all of it.

    Raises:
        DiscoveryError: the split is empty, or `per_class` is set but there are no true classes.
    """
    found = _of_split(samples, config.drawn_from)
    if not len(found.ids):
        known = ", ".join(sorted(found.splits)) or "none, there are no samples"
        field = "legacy_discovery_split: test" if config.legacy_discovery_split else f"split = {config.split}"
        raise DiscoveryError(f"label.images.{field}: no image is in this split (there are: {known})")
    if among is not None:
        found = found.among(among)
    if config.per_class is not None:
        absent = len(found.class_names - set(np.unique(found.classes).tolist()))
        if absent:
            log.warning("%d classes have no image in the split %r", absent, config.drawn_from)
        return _per_class(found, config.per_class, config.seed)
    return first_of(found.ids, config.max_images, config.seed)


@dataclass(frozen=True)
class _Split:
    """A split's images, ascending: ids int64 [n], classes int32 [n] (−1: none); and the splits that exist."""

    ids: Ids
    classes: npt.NDArray[np.int32]
    splits: set[str]
    class_names: set[int]

    def among(self, ids: Ids) -> _Split:
        """Only the images `ids`."""
        kept = np.isin(self.ids, ids)
        return _Split(self.ids[kept], self.classes[kept], self.splits, self.class_names)


def _of_split(samples: Iterable[pa.Table], split: str) -> _Split:
    ids, classes = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    splits: set[str] = set()
    known: set[int] = set()
    for rows in samples:
        splits.update(pc.unique(rows["split"]).to_pylist())
        known.update(pc.unique(rows["class_id"].drop_null()).to_pylist())
        own = rows.filter(pc.equal(rows["split"], split))
        ids.append(own["image_id"].to_numpy())
        classes.append(own["class_id"].fill_null(NO_CLASS).to_numpy())
    numbers = np.concatenate(ids)
    order = np.argsort(numbers, kind="stable")
    return _Split(numbers[order], np.concatenate(classes)[order], splits, known)


def _per_class(found: _Split, shots: int, seed: int) -> Ids:
    """The m-shot benchmark protocol: `shots` images per true class (all images of a class that has fewer)."""
    known = found.classes != NO_CLASS
    if not known.any():
        raise DiscoveryError(
            "label.images.per_class needs true classes, and these samples have none: set label.images.max_images"
        )
    # After one sort, the images of a class are adjacent; scanning all images for each class would take images × classes
    # comparisons.
    order = np.argsort(found.classes[known], kind="stable")
    ids, classes = found.ids[known][order], found.classes[known][order]
    names, first = np.unique(classes, return_index=True)
    chosen: list[Ids] = []
    fewer = 0
    for class_id, own in zip(names, np.split(ids, first[1:]), strict=True):
        fewer += len(own) < shots
        # One random stream per class: adding a class does not change the draw of another.
        draw = np.random.default_rng([seed, int(class_id)])
        chosen.append(own if len(own) <= shots else draw.choice(own, size=shots, replace=False))
    if fewer:
        log.warning("%d classes have fewer than label.images.per_class = %d images", fewer, shots)
    return np.sort(np.concatenate(chosen))
