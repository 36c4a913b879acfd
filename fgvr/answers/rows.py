"""From a file of answers to answer rows, one per photo that is asked about; streams, whatever the order of the file.

What happens to rows that do not fit:

- about photos that the samples do not have, or without a photo: left out, and counted;
- the same answer twice (same photo, rank and score): once;
- two different answers of one rank, or, without ranks and scores, two different answers: the photo fails, as nobody
  knows which is right;
- empty, or a request that failed: no answer; the photo fails if it has no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import schemas, storage
from fgvr.answers.given import GIVEN, AnswerFileError, GivenAnswers
from fgvr.answers.json_lines import open_lines
from fgvr.answers.tabular import open_table
from fgvr.arrays import Ids
from fgvr.config.label_sources import AnswerFile
from fgvr.digests import content_of
from fgvr.schemas import Failure, Reason
from fgvr.sources.image_join import ImageJoin
from fgvr.tables import Table

RULES: Final = 1
"""Increase it when the same file gives other answer rows."""
TABLES: Final = (".csv", ".tsv", ".parquet", ".pq")
LINES: Final = (".jsonl", ".ndjson")
MOST_ROWS: Final = 65_536
"""Limit for the rows about one photo, which are held in memory together."""
Flags = npt.NDArray[np.bool_]


def open_answers(source: AnswerFile, field: str) -> GivenAnswers:
    """Open a file of answers and check its columns.

    Args:
        source: the file and the names of its columns.
        field: the source's name in the config, for messages, such as "label.sources.0".

    Raises:
        AnswerFileError: no such file, an unknown format, a column that is missing, present twice or of a wrong type.
    """
    path = storage.absolute(source.path)
    if not path.lower().endswith(TABLES + LINES):
        raise AnswerFileError(f"{field}.path = {source.path}: the name must end in {', '.join(TABLES + LINES)}")
    if not storage.exists(path):
        raise AnswerFileError(f"{field}.path = {source.path}: there is no such file")
    return (open_lines if path.lower().endswith(LINES) else open_table)(path, source, field)


def file_decides(source: AnswerFile) -> dict[str, object]:
    """What of a file of answers decides the answer rows, for fingerprints: its content, and how it is read.

    Raises FileNotFoundError.
    """
    columns = source.model_dump(include={"uri_column", "id_column", "answer_column", "rank_column", "score_column"})
    return {"file": content_of(storage.absolute(source.path)), "columns": columns, "rules": RULES}


class FileAnswers:
    """The answers of one file about some photos.

    Attributes:
        join: counts of rows by photo; complete after `parts`.
        repeated: rows left out because an earlier one says the same; complete after `parts`, as is what follows.
        elsewhere: photos of the samples with rows that were not asked about.
        cut: answers that their model's token limit ended.
    """

    def __init__(self, source: AnswerFile, field: str, samples: Table, folder: str) -> None:
        """Nothing is read yet.

        Args:
            source: the file.
            field: the source's name in the config, for messages.
            samples: the samples table.
            folder: where relative URIs start.
        """
        self._source, self._field, self._samples, self._folder = source, field, samples, folder
        self.join: ImageJoin | None = None
        self.repeated = self.elsewhere = self.cut = 0

    def parts(self, ids: Ids, size: int) -> Iterator[pa.Table]:
        """Rows of the schema `FILE_ANSWERS` for the photos `ids` (int64, ascending), `size` at a time.

        Raises AnswerFileError for a file that cannot be read, or none of whose rows is about a photo of the samples.
        """
        waiting = [schemas.FILE_ANSWERS.empty_table()]
        count = 0
        for rows in self._in_order(ids):
            waiting.append(rows)
            count += rows.num_rows
            while count >= size:
                whole = pa.concat_tables(waiting)
                yield whole.slice(0, size)
                waiting, count = [whole.slice(size)], count - size
        if count or not len(ids):
            yield pa.concat_tables(waiting)

    def counts(self) -> dict[str, float]:
        """Numbers for the manifest and MLflow; complete after `parts`."""
        join = self.join
        found = {} if join is None else {"file_rows": join.rows, "unknown_rows": join.unknown + join.unnamed}
        found |= {"repeated_rows": self.repeated, "photos_not_asked_about": self.elsewhere}
        return {name: float(count) for name, count in found.items()}

    def remarks(self) -> tuple[str, ...]:
        """Notes for a reader of the results; complete after `parts`."""
        join, remarks = self.join, []
        if join is not None and join.unknown:
            remarks.append(f"{_rows(join.unknown)} about photos that the samples do not have, e.g. {join.unlike()}")
        if join is not None and join.unnamed:
            remarks.append(f"{_rows(join.unnamed)} without a photo, left out")
        if self.repeated:
            remarks.append(f"{_rows(self.repeated)} said again what another one says, left out")
        if self.cut:
            remarks.append(f"{self.cut:,} answers were ended by their model's token limit")
        return tuple(f"{self._field} ({self._source.name}): {remark}" for remark in remarks)

    def _in_order(self, ids: Ids) -> Iterator[pa.Table]:
        """The rows of `ids` in order, in pieces of any size."""
        start = 0
        for images in self._images():
            own = images["image_id"].to_numpy()
            end = int(np.searchsorted(ids, own[-1], side="right"))
            wanted = ids[start:end]
            places = np.searchsorted(own, wanted)  # all are at most own[-1]
            found = own[places] == wanted
            self.elsewhere += len(own) - int(found.sum())
            yield _with_missing(images.take(pa.array(places, mask=~found)), wanted, found)
            start = end
        rest = ids[start:]
        if len(rest):
            nothing = pa.table([pa.nulls(len(rest), each.type) for each in schemas.FILE_ANSWERS], schema=_NULLABLE)
            yield _with_missing(nothing, rest, np.zeros(len(rest), bool))

    def _images(self) -> Iterator[pa.Table]:
        """One answer row per photo that the file has rows about, with ascending ids."""
        given = open_answers(self._source, self._field)
        self.join = ImageJoin(self._samples, self._folder, GIVEN, by_id=given.by_id)
        for chunk in given.chunks:
            self.join.add(chunk.keys, chunk.rows)
        for block in self._whole_photos(self.join):
            read = _answered(block)
            self.repeated += read.repeated
            self.cut += read.cut
            yield read.images
        if not self.join.matched:
            raise AnswerFileError(
                f"{self._field}.path = {self._source.path}: none of its {self.join.rows:,} rows is about a photo of "
                f"the samples: {self.join.unlike() or 'none names a photo'}"
            )

    def _whole_photos(self, join: ImageJoin) -> Iterator[pa.Table]:
        """The join's blocks, cut so that all rows about a photo are in one."""
        held: pa.Table | None = None
        for block in join:
            rows = block if held is None else pa.concat_tables([held, block])
            ids = rows["image_id"].to_numpy()
            end = int(np.searchsorted(ids, ids[-1]))
            if len(ids) - end > MOST_ROWS:
                raise AnswerFileError(
                    f"{self._field}.path = {self._source.path}: more than {MOST_ROWS:,} rows are about one photo, "
                    f"image {ids[-1]}; is the column that names the photos right?"
                )
            if end:
                yield rows.slice(0, end)
            held = rows.slice(end)
        if held is not None:
            yield held


_NULLABLE = pa.schema([pa.field(each.name, each.type) for each in schemas.FILE_ANSWERS])


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def _with_missing(rows: pa.Table, ids: Ids, found: Flags) -> pa.Table:
    """The rows with their ids, those that were not found (all null) with the reason why."""
    missing = Failure(Reason.NOT_IN_FILE, "the file of answers has no row about this photo").as_row()
    errors = pc.if_else(pa.array(found), rows["error"].combine_chunks(), pa.scalar(missing, schemas.ERROR.type))
    columns = {name: rows[name] for name in schemas.FILE_ANSWERS.names} | {"image_id": pa.array(ids), "error": errors}
    for name in ("prompt_tokens", "output_tokens"):
        columns[name] = pa.array(np.zeros(len(ids), np.int32))
    return pa.table(columns, schema=schemas.FILE_ANSWERS)


@dataclass(frozen=True)
class _Answered:
    """Answer rows of some photos, and how many rows of the file were left out."""

    images: pa.Table
    repeated: int
    cut: int


def _answered(block: pa.Table) -> _Answered:
    """One answer row per photo of a block, which has all rows about its photos, with ascending ids."""
    block = block.combine_chunks()
    block = block.set_column(
        block.schema.get_field_index("answer"), "answer", _without_blank(block["answer"].combine_chunks())
    )
    first = _first_of_equals(block)
    rows = _best_first(block.filter(pa.array(first)))
    ids = rows["image_id"].to_numpy()
    has = rows["answer"].is_valid().to_numpy()
    images, of = np.unique(ids, return_inverse=True)
    contradicted = _contradictions(rows, ids, has)
    kept = has & ~np.isin(of, list(contradicted)) & ~_without_weight(rows, of, len(images))
    counts = np.bincount(of[kept], minlength=len(images))
    good = rows.filter(pa.array(kept))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    failed = pa.array(counts == 0)
    scored = _all_scored(good, of[kept], len(images))
    columns = {
        "image_id": images,
        "texts": _lists(offsets, good["answer"].cast(pa.string()), failed),
        "cut": _lists(offsets, good["cut"], failed),
        "logprobs": _lists(offsets, pa.nulls(good.num_rows, pa.float32()), failed),
        "prompt_tokens": np.zeros(len(images), np.int32),
        "output_tokens": np.zeros(len(images), np.int32),
        "error": _errors(rows, of, counts, contradicted),
        "scores": _scores(good, of[kept], scored),
    }
    cut = int(pc.sum(good["cut"]).as_py() or 0)
    return _Answered(pa.table(columns, schema=schemas.FILE_ANSWERS), int((~first).sum()), cut)


def _without_blank(answers: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(answers), ""), None, answers)


def _numbers(column: pa.ChunkedArray, missing: float) -> npt.NDArray[np.float64]:
    return np.asarray(column.fill_null(missing).to_numpy(), np.float64)


def _first_of_equals(rows: pa.Table) -> Flags:
    """Whether no earlier row of the file says the same of the same photo, bool [rows]."""
    answers = rows["answer"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    keys = (answers, _numbers(rows["score"], -1), _numbers(rows["rank"], np.inf), rows["image_id"].to_numpy())
    order = np.lexsort((rows["row"].to_numpy(), *keys))
    equal = np.ones(len(order), bool)
    equal[:1] = False
    for key in keys:
        equal[1:] &= key[order][1:] == key[order][:-1]
    equal &= answers[order] >= 0  # rows without an answer say nothing
    first = np.ones(len(order), bool)
    first[order] = ~equal
    return first


def _best_first(rows: pa.Table) -> pa.Table:
    """The rows by photo; of a photo those with an answer first, by rank, then by score, then as in the file."""
    missing = rows["answer"].is_null().to_numpy()
    rank, score = _numbers(rows["rank"], np.inf), _numbers(rows["score"], -1)
    return rows.take(np.lexsort((rows["row"].to_numpy(), -score, rank, missing, rows["image_id"].to_numpy())))


def _contradictions(rows: pa.Table, ids: Ids, has: Flags) -> dict[int, Failure]:
    """Position of a photo (among the distinct ids) → which rows contradict each other, of ordered, distinct rows."""
    rank, unscored = _numbers(rows["rank"], np.inf), rows["score"].is_null().to_numpy()
    comparable = np.isfinite(rank) | unscored  # by their scores alone, answers may stand beside each other
    tied = np.zeros(len(ids), bool)
    tied[1:] = (ids[1:] == ids[:-1]) & (rank[1:] == rank[:-1]) & has[1:] & has[:-1] & comparable[1:] & comparable[:-1]
    found: dict[int, Failure] = {}
    position = np.cumsum(np.concatenate([[True], ids[1:] != ids[:-1]])) - 1 if len(ids) else ids
    for place in np.flatnonzero(tied).tolist():
        if int(position[place]) not in found:
            (one, two), (a, b) = (rows[name][place - 1 : place + 1].to_pylist() for name in ("row", "answer"))
            what = f"answers {a[:80]!r} and {b[:80]!r}" if a != b else f"scores of {a[:80]!r}"
            detail = f"rows {one} and {two} of the file give different {what}"
            if np.isfinite(rank[place]):
                detail += f" at rank {rank[place]:g}"
            found[int(position[place])] = Failure(Reason.CONTRADICTION, detail)
    return found


def _all_scored(rows: pa.Table, of: npt.NDArray[np.intp], images: int) -> Flags:
    """Whether every answer of a photo has a score, and one is above 0, bool [images]."""
    scores = _numbers(rows["score"], np.nan)
    unscored = np.bincount(of, weights=np.isnan(scores), minlength=images) > 0
    return ~unscored & (np.bincount(of, weights=np.nan_to_num(scores), minlength=images) > 0)


def _without_weight(rows: pa.Table, of: npt.NDArray[np.intp], images: int) -> Flags:
    """Whether a row's score of 0 says that the name is not meant, as other answers of the photo have more."""
    answered = rows["answer"].is_valid()
    has = answered.to_numpy()
    counts = _all_scored(rows.filter(answered), of[has], images)
    return np.asarray(counts[of] & (_numbers(rows["score"], -1) == 0), bool)


def _errors(rows: pa.Table, of: npt.NDArray[np.intp], counts: Ids, contradicted: dict[int, Failure]) -> pa.Array:
    """The `error` column: why a photo has no answer."""
    errors: list[dict[str, str] | None] = [None] * len(counts)
    starts = np.searchsorted(of, np.arange(len(counts)))
    for image in np.flatnonzero(counts == 0).tolist():
        failure = contradicted.get(image)
        if failure is None:
            said = rows["failure"][int(starts[image])].as_py()
            reason, _, detail = (said or "").partition(": ")
            failure = Failure(Reason(reason), detail) if said else Failure(Reason.EMPTY_ANSWER, "the file's is empty")
        errors[image] = failure.as_row()
    return pa.array(errors, schemas.ERROR.type)


def _scores(good: pa.Table, of: npt.NDArray[np.intp], scored: Flags) -> pa.Array:
    """The `scores` column: a list per photo with scores, null for the others (in Parquet a null list is empty)."""
    counts = np.bincount(of[scored[of]], minlength=len(scored))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return _lists(offsets, good["score"].filter(pa.array(scored[of])), pa.array(~scored))


def _lists(offsets: pa.Array, values: pa.Array | pa.ChunkedArray, nulls: pa.Array) -> pa.Array:
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pa.ListArray.from_arrays(offsets, flat, mask=nulls)
