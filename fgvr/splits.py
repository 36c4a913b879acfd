"""Ids of the images of a split, read a part of the samples table at a time, and samples of them.

All that stays is 8 bytes an image.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.splitmix import mixed
from fgvr.tables import Table

Ids = npt.NDArray[np.int64]


def split_ids(samples: Table, splits: Collection[str] | None) -> Ids:
    """Ascending ids of the images of some splits, int64 [n]; of all images for None."""
    if splits is None:
        return np.arange(samples.rows, dtype=np.int64)
    wanted = pa.array(sorted(splits), pa.string())
    ids = np.empty(samples.rows, dtype=np.int64)  # what is not written takes no memory
    count = 0
    for rows in samples.batches(["image_id", "split"]):
        found = rows.filter(pc.is_in(rows["split"], wanted))["image_id"].to_numpy()
        ids[count : count + len(found)] = found
        count += len(found)
    ids = ids[:count]
    return ids if bool((ids[1:] > ids[:-1]).all()) else np.sort(ids)


def first_of(ids: Ids, count: int | None, seed: int) -> Ids:
    """A random sample of so many images, ascending: int64 [min(n, count)]; all of them for None.

    A seed puts all images there could be into one order, by a hash of their ids; a sample is the first of it. So a
    larger sample holds every smaller one, and what one stage drew from a split the next one finds among its own.

    Args:
        ids: int64 [n], each once.
        count: of images.
        seed: another one is another order.
    """
    if count is None or count >= len(ids):
        return np.sort(ids)
    of_seed = mixed(np.array([seed], dtype=np.uint64))
    place = mixed(of_seed + ids.astype(np.uint64))  # no two images have the same
    return np.sort(ids[np.argpartition(place, count - 1)[:count]])
