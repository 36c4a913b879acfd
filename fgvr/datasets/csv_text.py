"""A CSV or TSV file on its way to pyarrow: its header taken off, its encoding made UTF-8, its quotes checked.

In TSV a quote is a letter (IANA's text/tab-separated-values), so that an inch mark opens nothing and a row is a line.
Cells that are in quotes as a whole, as spreadsheets write those with a quote in them, are taken out of them.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from fgvr.datasets.csv_quotes import LONGEST_CELL, REMEDY, Quotes
from fgvr.datasets.rows import SourceError
from fgvr.text_files import encoding_of

BLOCK: Final = LONGEST_CELL
"""Bytes that are read and parsed at once."""


class _Stream(Protocol):
    def read(self, size: int) -> bytes: ...


class CsvText(io.RawIOBase):
    """A file's rows as a stream of UTF-8, checked while they are read.

    Attributes:
        header: names of the columns as written, quotes around them removed; empty for an empty file.
    """

    def __init__(self, stream: _Stream, where: str, *, tabs: bool) -> None:
        """Reads the header.

        Args:
            stream: of the file's bytes.
            where: the file, for messages.
            tabs: TSV, else CSV.

        Raises:
            SourceError: the header cannot be read.
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
        self._lines = 0  # of the header
        self.header, length = self._read_header(first)
        self._unchecked, self._waiting = first[length:], b""
        self._empty = len(start) < BLOCK and not self._unchecked.strip()
        self._quotes: Quotes | None = None

    def batches(self, places: Sequence[int], uri_place: int | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of some columns as text, null for an empty cell; a batch's columns are named by their places.

        Args:
            places: of the columns in the header.
            uri_place: of the column with the images' URIs, if there is one.

        Raises:
            SourceError: a quote that is not closed, or in another place than a cell's ends.
            pa.ArrowInvalid: rows of unequal length, text that is not UTF-8.
        """
        if self._empty:  # pyarrow would take it for an error
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
        # All columns as text: "0123", "1e5" and "TRUE" are names, NA and null are, too, and types guessed from the
        # first block break on the second. An empty cell is none.
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
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`; b"" at the end. Raises SourceError with the line in which a quote opens."""
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
        """The first line that is not empty, and the bytes up to its end."""
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
    """Cells out of quotes that pyarrow leaves alone: all of a TSV, of a CSV those behind a blank (`a.jpg, "mug"`)."""
    pattern = r'^"(?:[^"]|"")*"$' if tabs else r'^[ \t]+"(?:[^"]|"")*"[ \t]*$'
    if not pc.any(pc.match_substring(cells, '"')).as_py():
        return cells
    quoted = pc.match_substring_regex(cells, pattern)
    inside = pc.utf8_slice_codeunits(pc.utf8_trim(cells, characters=" \t"), 1, -1)
    return pc.if_else(quoted, pc.replace_substring(inside, '""', '"'), cells)
