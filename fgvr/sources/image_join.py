"""Which photo each row of a user's file is about: rows keyed by URI or image id, joined with the samples table.

Both sides are sorted by URI (image ids follow the sorted URIs), so the join is a merge: sorted runs of the file in
temporary files, and one part of the samples at a time. A URI matches exactly, or, if it is relative, joined to the
folder of the photo source; nothing else is tried, as a photo that is merely similar would get another one's answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import storage
from fgvr.config.data import BirdScenesSource, FieldGuideSource, Source, TableSource
from fgvr.redact import masked
from fgvr.sources.sorted_runs import SortedRuns
from fgvr.sources.table_file import absolute_uris
from fgvr.tables import GROWN, Table

URI: Final = pa.field("uri", pa.large_string())
WRITTEN: Final = pa.field("written", pa.large_string())
ID: Final = pa.field("image_id", pa.int64())
SHOWN: Final = 160
"""Characters of a URI that a message shows."""


def folder_of(source: Source, run_folder: str) -> str:
    """The folder at which relative URIs start: that of the photos or of the table that lists them."""
    match source:
        case TableSource():
            return storage.absolute(source.path).rsplit("/", 1)[0]
        case FieldGuideSource() | BirdScenesSource():
            return storage.absolute(source.draw_to or storage.join(run_folder, source.kind))
        case _:
            return storage.absolute(source.path)


class ImageJoin:
    """Takes rows about photos in any order, and gives those about photos of the samples, in the order of their ids.

    Attributes:
        rows: rows that were added.
        unnamed: rows without a URI or id, which are left out.
        matched: rows about a photo of the samples; complete after the iteration, as is what follows.
        unknown: rows about other photos, which are left out.
        first_unknown: (as written, as read) of one of these; None if there are none.
        some_uri: URI of a photo of the samples, to show how they are spelled.
    """

    def __init__(self, samples: Table, folder: str, payload: pa.Schema, *, by_id: bool) -> None:
        """A join for one file.

        Args:
            samples: the samples table.
            folder: where relative URIs start.
            payload: schema of the columns besides the key.
            by_id: whether rows are keyed by `image_id` (int64), and not by `uri`.
        """
        self._samples, self._folder, self._by_id = samples, folder, by_id
        self._columns = payload.names
        keys = [ID] if by_id else [URI, WRITTEN]
        self._schema = pa.schema([*keys, *payload])
        self._runs = SortedRuns(self._schema, keys[0].name)
        self.rows = self.unnamed = self.matched = self.unknown = 0
        self.first_unknown: tuple[str, str] | None = None
        self.some_uri = ""

    def add(self, keys: pa.Array, rows: pa.Table) -> None:
        """Add rows of the payload; `keys` are their URIs as written, or their image ids (int64)."""
        self.rows += rows.num_rows
        known: list[pa.Array] = [keys]
        if not self._by_id:
            uris = absolute_uris(keys, self._folder)
            known = [pc.if_else(pc.equal(uris, ""), None, uris), keys.cast(pa.large_string())]
        named = pa.table([*known, *(rows[name] for name in self._columns)], schema=self._schema)
        named = named.filter(pc.is_valid(named[0]))
        self.unnamed += rows.num_rows - named.num_rows
        self._runs.add(named)

    def __iter__(self) -> Iterator[pa.Table]:
        """Blocks of `image_id` and the payload with ascending ids; an id may continue in the next block."""
        for block in self._by_ids() if self._by_id else self._in_order():
            self.matched += block.num_rows
            if block.num_rows:
                yield block.select(["image_id", *self._columns])

    def _by_ids(self) -> Iterator[pa.Table]:
        self.some_uri = _first_uri(self._samples)
        for block in self._runs:
            known = pc.and_(pc.greater_equal(block["image_id"], 0), pc.less(block["image_id"], self._samples.rows))
            self._leave_out(block.filter(pc.invert(known)))
            yield block.filter(known)

    def _in_order(self) -> Iterator[pa.Table]:
        """Rows joined by URI; where photos were added later, ids do not follow the URIs, and both are sorted anew."""
        if self._samples.extra.get(GROWN) is None:
            yield from self._by_uris(self._samples.batches(["image_id", "uri"]))
            return
        listed = SortedRuns(pa.schema([URI, ID]), URI.name)
        for part in self._samples.batches(["image_id", "uri"]):
            listed.add(pa.table([part["uri"], part["image_id"]], schema=pa.schema([URI, ID])))
        found = SortedRuns(pa.schema([ID, *(self._schema.field(name) for name in self._columns)]), ID.name)
        for block in self._by_uris(iter(listed)):
            found.add(block.select(["image_id", *self._columns]))
        yield from found

    def _by_uris(self, parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
        here = next(parts, None)
        self.some_uri = _first_uri(self._samples)
        for block in self._runs:
            rest = block
            while rest.num_rows and here is not None:
                count = pc.sum(pc.less_equal(rest["uri"], here["uri"][-1].cast(pa.large_string()))).as_py()
                if count:
                    yield self._found(rest.slice(0, count), here)
                rest = rest.slice(count)
                if rest.num_rows:
                    here = next(parts, None)
            self._leave_out(rest)

    def _found(self, rows: pa.Table, here: pa.Table) -> pa.Table:
        """The rows whose URI is in a part of the samples, with its id."""
        places = pc.index_in(rows["uri"], value_set=here["uri"].cast(pa.large_string()))
        known = pc.is_valid(places)
        self._leave_out(rows.filter(pc.invert(known)))
        return rows.filter(known).append_column(ID, here["image_id"].take(places.filter(known)))

    def _leave_out(self, rows: pa.Table) -> None:
        if rows.num_rows and self.first_unknown is None:
            read = str(rows[0][0].as_py())
            self.first_unknown = (read if self._by_id else str(rows["written"][0].as_py()), read)
        self.unknown += rows.num_rows

    def unlike(self) -> str:
        """How an unknown photo is spelled and how those of the samples are, for messages; "" if all are known."""
        if self.first_unknown is None:
            return ""
        written, read = (masked(text[:SHOWN]) for text in self.first_unknown)
        if self._by_id:
            return f"image_id {written}, where the samples have 0 to {self._samples.rows - 1}"
        as_read = "" if read == written else f", read as {read}"
        return f"{written!r}{as_read}; the samples have e.g. {masked(self.some_uri[:SHOWN])!r}"


def _first_uri(samples: Table) -> str:
    return str(samples.take(np.zeros(1, np.int64), ["uri"])["uri"][0].as_py()) if samples.rows else ""
