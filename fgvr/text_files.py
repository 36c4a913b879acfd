"""Small text files that people write: any encoding and line ends that editors choose, and CSV without guesses."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from typing import Any, Final

from fgvr.class_names import one_form

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_ENCODINGS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile(r"\r\n|\r|\n")


class CsvError(ValueError):
    """CSV text that cannot be read without guessing; the message names the line."""


def encoding_of(start: bytes) -> str:
    """The encoding that a file's first bytes say: UTF-16 and UTF-32 by their marks, else UTF-8, with a mark or without.

    Raises:
        UnicodeDecodeError: UTF-16 or UTF-32 without a mark, which has a zero byte beside nearly every letter.
    """
    for mark, encoding in _ENCODINGS:
        if start.startswith(mark):
            return encoding
    zero = start[:4].find(b"\0")
    if zero >= 0:
        raise UnicodeDecodeError("utf-8", start, zero, zero + 1, "it is UTF-16 or no text; save it as UTF-8")
    return "utf-8"


def decoded(data: bytes) -> str:
    """A file's text, without a byte-order mark; raises UnicodeDecodeError where it is none."""
    text = data.decode(encoding_of(data))
    if data and not text and not data.startswith(codecs.BOM_UTF8):  # two or four bytes, the mark alone
        raise UnicodeDecodeError("utf-8", data, 0, len(data), "it is UTF-16 without a letter")
    return text


def lines(text: str) -> list[str]:
    """Lines as editors show them: a name may hold what `str.splitlines` takes for the end of one, such as U+0085."""
    found = _LINE_END.split(text)
    return found[:-1] if not found[-1] else found


def read_csv(text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The names of a CSV's columns, without blanks around them, and (line, column → cell) of its rows.

    A row that is too short has "" in the columns that it lacks; empty lines are no rows.

    Raises:
        CsvError: a quote that is not closed, text behind one that is, a row longer than the header, a column twice.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records = list(_records(reader))
    if not records:
        return [], []
    first, names = records[0]
    header = [one_form(name) for name in names]
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise CsvError(f"line {first}: there are two columns {twice}")
    rows = []
    for line, row in records[1:]:
        if any(row[len(header) :]):
            fact = f"{len(row)} cells for {len(header)} columns"
            raise CsvError(f"line {line}: {fact}; a cell with a comma in it stands in quotes")
        rows.append((line, {name: row[place] if place < len(row) else "" for place, name in enumerate(header)}))
    return header, rows


def _records(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of every record that is not an empty line."""
    while True:
        first = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            closed = "expected after" in str(error)
            fact = "text follows the quote that closes a cell" if closed else "a quote opens there that nothing closes"
            raise CsvError(f"line {first}: {fact}; a quote inside quotes is written twice") from None
        if row is None:
            return
        if row:
            yield first, row
