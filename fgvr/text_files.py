"""Text files edited by people: any encoding and line ending that editors write, and CSVs as spreadsheets save them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

# Small text files edited by people: encodings and line endings.

# The longer marks come first: that of UTF-32 begins with that of UTF-16.
_ENCODINGS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile(r"\r\n|\r|\n")


def encoding_of(start: bytes) -> str:
    """The encoding that a file's first bytes indicate: UTF-16 and UTF-32 by their marks, else UTF-8 (mark optional).

    Raises:
        UnicodeDecodeError: UTF-16 or UTF-32 without a mark, recognised by a zero byte beside nearly every letter.
    """
    for mark, encoding in _ENCODINGS:
        if start.startswith(mark):
            return encoding
    zero = start[:4].find(b"\0")
    if zero >= 0:
        raise UnicodeDecodeError("utf-8", start, zero, zero + 1, "it is UTF-16 or no text; save it as UTF-8")
    return "utf-8"


def decoded(data: bytes) -> str:
    """A file's text without the byte-order mark; raises UnicodeDecodeError if it is not text."""
    text = data.decode(encoding_of(data))
    if data and not text and not data.startswith(codecs.BOM_UTF8):  # two or four bytes: only the mark
        raise UnicodeDecodeError("utf-8", data, 0, len(data), "it is UTF-16 without a letter")
    return text


def lines(text: str) -> list[str]:
    """Lines as editors show them; `str.splitlines` would also split at characters such as U+0085 inside a name."""
    found = _LINE_END.split(text)
    return found[:-1] if not found[-1] else found


# CSV files edited by people: the habits of spreadsheets are read, and mistakes are reported with their line.

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # in half of Europe, spreadsheets write semicolons


class EditedCsvError(ValueError):
    """A CSV that cannot be read; the message begins with the file's name and ends with what to do."""


@dataclass(frozen=True)
class CsvRow:
    """The fields of a row by column, and the line of the file on which the row begins."""

    line: int
    fields: dict[str, str]


def read_edited_csv(data: bytes, name: str, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[CsvRow]:
    """The rows of a CSV separated by commas, semicolons or tabs, as in its first line; empty rows are left out.

    Args:
        data: the file's bytes, in an encoding that `fgvr.text_files.decoded` knows.
        name: the file's name, for messages.
        needed: columns that must be present exactly once; other columns are allowed.
        optional: columns that are read if present, at most once.

    Raises:
        EditedCsvError: not text, a column missing or present twice, a quote that is never closed, a row with more
        fields than columns or without the needed ones.
    """
    text = _text(data, name)
    separator = _separator(text, needed)
    # `a, "b"` means the quoted value b: people type a blank after the comma.
    file = io.StringIO(text, newline="")
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
    line = 1
    try:
        columns = [column.strip() for column in next(reader, [])]
        _check_columns(columns, name, needed, optional)
        line = reader.line_num + 1
        for fields in reader:
            if any(field.strip() for field in fields):
                yield CsvRow(line, _by_column(fields, columns, needed, f"{name}, line {line}", _SEPARATORS[separator]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise EditedCsvError(
            f"{name}, line {line}: {error}; a quote that opens there is never closed, or text follows one that is"
            ' (a name with a quote in it is written "5"" nail")'
        ) from None


def plain_csv(data: bytes, needed: Sequence[str]) -> bytes:
    """A CSV as it was before a spreadsheet saved it: UTF-8 without a mark, lines that end in LF, commas. For digests.

    A file without such traces stays as it is, byte by byte, and so does one that cannot be read.

    Args:
        data: the file's bytes.
        needed: columns by which the separator is found, as in `read_edited_csv`.
    """
    if b"\r" not in data and not data.startswith(tuple(mark for mark, _ in _ENCODINGS)):
        return data
    try:
        text = decoded(data)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text, needed), strict=True))
    except (UnicodeDecodeError, csv.Error):
        return data
    plain = io.StringIO(newline="")
    csv.writer(plain, lineterminator="\n").writerows(rows)
    return plain.getvalue().encode()


def _separator(text: str, needed: Sequence[str]) -> str:
    """The separator with which the first line names most of the needed columns."""
    first = re.split(r"[\r\n]", text, maxsplit=1)[0]
    return max(_SEPARATORS, key=lambda mark: (len(set(needed) & set(_columns(first, mark))), mark == ","))


def _text(data: bytes, name: str) -> str:
    try:
        return decoded(data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EditedCsvError(f'{name}, line {line}: not UTF-8 text ({error.reason}): save it as "CSV UTF-8"') from None


def _columns(header: str, separator: str) -> list[str]:
    return [column.strip(' \r"') for column in header.split(separator)]


def _check_columns(columns: Sequence[str], name: str, needed: Sequence[str], optional: Sequence[str]) -> None:
    missing = [column for column in needed if column not in columns]
    if missing:
        lower = {column.lower(): column for column in columns}
        near = [lower[found[0]] for column in missing if (found := get_close_matches(column, lower, 1, 0.75))]
        meant = f"; write {' and '.join(missing)} for {' and '.join(near)}" if len(near) == len(missing) else ""
        wanted = f"{'columns' if len(needed) > 1 else 'column'} {' and '.join(needed)}"
        there = ", ".join(map(repr, columns)) or "nothing"
        raise EditedCsvError(f"{name} needs {wanted}, has {there}{meant}")
    twice = [column for column in (*needed, *optional) if columns.count(column) > 1]
    if twice:
        raise EditedCsvError(f"{name} has the column {twice[0]} twice: remove one of them")


def _by_column(
    fields: Sequence[str], columns: Sequence[str], needed: Sequence[str], place: str, separators: str
) -> dict[str, str]:
    if any(field.strip() for field in fields[len(columns) :]):
        raise EditedCsvError(
            f"{place}: {len(fields)} fields, but {len(columns)} columns; put quotes around text with {separators} in it"
        )
    row = dict(zip(columns, fields, strict=False))
    absent = [column for column in needed if column not in row]
    if absent:
        raise EditedCsvError(f"{place}: there is no {absent[0]}")
    return row
