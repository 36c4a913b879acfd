"""Quotes in CSV: what is read, what is an error and in which line; against Python's csv module where it is strict."""

import csv
import io
import random

import pytest

from fgvr.sources.csv_text import LONGEST_CELL, CsvText, Quotes
from fgvr.sources.rows import SourceError


def read(text: str, *, tabs: bool = False) -> list[list[str | None]]:
    source = CsvText(io.BytesIO(text.encode()), "list", tabs=tabs)
    columns = [[], [], []][: len(source.header)]
    for batch in source.batches(range(len(source.header)), uri_place=0):
        for column, cells in zip(columns, batch.columns, strict=True):
            column.extend(cells.to_pylist())
    return [list(row) for row in zip(*columns, strict=True)]


def checked(text: bytes, sizes: list[int]) -> None:
    quotes = Quotes("list", delimiter=b",", columns=2, lines=1)
    start = 0
    for size in sizes:
        quotes.check(text[start : start + size])
        start += size
    quotes.check(text[start:])
    quotes.check(b"", last=True)


@pytest.mark.parametrize(
    ("rows", "first", "second"),
    [
        ('k.jpg,19" rack\nl.jpg,5""\n', '19" rack', '5""'),
        ('k.jpg,"19"" rack"\nl.jpg,""""\n', '19" rack', '"'),
        ('k.jpg,"two\nlines"\nl.jpg,"a,b"\n', "two\nlines", "a,b"),
        ('k.jpg, "cup"\nl.jpg,\t"say ""x"""\n', "cup", 'say "x"'),
        ('k.jpg,"cup" \r\nl.jpg,""\r\n', "cup ", None),
        ('k.jpg,"list:\na, b\nc, d"\nl.jpg,x\n', "list:\na, b\nc, d", "x"),
    ],
)
def test_quotes_that_are_in_order(rows, first, second):
    assert read("uri,class_name\n" + rows) == [["k.jpg", first], ["l.jpg", second]]


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        ('k.jpg,mug\nl.jpg,"19 inch\nm.jpg,cup\n', 3, "nothing closes"),
        ('k.jpg,"19 inch\nl.jpg,"cup"\n', 2, "text follows the one that closes it in line 3"),
        ('k.jpg,"19 inch\nl.jpg,cup\nm.jpg,a 5"\nn.jpg,x\n', 2, "closed in line 4 only, and line 3 inside it is a row"),
        ('k.jpg,mug\n\nl.jpg,"a\nb"\nm.jpg,"cup"s\n', 6, "text follows"),
        ('k.jpg,"19\\" rack"\n', 2, "text follows"),
        ('k.jpg,5" pipe\nl.jpg,"19 inch\n', 3, "nothing closes"),
        ('k.jpg,"' + "x" * 3 * LONGEST_CELL + '"\n', 2, "nothing closes within a mebibyte"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_line_in_which_a_wrong_quote_opens(rows, line, message, end):
    with pytest.raises(SourceError, match=rf"^list, line {line}: .*{message}"):
        read(f"uri,class_name\n{rows}".replace("\n", end))


def test_far_into_a_large_file():
    rows = [f'{number:07d}.jpg,"Tea, cup {number % 7}"\n' for number in range(200_000)]
    assert len(read("uri,class_name\n" + "".join(rows))) == 200_000
    rows[150_001] = '0150001.jpg,"19 inch\n'
    with pytest.raises(SourceError, match=r"line 150003: .*text follows the one that closes it in line 150004"):
        read("uri,class_name\n" + "".join(rows))


def test_wherever_a_block_ends_the_verdict_is_that_of_a_strict_reader():
    """Random texts of quotes, commas, letters and line ends, in blocks of random sizes.

    Python's strict reader differs in blanks behind a closing quote only, which these texts have not.
    """
    random_ = random.Random(0)
    refused = 0
    for _ in range(2_000):
        text = "".join(random_.choices(['"', ",", "x", "\n", '""', '"x",', '",\n"'], k=random_.randrange(1, 14)))
        try:
            list(csv.reader(io.StringIO(text, newline=""), strict=True))
            expected = True
        except csv.Error:
            expected = False
        refused += not expected
        for _ in range(3):
            try:
                checked(text.encode(), [random_.randrange(1, 5) for _ in range(6)])
                found = True
            except SourceError:
                found = False
            assert found == expected, text
    assert 250 < refused < 1_750


def test_quotes_are_letters_in_tsv():
    rows = 'uri\t"class_name"\nk.jpg\t"19 inch\nl.jpg\t5" pipe\nm.jpg\t"the ""big"" one"\nn.jpg\t"a" b "c"\n'
    assert read(rows, tabs=True) == [
        ["k.jpg", '"19 inch'],
        ["l.jpg", '5" pipe'],
        ["m.jpg", 'the "big" one'],  # as spreadsheets write a cell with quotes in it
        ["n.jpg", '"a" b "c"'],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('uri,"class_name\na,b\n', "line 1: the header cannot be read"),
        ("uri,cl\udce4ss\n", "header is not UTF-8"),
    ],
)
def test_headers_that_cannot_be_read(text, message):
    with pytest.raises(SourceError, match=message):
        CsvText(io.BytesIO(text.encode(errors="surrogateescape")), "list", tabs=False)
