import pytest

from fgvr.text_files import decoded, lines, plain_csv


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


TYPED = 'answer,label,count\nKüken,chick,3\n"gull, grey",gull,\n\n"5"" nail",,1\n'
ALIASES = ("answer", "label")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_a_spreadsheet_saved_says_the_same(encoding, separator):
    saved = TYPED.replace("\n", "\r\n").replace("gull, grey", "gull@ grey").replace(",", separator)
    saved = saved.replace('"gull@ grey"', '"gull, grey"' if separator == "," else "gull, grey")
    assert plain_csv(saved.encode(encoding), ALIASES) == TYPED.encode()


def test_files_without_such_traces_stay_as_they_are():
    for data in (TYPED, TYPED.rstrip(), TYPED.replace(",", ";"), 'answer,label\n"a",  "b"\n', "", '"never closed'):
        assert plain_csv(data.encode(), ALIASES) == data.encode()
    for unreadable in (b"caf\xe9\r\n", b"\xff\xfe", b'answer,label\r\n"never closed'):
        assert plain_csv(unreadable, ALIASES) == unreadable
