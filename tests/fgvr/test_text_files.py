import pytest

from fgvr.text_files import decoded, lines


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
