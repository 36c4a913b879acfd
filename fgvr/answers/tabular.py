"""Reads answers from CSV, TSV and Parquet files: one row per answer, keyed by the photo's URI or image id."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.answers.given import AnswerFileError, Chunk, GivenAnswers, chunk_of
from fgvr.config.label_sources import AnswerFile
from fgvr.errors import UserError
from fgvr.names.spelling import one_form
from fgvr.sources.columns import ColumnError, as_text, columns_there, find_column
from fgvr.sources.csv_text import CsvText
from fgvr.sources.rows import CHUNK


def open_table(path: str, source: AnswerFile, field: str) -> GivenAnswers:
    """Open a file and check its header or schema; `path` is absolute. Raises AnswerFileError."""
    with _as_answer_errors(source, field):
        columns, batches = (_parquet if path.lower().endswith((".parquet", ".pq")) else _csv)(path, source, field)
    return GivenAnswers(columns.by_id, _chunks(columns, batches, source, field))


@dataclass(frozen=True)
class _Columns:
    """Positions of the columns in the file."""

    names: Sequence[str]
    key: int
    by_id: bool
    answer: int
    rank: int | None
    score: int | None

    @property
    def read(self) -> list[int]:
        return sorted({place for place in (self.key, self.answer, self.rank, self.score) if place is not None})


def _chosen(names: Sequence[str], source: AnswerFile, field: str) -> _Columns:
    def place_of(name: str) -> int | None:
        column = getattr(source, name)
        place = None if column is None else find_column(names, column, f"{field}.{name}")
        if place is None and column is not None and name in source.model_fields_set:
            raise _missing(names, source, field, name)
        return place

    # A URI outlasts a new listing, in which image ids change: it counts where a file has both.
    uri = place_of("uri_column")
    image_id = place_of("id_column")
    by_id = uri is None or ("id_column" in source.model_fields_set and "uri_column" not in source.model_fields_set)
    key = image_id if by_id else uri
    if key is None:
        raise _missing(names, source, field, "uri_column")
    answer = place_of("answer_column")
    if answer is None:
        raise _missing(names, source, field, "answer_column")
    return _Columns(names, key, by_id, answer, place_of("rank_column"), place_of("score_column"))


def _missing(names: Sequence[str], source: AnswerFile, field: str, name: str) -> AnswerFileError:
    column = getattr(source, name)
    either = f", nor {source.id_column} (id_column)" if name == "uri_column" else ""
    return AnswerFileError(
        f"{field}.{name} = {column}: {source.path} has no such column{either}; it has "
        f"{columns_there(names, name, column)}"
    )


_Batches = Iterator[pa.RecordBatch]


def _parquet(path: str, source: AnswerFile, field: str) -> tuple[_Columns, _Batches]:
    filesystem, inside = storage.arrow_filesystem(path)
    table = pq.ParquetFile(filesystem.open_input_file(inside))
    schema = table.schema_arrow
    columns = _chosen(schema.names, source, field)
    names = {schema.names[place]: str(place) for place in columns.read}

    def batches() -> _Batches:
        for batch in table.iter_batches(batch_size=CHUNK, columns=list(names)):
            there = [name for name in batch.schema.names if name in names]  # "a.b" also selects field b of a column a
            yield batch.select(there).rename_columns([names[name] for name in there])

    return columns, batches()


def _csv(path: str, source: AnswerFile, field: str) -> tuple[_Columns, _Batches]:
    filesystem, inside = storage.arrow_filesystem(path)
    text = CsvText(filesystem.open_input_stream(inside), source.path, tabs=path.lower().endswith(".tsv"))
    if not text.header:
        raise AnswerFileError(f"{field}.path = {source.path}: it is empty and has not even a header")
    columns = _chosen(text.header, source, field)
    return columns, text.batches(columns.read, None if columns.by_id else columns.key)


def _chunks(columns: _Columns, batches: _Batches, source: AnswerFile, field: str) -> Iterator[Chunk]:
    start = 1
    with _as_answer_errors(source, field):
        for batch in batches:
            rows = pa.array(np.arange(start, start + batch.num_rows))
            start += batch.num_rows

            def cells(place: int, what: str, here: pa.RecordBatch = batch) -> pa.Array:
                return as_text(here[str(place)], one_form(columns.names[place]), what)

            key = cells(columns.key, "image id" if columns.by_id else "URI")
            read = {
                "answer": cells(columns.answer, "answer"),
                "rank": None if columns.rank is None else _numbers(cells(columns.rank, "rank"), rows, "rank"),
                "score": None if columns.score is None else _numbers(cells(columns.score, "score"), rows, "score"),
                "row": rows,
            }
            keys = _numbers(key, rows, "image id").cast(pa.int64()) if columns.by_id else key
            yield Chunk(keys, chunk_of(batch.num_rows, **read))


def _numbers(texts: pa.Array, rows: pa.Array, what: str) -> pa.Array:
    """Numbers, float64, NaN as null; raises ColumnError, naming the row, for text that is none and for infinity."""
    trimmed = pc.utf8_trim_whitespace(texts)
    trimmed = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
    try:
        numbers = trimmed.cast(pa.float64())
    except pa.ArrowInvalid:
        numeral = pc.match_substring_regex(trimmed, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
        bad = pc.index(numeral, value=False).as_py()
        shown = trimmed[bad].as_py()[:40] if bad >= 0 else "…"
        raise ColumnError(f"row {rows[max(bad, 0)]}: {what} {shown!r} is no number") from None
    infinite = pc.index(pc.is_inf(numbers), value=True).as_py()
    if infinite >= 0:
        raise ColumnError(f"row {rows[infinite]}: {what} {numbers[infinite]} is no number of anything")
    if what == "score" and (negative := pc.index(pc.less(numbers, 0), value=True).as_py()) >= 0:
        raise ColumnError(
            f"row {rows[negative]}: score {numbers[negative]} is negative; scores are probabilities or votes, so take "
            "the exponential of log-probabilities"
        )
    return pc.if_else(pc.is_nan(numbers), None, numbers)


@contextmanager
def _as_answer_errors(source: AnswerFile, field: str) -> Iterator[None]:
    """Turns any error of the file into an AnswerFileError whose one sentence names the file."""
    try:
        yield
    except AnswerFileError:
        raise
    except UserError as error:  # of its quotes, with the line
        raise AnswerFileError(f"{field}.path: {error}") from error
    except (ColumnError, pa.ArrowException, OSError, UnicodeError) as error:
        said = re.sub(r"Row #(\d+)", r"row \1 below the header", str(error).strip("'"))
        hint = "; save the file as UTF-8" if "UTF8" in said else ""
        raise AnswerFileError(f"{field}.path = {source.path}: {said}{hint}") from error
