"""The kept pictures of a finished table `synthetic`: where their bytes are, and which photos they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import storage
from fgvr.arrays import Ids
from fgvr.images.parquet import groups, open_parquet
from fgvr.images.places import file_of
from fgvr.tables import Table, part_name, read_part

IMAGE = "image"
"""Column with the pictures' bytes, which are read as those of photos in Parquet files are (fgvr.images.places)."""


@dataclass(frozen=True)
class Kept:
    """P kept pictures, in the order of the table.

    Attributes:
        source_ids: image ids of their photos, int64 [P], ascending.
        names: what they were made to show.
        uris: where they are.
    """

    source_ids: Ids
    names: tuple[str, ...]
    uris: tuple[str, ...]


def kept_pictures(table: Table, most: int) -> Kept:
    """The kept pictures, at most the first `most` of each photo."""
    ids, names, uris = [np.zeros(0, np.int64)], list[str](), list[str]()
    for rows, places in _parts(table):
        chosen = np.flatnonzero(pc.fill_null(rows["kept"], False).to_numpy(zero_copy_only=False))
        good = rows.take(chosen)
        ids.append(good["source_id"].to_numpy())
        names += good["name"].to_pylist()
        uris += places.take(chosen).to_pylist()
    sources = np.concatenate(ids)
    within = np.arange(len(sources)) - np.searchsorted(sources, sources)  # how many of the same photo came before
    few = np.flatnonzero(within < most)
    return Kept(sources[few], tuple(names[place] for place in few), tuple(uris[place] for place in few))


def _parts(table: Table) -> Iterator[tuple[pa.Table, pa.Array]]:
    """Rows and URIs of the pictures of each part."""
    for number in range(table.parts):
        rows = read_part(table.uri, number, ["source_id", "name", "kept"])
        file = file_of(storage.join(table.uri, part_name(number)))
        with open_parquet(file) as opened:
            found = [group.uris(file, IMAGE) for group in groups(opened, IMAGE)]
        yield rows, pa.concat_arrays([pa.array([], pa.large_string()), *found])
