"""Checks the quotes of a CSV block by block: an unclosed cell, or one that has swallowed rows, is an error.

When a quote is never closed, pyarrow takes the rest of the file for one cell, and it reads on when a quote closes in
the middle of a cell: rows disappear silently. Here each quote must open at a cell's beginning and close at its end; in
the middle of an unquoted cell it is an ordinary character (`5" pipe`). Blocks whose quotes are all regular are checked
by NumPy, the others quote by quote; never row by row.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from fgvr.sources.rows import SourceError
from fgvr.text_files import encoding_of

LONGEST_CELL: Final = 2**20
"""Limit for the bytes of a quoted cell."""
REMEDY: Final = "a quote inside a cell in quotes is written twice"

_QUOTE, _LF, _CR = b'"\n\r'
# What a row's image column looks like; if a line inside a cell looks like that, the cell has swallowed rows.
_URI: Final = re.compile(
    rb'\.(?:jpe?g|jfif|png|webp|bmp|gif|tiff?|avif|hei[cf]|jp2)"?\s*$|^\s*"?[a-z][a-z0-9+]*://', re.IGNORECASE
)

BLOCK: Final = LONGEST_CELL
"""Bytes that are read and parsed per step."""


class Quotes:
    """Checks the blocks of a CSV in order."""

    def __init__(self, where: str, *, delimiter: bytes, columns: int, lines: int, uri_place: int | None = None) -> None:
        """A checker for what follows the header.

        Args:
            where: the file, for messages.
            delimiter: the delimiter of its cells.
            columns: number of columns.
            lines: number of line ends before the first block.
            uri_place: position of the column of image URIs, by which swallowed rows are recognised.
        """
        self._where, self._delimiter, self._columns, self._uri_place = where, delimiter, columns, uri_place
        self._lines = lines  # number of line ends before the bytes that are checked next
        self._before = _LF  # the byte before these
        self._open = b""  # an unfinished quoted cell, continued in the next block

    def check(self, block: bytes, *, last: bool = False) -> None:
        """Raise SourceError, naming the line of an opening quote that is not closed properly.

        Args:
            block: the bytes that follow the previous block.
            last: whether this is the last block.
        """
        data = self._open + block
        quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == _QUOTE)
        if not len(quotes):
            self._passed(data, len(data))
            return
        cells, still_open = self._in_order(data, quotes, last) or self._one_by_one(data, quotes.tolist(), last)
        for start, end in cells:
            self._look_inside(data, start, end)
        if still_open is not None and (last or len(data) - still_open > LONGEST_CELL):
            within = "" if last else " within a mebibyte"
            raise SourceError(
                f"{self._where}, line {self._line(data, still_open)}: a quote opens a cell there that nothing closes"
                f"{within}; take it off if it is an inch mark or the like: {REMEDY}"
            )
        self._passed(data, len(data) if still_open is None else still_open)

    def _passed(self, data: bytes, length: int) -> None:
        """Keep what follows the first `length` bytes for the next block."""
        if length:
            self._lines += _line_ends(data, length)
            self._before = data[length - 1]
        self._open = data[length:]

    def _in_order(
        self, data: bytes, quotes: npt.NDArray[np.intp], last: bool
    ) -> tuple[list[tuple[int, int]], int | None] | None:
        """(cells that span lines, start of an unfinished cell) if quotes alternately open and close cells; else None.

        Two adjacent quotes inside a cell, which stand for one character, count as closing and opening it.
        """
        text = np.frombuffer(data, np.uint8)
        opens, closes = quotes[0::2], quotes[1::2]
        before = text[opens - 1]
        if opens[0] == 0:
            if self._before == _QUOTE:  # an escaped quote
                return None
            before[0] = self._before
        begins = self._ends_cell(before)
        if not np.all(begins | (before == _QUOTE)):
            return None
        at_end = len(closes) > 0 and closes[-1] == len(data) - 1  # it may be the first of an escaped pair
        after = text[closes[:-1] + 1] if at_end else text[closes + 1]
        finished = self._ends_cell(after)
        if not np.all(finished | (after == _QUOTE)):
            return None
        if at_end:
            finished = np.append(finished, last)
        starts, ends = opens[begins], closes[finished]
        still_open = int(starts[-1]) if len(starts) > len(ends) else None
        starts = starts[: len(ends)]
        line_ends = np.flatnonzero((text == _LF) | (text == _CR))
        over_lines = np.searchsorted(line_ends, starts) < np.searchsorted(line_ends, ends)
        return list(zip(starts[over_lines].tolist(), ends[over_lines].tolist(), strict=True)), still_open

    def _ends_cell(self, bytes_: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        return np.isin(bytes_, (self._delimiter[0], _LF, _CR))

    def _one_by_one(self, data: bytes, quotes: list[int], last: bool) -> tuple[list[tuple[int, int]], int | None]:
        """The same result for blocks in which quotes are ordinary characters, or blanks follow a closing quote."""
        outside = {self._delimiter[0], _LF, _CR}
        cells: list[tuple[int, int]] = []
        opened: int | None = None
        skipped = -1
        for place in quotes:
            if place == skipped:
                continue
            if opened is None:
                if (data[place - 1] if place else self._before) in outside:
                    opened = place
                continue
            if data[place + 1 : place + 2] == b'"':
                skipped = place + 1
                continue
            behind = place + 1
            while data[behind : behind + 1] in {b" ", b"\t"}:
                behind += 1
            if behind == len(data) and not last:
                return cells, opened
            if behind < len(data) and data[behind] not in outside:
                raise SourceError(
                    f"{self._where}, line {self._line(data, opened)}: a quote opens a cell there, and text follows the "
                    f"one that closes it in line {self._line(data, place)}: one that is not closed, or an inch mark? "
                    f"{REMEDY}"
                )
            if _line_ends(data[opened:place], place - opened):
                cells.append((opened, place))
            opened = None
        return cells, opened

    def _look_inside(self, data: bytes, start: int, end: int) -> None:
        """Raise SourceError if a line inside a cell looks like a row."""
        if self._uri_place is None:
            return
        inside = data[start + 1 : end].splitlines()
        for number, line in enumerate(inside[1:], start=1):
            cells = line.split(self._delimiter)
            if len(cells) != self._columns and (number < len(inside) - 1 or len(cells) < 2):
                continue
            if self._uri_place < len(cells) and _URI.search(cells[self._uri_place]):
                opened = self._line(data, start)
                raise SourceError(
                    f"{self._where}, line {opened}: a quote opens a cell there that is closed in line "
                    f"{self._line(data, end)} only, and line {opened + number} inside it is a row: close it, or take "
                    f"it off if it is an inch mark or the like; {REMEDY}"
                )

    def _line(self, data: bytes, place: int) -> int:
        return self._lines + _line_ends(data, place) + 1


def _line_ends(data: bytes, length: int) -> int:
    """Number of line ends in the first bytes: line feeds, or carriage returns if there are none (old Macs)."""
    return data.count(b"\n", 0, length) or data.count(b"\r", 0, length)


# Preparing a CSV or TSV file for pyarrow: its header is removed, its encoding becomes UTF-8, its quotes are checked.
#
# In TSV a quote is an ordinary character (IANA's text/tab-separated-values), so an inch mark opens nothing and a row is
# one line. Only cells quoted as a whole, as spreadsheets write cells that contain a quote, are unquoted.


class _Stream(Protocol):
    def read(self, size: int) -> bytes: ...


class CsvText(io.RawIOBase):
    """A file's rows as a stream of UTF-8, checked while they are read.

    Attributes:
        header: column names as written, but unquoted; empty for an empty file.
    """

    def __init__(self, stream: _Stream, where: str, *, tabs: bool) -> None:
        """Reads the header.

        Args:
            stream: stream of the file's bytes.
            where: the file, for messages.
            tabs: True for TSV, False for CSV.

        Raises:
            SourceError: the header is invalid.
        """
        super().__init__()
        self._stream, self._where, self._tabs = stream, where, tabs
        start = b""
        while len(start) < BLOCK and (more := stream.read(BLOCK - len(start))):
            start += more
        try:
            encoding = encoding_of(start)
        except UnicodeDecodeError as error:
            raise SourceError(f"{where}: {error.reason}") from None
        self._decoder = None if encoding.startswith("utf-8") else codecs.getincrementaldecoder(encoding)()
        first = self._utf8(start).removeprefix(codecs.BOM_UTF8)
        self._lines = 0  # lines of the header
        self.header, length = self._read_header(first)
        self._unchecked, self._waiting = first[length:], b""
        self._empty = len(start) < BLOCK and not self._unchecked.strip()
        self._quotes: Quotes | None = None

    def batches(self, places: Sequence[int], uri_place: int | None = None) -> Iterator[pa.RecordBatch]:
        """The rows as text, null for an empty cell; only the chosen columns, named by their positions.

        Args:
            places: positions of the columns in the header.
            uri_place: position of the column of image URIs, if any.

        Raises:
            SourceError: a quote that is not closed, or closed elsewhere than at a cell's end.
            pa.ArrowInvalid: rows of unequal length, or text that is not UTF-8.
        """
        if self._empty:  # pyarrow would raise on an empty file
            return
        if not self._tabs:
            self._quotes = Quotes(
                self._where, delimiter=b",", columns=len(self.header), lines=self._lines, uri_place=uri_place
            )
        names = [str(place) for place in range(len(self.header))]
        read = pacsv.ReadOptions(column_names=names, block_size=BLOCK)
        parse = pacsv.ParseOptions(
            delimiter="\t" if self._tabs else ",",
            quote_char=False if self._tabs else '"',
            newlines_in_values=not self._tabs,
        )
        # All columns are read as text: "0123", "1e5" and "TRUE" are names, and so are NA and null; types inferred from
        # the first block could fail on the second. Only an empty cell is null.
        convert = pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            include_columns=[str(place) for place in places],
        )
        rows = pa.PythonFile(self, mode="r")
        for batch in pacsv.open_csv(rows, read_options=read, parse_options=parse, convert_options=convert):
            cells = [_unquoted(column, tabs=self._tabs) for column in batch.columns]
            yield pa.RecordBatch.from_arrays(cells, names=batch.schema.names)

    def readable(self) -> bool:
        """Always True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`; b"" at the end. Raises SourceError, naming the line of a bad quote."""
        ended = False
        while not (self._waiting or ended):
            if self._unchecked:
                self._waiting, self._unchecked = self._unchecked, b""
            else:
                block = self._stream.read(BLOCK)
                self._waiting, ended = self._utf8(block), not block
            if self._quotes is not None:
                self._quotes.check(self._waiting, last=ended)
        head = self._waiting if size < 0 else self._waiting[:size]
        self._waiting = self._waiting[len(head) :]
        return head

    def _utf8(self, block: bytes) -> bytes:
        if self._decoder is None:
            return block
        try:
            return self._decoder.decode(block, final=not block).encode()
        except UnicodeError as error:
            raise SourceError(f"{self._where}: {error}; save it as UTF-8") from None

    def _read_header(self, first: bytes) -> tuple[list[str], int]:
        """The cells of the first non-empty line, and the number of bytes up to its end."""
        length = 0

        def lines() -> Iterator[str]:
            nonlocal length
            for line in io.StringIO(first.decode(errors="surrogateescape"), newline=""):
                length += len(line.encode(errors="surrogateescape"))
                self._lines += 1
                yield line

        names: list[str] = []
        try:
            if self._tabs:
                row = next((line.rstrip("\r\n") for line in lines() if line.strip()), "")
                names = [str(name) for name in _unquoted(pa.array(row.split("\t")), tabs=True)] if row else []
            else:
                names = next((row for row in csv.reader(lines(), strict=True) if row), [])
            "".join(names).encode()
        except csv.Error as error:
            raise SourceError(f"{self._where}, line 1: the header cannot be read: {error}; {REMEDY}") from None
        except UnicodeEncodeError:
            raise SourceError(f"{self._where}: the header is not UTF-8 text; save the file as UTF-8") from None
        return names, length


def _unquoted(cells: pa.Array, *, tabs: bool) -> pa.Array:
    """Removes quotes that pyarrow keeps: all of a TSV, and in a CSV those after a blank (`a.jpg, "mug"`)."""
    pattern = r'^"(?:[^"]|"")*"$' if tabs else r'^[ \t]+"(?:[^"]|"")*"[ \t]*$'
    if not pc.any(pc.match_substring(cells, '"')).as_py():
        return cells
    quoted = pc.match_substring_regex(cells, pattern)
    inside = pc.utf8_slice_codeunits(pc.utf8_trim(cells, characters=" \t"), 1, -1)
    return pc.if_else(quoted, pc.replace_substring(inside, '""', '"'), cells)
