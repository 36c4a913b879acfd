"""Answers in JSON Lines: one object per photo with its answer or answers, or a vendor's batch output.

Batch outputs are recognised by their `custom_id`. OpenAI (and servers like it): `response.status_code`,
`response.body.choices[].message.content` and `finish_reason`, or `error`. Anthropic: `result.type`, and
`result.message.content[].text` and `stop_reason`. A request that failed becomes a row without an answer that says why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple

import pyarrow as pa

from fgvr import storage
from fgvr.answers.given import GIVEN, AnswerFileError, Chunk, GivenAnswers
from fgvr.config.label_sources import AnswerFile
from fgvr.json_text import RepeatedKey, read_json
from fgvr.schemas import Reason
from fgvr.sources.columns import columns_there
from fgvr.sources.rows import CHUNK

LONGEST_LINE: Final = 16 * 2**20
"""Limit for the bytes of a line: an answer takes thousands."""
CUSTOM_ID: Final = "custom_id"


class _Said(NamedTuple):
    """An answer, or why there is none."""

    answer: str | None = None
    rank: float | None = None
    score: float | None = None
    cut: bool | None = None
    failure: str | None = None


def open_lines(path: str, source: AnswerFile, field: str) -> GivenAnswers:
    """Open a file; its first line decides what all of them are. `path` is absolute.

    Raises AnswerFileError, naming the line, for what is no JSON object of that kind.
    """
    lines = _Lines(path, source, field)
    first = next(lines.objects(), None)
    if first is None:
        raise AnswerFileError(f"{field}.path = {source.path}: it has no line")
    key, batch = lines.keyed_by(first[1])
    return GivenAnswers(key == source.id_column, lines.chunks(key, batch=batch))


class _Lines:
    """The lines of one file."""

    def __init__(self, path: str, source: AnswerFile, field: str) -> None:
        self.path, self.source, self.field = path, source, field

    def wrong(self, line: int, what: str) -> AnswerFileError:
        """The error of a line."""
        return AnswerFileError(f"{self.field}.path = {self.source.path}, line {line}: {what}")

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line number, object) of every line that is not empty."""
        filesystem, inside = storage.resolve(self.path)
        with filesystem.open(inside, "rb") as file:
            for number, line in enumerate(self._lines(file), start=1):
                if not line.strip():
                    continue
                try:
                    found = read_json(line)
                except RepeatedKey as error:
                    raise self.wrong(number, str(error)) from None
                except (ValueError, RecursionError) as error:
                    raise self.wrong(number, f"no JSON ({error}); a .jsonl has one object per line") from None
                if not isinstance(found, dict):
                    raise self.wrong(number, f"a {type(found).__name__}, where an object is expected")
                yield number, found

    def _lines(self, file: IO[bytes]) -> Iterator[bytes]:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                raise self.wrong(number, f"longer than {LONGEST_LINE // 2**20} MiB; a .jsonl has one object per line")
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line

    def keyed_by(self, first: dict[str, Any]) -> tuple[str, bool]:
        """The field that names the photo, and whether the file is a batch output."""
        source, given = self.source, self.source.model_fields_set
        if CUSTOM_ID in first and ("response" in first or "result" in first):
            return (source.id_column if source.id_column == CUSTOM_ID and "id_column" in given else CUSTOM_ID), True
        names = [str(name) for name in first]
        by_id = source.uri_column not in first or ("id_column" in given and "uri_column" not in given)
        key, name = (source.id_column, "id_column") if by_id else (source.uri_column, "uri_column")
        for column, wanted in ((key, name), (source.answer_column, "answer_column")):
            if column not in first:
                shown = "uri_column" if wanted == "id_column" and wanted not in given else wanted
                raise self.wrong(
                    1,
                    f"no {getattr(source, shown)} ({self.field}.{shown}); it has "
                    f"{columns_there(names, shown, getattr(source, shown))}",
                )
        return key, False

    def chunks(self, key: str, *, batch: bool) -> Iterator[Chunk]:
        """All rows, `CHUNK` at a time."""
        by_id = key == self.source.id_column
        keys: list[Any] = []
        rows: list[tuple[Any, ...]] = []
        for line, found in self.objects():
            name = self._key(found, key, line, by_id=by_id)
            for said in self._from_batch(found, line) if batch else self._given(found, line):
                keys.append(name)
                rows.append((said.rank, said.answer, said.score, said.cut, said.failure, line))
            if len(rows) >= CHUNK:
                yield _chunk(keys, rows, by_id=by_id)
                keys, rows = [], []
        if rows:
            yield _chunk(keys, rows, by_id=by_id)

    def _key(self, found: dict[str, Any], key: str, line: int, *, by_id: bool) -> str | int | None:
        name = found.get(key)
        if name is None:
            return None
        if not by_id:
            if not isinstance(name, str):
                raise self.wrong(line, f"{key} = {name!r}: a photo's URI is text; ids stand in {self.field}.id_column")
            return name
        if isinstance(name, str) and name.strip().isdecimal():
            name = int(name)
        if isinstance(name, bool) or not isinstance(name, int):
            raise self.wrong(line, f"{key} = {name!r}: an image id is a whole number")
        return name

    def _given(self, found: dict[str, Any], line: int) -> Iterator[_Said]:
        """The answers of a plain line: one, or a list with the best first."""
        source = self.source
        answer = found.get(source.answer_column)
        score = None if source.score_column is None else found.get(source.score_column)
        rank = None if source.rank_column is None else found.get(source.rank_column)
        if not isinstance(answer, list):
            yield _Said(self._text(answer, line), self._number(rank, "rank", line), self._number(score, "score", line))
            return
        scores = score if isinstance(score, list) else [score] * len(answer)
        if len(scores) != len(answer) or (score is not None and not isinstance(score, list)):
            raise self.wrong(line, f"{len(answer)} answers in a list need as many scores in a list")
        for place, (text, value) in enumerate(zip(answer, scores, strict=True), start=1):
            yield _Said(self._text(text, line), float(place), self._number(value, "score", line))

    def _text(self, value: Any, line: int) -> str | None:
        if isinstance(value, dict | list):
            raise self.wrong(line, f"{self.source.answer_column} holds {type(value).__name__}; an answer is text")
        return None if value is None else str(value)

    def _number(self, value: Any, what: str, line: int) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
            raise self.wrong(line, f"{what} = {value!r} is no number")
        if what == "score" and value < 0:
            raise self.wrong(line, f"score {value} is negative; scores are probabilities or votes")
        return None if math.isnan(value) else float(value)

    def _from_batch(self, found: dict[str, Any], line: int) -> Iterator[_Said]:
        """The answers of a line of a batch output."""
        try:
            yield from _openai(found) if "response" in found else _anthropic(found["result"])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise self.wrong(line, f"no line of a batch output that is known here ({error!r})") from None


def _openai(found: dict[str, Any]) -> Iterator[_Said]:
    response, error = found["response"], found.get("error")
    status = None if response is None else response["status_code"]
    if error or status != 200:
        said = error or response["body"].get("error") or response["body"]
        yield _failed(f"the request failed (status {status}): {json.dumps(said, ensure_ascii=False)[:300]}")
        return
    choices = response["body"]["choices"]
    for place, choice in enumerate(choices, start=1):
        message = choice["message"]
        if message.get("content") is None:
            refusal = message.get("refusal")
            yield _failed(f"the model refused: {refusal}", Reason.REFUSED) if refusal else _Said()
            continue
        rank = None if len(choices) == 1 else float(place)
        yield _Said(_joined(message["content"]), rank, cut=choice.get("finish_reason") == "length")


def _anthropic(result: dict[str, Any]) -> Iterator[_Said]:
    if result["type"] != "succeeded":
        said = json.dumps(result.get("error"), ensure_ascii=False)[:300]
        yield _failed(f"the request was {result['type']}: {said}")
        return
    message = result["message"]
    if message.get("stop_reason") == "refusal":
        yield _failed("the model refused", Reason.REFUSED)
        return
    yield _Said(_joined(message["content"]), cut=message.get("stop_reason") == "max_tokens")


def _joined(content: Any) -> str:
    """The text of a message: a string, or parts of which some are text."""
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p.get("type") == "text")


def _failed(detail: str, reason: Reason = Reason.ENGINE_ERROR) -> _Said:
    return _Said(failure=f"{reason.value}: {detail}")


def _chunk(keys: list[Any], rows: list[tuple[Any, ...]], *, by_id: bool) -> Chunk:
    columns = list(zip(*rows, strict=True))
    arrays = [pa.array(column, field.type) for column, field in zip(columns, GIVEN, strict=True)]
    return Chunk(pa.array(keys, pa.int64() if by_id else pa.large_string()), pa.table(arrays, schema=GIVEN))
