import pyarrow as pa
import pytest

from fgvr.names.spelling import fold_name, is_odd, one_form, one_form_each


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Tea Cup", "Tea Cup"),
        ("\ufeffTea Cup\r\n", "Tea Cup"),
        ("\u00a0Tea\u00a0 \tCup\u2009", "Tea Cup"),
        ("Tea\u2028Cup", "Tea Cup"),
        ("Tea\u00ad Cup\u200b\u2060", "Tea Cup"),
        ("\u200eTea Cup\u200f", "Tea Cup"),
        ("\u200d Tea Cup \u200c", "Tea Cup"),
        ("Mu\u0308sli", "Müsli"),  # as macOS writes it
        ("\u1112\u1161\u11ab", "한"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # a joiner is a letter of Persian
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
        ("C#", "C#"),
        ("5\u2033 pipe", "5\u2033 pipe"),
        (" \u3000\ufeff\u200b ", ""),
        ("\u3164", ""),  # a letter that is empty
        ("\ufffeTea\u034f Cup\ufffb", "Tea Cup"),
    ],
)
def test_one_form(written, name):
    assert one_form(written) == name
    assert one_form(name) == name


def test_a_column_keeps_its_rows():
    column = pa.chunked_array([["mug ", None, "cup"], [], ["\ufeffmug", "", "  "]], pa.string())
    assert one_form_each(column).to_pylist() == ["mug", None, "cup", "mug", None, None]
    assert one_form_each(pa.chunked_array([], pa.string())).to_pylist() == []


def test_names_that_are_rather_texts():
    assert is_odd("mug\np7.jpg")
    assert is_odd("x" * 121)
    assert not is_odd("x" * 120)
    assert not is_odd("mug\r\n")  # a line end behind a name


def test_marks_do_not_tell_names_apart_when_they_are_compared():
    assert fold_name("\ufeffTea\u00adCup") == fold_name("teacup")
