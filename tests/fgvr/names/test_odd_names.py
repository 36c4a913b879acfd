"""What is said of a label space at a glance."""

import pytest

from fgvr.names.label_space import LabelSpace
from fgvr.names.odd_names import odd_remarks, often


def space(**counts: int) -> LabelSpace:
    return LabelSpace(tuple(sorted(counts)), tuple(counts[name] for name in sorted(counts)))


def test_the_most_frequent_names_come_first_and_equal_ones_by_name() -> None:
    assert often(space(Wren=3, Auk=3, Gull=1_200)) == "3 names: Gull (1,200), Auk (3), Wren (3)"
    many = LabelSpace(tuple(f"n{n:02d}" for n in range(12)), tuple(range(1, 13)))
    assert often(many).startswith("the most frequent of 12 names: n11 (12), n10 (11)")
    assert often(many).endswith("n02 (3)")
    assert often(LabelSpace((), ())) == "no names"


def test_names_on_one_photo_each_are_said_where_they_are_most_of_many() -> None:
    assert odd_remarks(LabelSpace(tuple("abcdefghij"), (1,) * 5 + (2,) * 5)) == ()
    (said,) = odd_remarks(LabelSpace(tuple("abcdefghij"), (1,) * 6 + (2,) * 4))
    assert said.startswith("6 of 10 names occur once")
    assert odd_remarks(LabelSpace(tuple("abc"), (1, 1, 1))) == ()


@pytest.mark.parametrize("name", ["BeardedBeardedBeardedYes", "Slate Slate Heron", "Bearded bearded Finch"])
def test_a_repeated_word_is_odd(name: str) -> None:
    (said,) = odd_remarks(LabelSpace((name,), (9,)))
    assert said.startswith(f"1 of 1 names repeat a word, as a model does that is lost: {name!r}")


@pytest.mark.parametrize("name", ["Bobolink", "Aye-aye", "Tutu", "Beriberi", "Blue Tit, Blue", "", "Ylang-ylang"])
def test_usual_names_are_not(name: str) -> None:
    assert odd_remarks(LabelSpace((name,), (9,))) == ()
