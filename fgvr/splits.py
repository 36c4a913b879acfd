"""Ids of the images of a split, read a part of the samples table at a time: all that stays is 8 bytes an image."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.tables import Table

Ids = npt.NDArray[np.int64]


def split_ids(samples: Table, splits: Collection[str] | None) -> Ids:
    """Ascending ids of the images of some splits, int64 [n]; of all images for None."""
    if splits is None:
        return np.arange(samples.rows, dtype=np.int64)
    wanted = pa.array(sorted(splits), pa.string())
    parts = samples.batches(["image_id", "split"])
    found = [rows.filter(pc.is_in(rows["split"], wanted))["image_id"].to_numpy() for rows in parts]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *found]))
