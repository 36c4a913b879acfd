"""From listed images in any order to the rows of the samples table: sorted, without duplicates, with dense ids.

Listings arrive in chunks and are never held as a whole: sorted runs in temporary files (`sorted_runs`) are merged,
numbered and passed on part by part. docs/inputs.md says how much memory this takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.config.data import FolderSource, LayoutSource, ParquetSource, Source, TableSource, WebDatasetSource
from fgvr.errors import UserError
from fgvr.names.spelling import LONG_NAME, odd_names, one_form_each
from fgvr.redact import safe
from fgvr.schemas import SAMPLES
from fgvr.sources.omissions import LeftOut, Omissions, sentences
from fgvr.sources.sorted_runs import SortedRuns, Spool

CHUNK = 65_536
"""Rows that a listing gathers into one chunk."""

DEFAULT_SPLIT = "train"
"""Split of rows without one."""

LISTING = pa.schema(
    [
        pa.field("uri", pa.large_string()),  # absolute; large_string, since ten million exceed 2 GiB of text
        pa.field("split", pa.string()),  # null or blank: train
        pa.field("class_id", pa.int32()),  # if null in all rows: numbered here, by sorted class names
        pa.field("class_name", pa.string()),
        pa.field("metadata", pa.large_string()),
    ]
)
"""What a source yields: chunks of this schema, in which absent columns mean null."""

SHOWN_CHARACTERS = 60
"""Characters shown of a name that is too long."""


class SourceError(UserError, ValueError):
    """A source cannot be listed; the message names the config field or the file, and what was expected there."""


@dataclass(frozen=True)
class SampleRows:
    """A listed source.

    Attributes:
        kept: sorted rows of the schema `LISTING`, one per URI.
        numbers: class name → class id if the source gives no ids; None if it does.
        duplicates: listed rows left out because an earlier one has the same URI.
        conflicts: how many of these have another split or class than the row that was kept.
        without_uri: listed rows left out because they name no image.
        splits: split → number of rows.
        classes: distinct class names.
        remarks: notes on the source for a reader of the results.
        files: number of container files that were listed; 0 for other sources.
        bad_files: messages for those container files that could not be read to their end.
        left_out: what became no row, by reason and ending (`fgvr.sources.omissions`).
        without_class: kept rows without a class.
        without_split: kept rows that are `train` because nothing names their split.
        odd_classes: class names that span lines or are very long, as written.
    """

    kept: Spool
    numbers: pa.Array | None
    duplicates: int
    conflicts: int
    without_uri: int
    splits: dict[str, int] = field(default_factory=dict)
    classes: int = 0
    remarks: tuple[str, ...] = ()
    files: int = 0
    bad_files: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=dict)
    without_class: int = 0
    without_split: int = 0
    odd_classes: tuple[str, ...] = ()

    @property
    def rows(self) -> pa.Table:
        """The whole samples table; use `parts` for large ones."""
        return pa.concat_tables(self._numbered())

    def parts(self, rows_per_part: int) -> Iterator[pa.Table]:
        """The samples table as consecutive tables, all but the last with `rows_per_part` rows."""
        waiting: list[pa.Table] = []
        count = 0
        for table in self._numbered():
            rest = table
            while count + rest.num_rows >= rows_per_part:
                head, rest = rest.slice(0, rows_per_part - count), rest.slice(rows_per_part - count)
                yield pa.concat_tables([*waiting, head])
                waiting, count = [], 0
            if rest.num_rows:
                waiting.append(rest)
                count += rest.num_rows
        if waiting:
            yield pa.concat_tables(waiting)

    def _numbered(self) -> Iterator[pa.Table]:
        start = 0
        for table in self.kept:
            columns = {name: table[name] for name in LISTING.names}
            if self.numbers is not None:
                known = pc.index_in(table["class_name"], value_set=self.numbers)
                columns["class_id"] = known.cast(pa.int32())
            columns["image_id"] = pa.chunked_array([pa.array(np.arange(start, start + table.num_rows))])
            start += table.num_rows
            yield pa.table([columns[column.name].cast(column.type) for column in SAMPLES], schema=SAMPLES)


def chunk(**columns: object) -> pa.Table:
    """A listing chunk from some of its columns; the others are null."""
    length = len(columns["uri"])  # type: ignore[arg-type]
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(length, field.type)
        for field in LISTING
    ]
    return pa.table(arrays, schema=LISTING)


def collect(chunks: Iterable[pa.Table], where: str, omissions: Omissions | None = None) -> SampleRows:
    """Sort by URI, drop duplicates (the first one stays), give dense ids to images and classes, normalise names.

    Args:
        chunks: tables of the schema `LISTING`.
        where: the source, for messages.
        omissions: counts what the listing leaves out while `chunks` are read.

    Raises:
        SourceError: no row names an image, or a class has two ids.
    """
    runs = SortedRuns(LISTING, "uri")
    listed = named = 0
    odd: dict[str, None] = {}
    for read in chunks:
        odd |= dict.fromkeys(odd_names(read["class_name"]))
        listing = _in_one_form(read)
        with_uri = listing.filter(pc.greater(pc.utf8_length(listing["uri"].fill_null("")), 0))
        listed, named = listed + listing.num_rows, named + with_uri.num_rows
        runs.add(with_uri)
    left_out = {} if omissions is None else omissions.facts()
    if not named:
        why = "; ".join([f"{listed} rows without a URI", *sentences(left_out).values()])
        raise SourceError(f"{where}: no image is listed there ({why})")
    once = _Once()
    for block in runs:
        once.add(block)
    names = sorted({name for _, name in once.classes if name is not None})
    has_ids = any(number is not None for number, _ in once.classes)
    if has_ids:
        _check_classes(once.classes, where)
    return SampleRows(
        kept=once.kept,
        numbers=None if has_ids else pa.array(names, pa.string()),
        duplicates=named - once.kept.rows,
        conflicts=once.conflicts,
        without_uri=listed - named,
        splits=dict(once.splits),
        classes=len(names),
        left_out=left_out,
        without_class=once.without_class,
        without_split=once.without_split,
        odd_classes=tuple(odd),
    )


def _in_one_form(listing: pa.Table) -> pa.Table:
    """The chunk with its splits and classes normalised; those that become empty are null."""
    for place, column in enumerate(LISTING):
        if column.name in {"split", "class_name"}:
            listing = listing.set_column(place, column, one_form_each(listing[column.name]))
    return listing


class _Once:
    """Takes sorted blocks and keeps the first row per URI, counting what the samples table will hold."""

    def __init__(self) -> None:
        self.kept = Spool(LISTING)
        self.conflicts = self.without_class = self.without_split = 0
        self.splits: Counter[str] = Counter()
        self.classes: set[tuple[int | None, str | None]] = set()
        self._last = LISTING.empty_table()  # the last row kept: the next block may begin with duplicates of it

    def add(self, block: pa.Table) -> None:
        """Add the next rows in URI order; rows of equal URI are in the order of the listing."""
        rows = pa.concat_tables([self._last, block]).combine_chunks()
        first = np.ones(rows.num_rows, dtype=bool)
        uris = rows["uri"]
        first[1:] = pc.not_equal(uris.slice(1), uris.slice(0, len(uris) - 1)).to_numpy()
        self.conflicts += _conflicts(rows, first)
        kept = rows.filter(pa.array(first))
        fresh = kept.slice(self._last.num_rows)
        self._last = kept.slice(kept.num_rows - 1)
        self.without_class += fresh["class_name"].null_count
        self.without_split += fresh["split"].null_count
        fresh = fresh.set_column(1, LISTING.field("split"), fresh["split"].fill_null(DEFAULT_SPLIT))
        self.kept.append(fresh)
        for item in pc.value_counts(fresh["split"]).to_pylist():
            self.splits[item["values"]] += item["counts"]
        pairs = fresh.group_by(["class_id", "class_name"]).aggregate([])
        self.classes.update(zip(pairs["class_id"].to_pylist(), pairs["class_name"].to_pylist(), strict=True))


def _conflicts(rows: pa.Table, first: np.ndarray) -> int:
    """Number of dropped rows whose split or class differs from the kept row of the same URI."""
    left_out = np.flatnonzero(~first)
    kept = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))[left_out]
    differs = np.zeros(len(left_out), dtype=bool)
    for name in ("split", "class_name"):
        filled = rows[name].fill_null(DEFAULT_SPLIT if name == "split" else "")
        ours, theirs = (filled.take(pa.array(places)) for places in (left_out, kept))
        differs |= pc.not_equal(ours, theirs).to_numpy()
    return int(differs.sum())


def _check_classes(pairs: set[tuple[int | None, str | None]], where: str) -> None:
    for place, name in enumerate(("class_id", "class_name")):
        counts = Counter(pair[place] for pair in pairs if pair[place] is not None)
        twice = next((value for value, count in sorted(counts.items(), key=str) if count > 1), None)
        if twice is not None:
            raise SourceError(f"{where}: {name} {twice!r} stands for more than one class; ids and names go together")


# Notes on the classes and splits of a listing, for a reader of the results.


def class_remarks(source: Source, rows: SampleRows) -> list[str]:
    """Notes on photos without a class where classes are expected, and on class names that look like whole texts."""
    remarks = []
    asked = _classes_asked_for(source)
    if rows.without_class and (asked is not None or rows.classes):
        what = "no photo has a class" if not rows.classes else f"{_share(rows.without_class, rows)} have no class"
        remarks.append(what if asked is None else f"{what} ({asked})")
    if rows.odd_classes:
        first = " ".join(rows.odd_classes[0].split())[:SHOWN_CHARACTERS]
        many = len(rows.odd_classes)
        remarks.append(
            f"{many:,} {'name of a class goes' if many == 1 else 'names of classes go'} over several lines or beyond "
            f"{LONG_NAME} characters (“{safe(first)}…”): text for a name, or a quote that is closed in another row?"
        )
    return remarks


def split_remarks(rows: SampleRows) -> list[str]:
    """Notes on photos without a split beside others with one, and on splits that differ only in case."""
    remarks = []
    kept = rows.kept.rows
    if 0 < rows.without_split < kept:
        remarks.append(f"{_share(rows.without_split, rows)} have no split: they are in {DEFAULT_SPLIT}")
    by_letters: dict[str, list[str]] = {}
    for split in sorted(rows.splits):
        by_letters.setdefault(split.casefold(), []).append(split)
    for alike in by_letters.values():
        if len(alike) > 1:
            counts = ", ".join(f"{split} ({rows.splits[split]:,})" for split in alike)
            remarks.append(f"splits that differ only in capitals are different splits: {counts}")
    return remarks


def _classes_asked_for(source: Source) -> str | None:
    """The field and value by which a user requested classes; None if nobody did."""
    match source:
        case FolderSource() | WebDatasetSource() if source.class_from != "none":
            return f"ingest.source.class_from = {source.class_from}"
        case TableSource() | ParquetSource() if source.class_column and "class_column" in source.model_fields_set:
            return f"ingest.source.class_column = {source.class_column}"
        case LayoutSource():
            return f"ingest.source.name = {source.name}"
    return None


def _share(count: int, rows: SampleRows) -> str:
    return f"{count:,} of {rows.kept.rows:,} photos ({100 * count / rows.kept.rows:.3g}%)"
