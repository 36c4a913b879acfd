import pytest

from fgvr.text_files import CsvError, decoded, lines, read_csv


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_of_any_editor(encoding):
    assert decoded("Küken\r\n翠鳥".encode(encoding)) == "Küken\r\n翠鳥"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", "unexpected end of data"),
        ("mug".encode("utf-16-be"), "it is UTF-16"),
        ("mug".encode("utf-16-le"), "it is UTF-16"),
        (b"\xff\xfe", "without a letter"),
    ],
)
def test_bytes_that_are_no_text(data, reason):
    with pytest.raises(UnicodeDecodeError, match=reason):
        decoded(data)


def test_lines_end_where_editors_end_them():
    assert lines("a\r\nb\rc\n\nd\x85e\u2028f\n") == ["a", "b", "c", "", "d\x85e\u2028f"]
    assert lines("") == []


def test_rows_of_a_csv_with_their_lines():
    header, rows = read_csv('answer , label\n\n"gull, ""herring""","two\nlines"\ntern\nx,y,\n')
    assert header == ["answer", "label"]
    assert rows == [
        (3, {"answer": 'gull, "herring"', "label": "two\nlines"}),
        (5, {"answer": "tern", "label": ""}),
        (6, {"answer": "x", "label": "y"}),
    ]
    assert read_csv("\n") == ([], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n1,2\n3,"19 inch\n4,5\n', "^line 3: a quote opens there that nothing closes"),
        ('a,b\n1,"2"3\n', "^line 2: text follows the quote that closes"),
        ("a,b\n1,2\ngull, herring,3\n", "^line 3: 3 cells for 2 columns"),
        ("a,b, a\n", "^line 1: there are two columns a$"),
        ('a\n"' + "x\n" * 100_000, "^line 2: a quote opens there"),
    ],
)
def test_csv_that_could_only_be_guessed(text, message):
    with pytest.raises(CsvError, match=message):
        read_csv(text)
