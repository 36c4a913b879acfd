"""Filters on scores written by hand."""

import numpy as np
import pytest

from fgvr.augment.filters import UNRANKED, Rejection, basic_wins, is_blank, judged, most_rank, ranks
from fgvr.augment.pictures import made_of

NAN = np.nan


def test_the_basic_prompt_must_be_nearer_than_all_six() -> None:
    negatives = np.array([[0.1, 0.2, 0.3, 0.1, 0.2, 0.1]] * 4, np.float32)
    basic = np.array([0.31, 0.30, 0.29, NAN], np.float32)  # wins, ties, loses to one, unknown
    assert basic_wins(basic, negatives).tolist() == [True, False, False, False]
    negatives[0, 5] = NAN  # a negative prompt of which nothing is known is not beaten
    assert not basic_wins(basic, negatives)[0]
    assert basic_wins(basic[:3], np.zeros((3, 0), np.float32)).all()


def test_ranks_count_ties_against_the_name() -> None:
    scores = np.array([[0.5, 0.2, 0.2, 0.1]] * 5, np.float32)
    assert ranks(scores, np.array([0, 1, 2, 3, -1])).tolist() == [1, 3, 3, 4, UNRANKED]
    alike = np.full((1, 4), 0.25, np.float32)
    assert ranks(alike, np.array([2])).tolist() == [4]  # a classifier that knows nothing
    assert ranks(np.array([[NAN, 0.5, 0.5]], np.float32), np.array([0])).tolist() == [3]
    assert ranks(np.array([[0.9, NAN, 0.1]], np.float32), np.array([0])).tolist() == [2]
    assert ranks(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)).tolist() == []
    assert ranks(np.zeros((2, 0), np.float32), np.array([-1, -1])).tolist() == [UNRANKED, UNRANKED]
    assert ranks(np.ones((1, 1), np.float32), np.array([0])).tolist() == [1]  # the only name


def test_the_worst_rank_that_passes() -> None:
    assert [most_rank(10, names) for names in (1, 9, 10, 11, 200)] == [1, 9, 10, 10, 10]


def test_verdicts_in_their_order() -> None:
    wins = np.array([True, True, True, False, True])
    found = np.array([1, 10, 11, 1, UNRANKED], np.int32)
    kept, edge, far, other, unknown = judged(wins, found, 200, 10)
    assert (kept, edge, far) == (None, None, Rejection.NOT_THE_NAME)
    assert (other, unknown) == (Rejection.NOT_THE_KIND, Rejection.UNRANKED)
    assert judged(wins, found, 200, None) == [None, None, None, Rejection.NOT_THE_KIND, None]
    # Of eight names the tenth place is the last: nobody is rejected for it.
    assert judged(np.array([True, True]), np.array([8, 1], np.int32), 8, 10) == [None, None]
    assert judged(np.array([True, True]), np.array([8, 1], np.int32), 8, 3) == [Rejection.NOT_THE_NAME, None]


def test_pictures_that_show_nothing() -> None:
    black, noise = np.zeros((4, 4, 3)), np.random.default_rng(0).random((4, 4, 3))
    assert made_of(black).rejection is Rejection.BLANK
    assert made_of(np.full((4, 4, 3), 0.5)).rejection is Rejection.BLANK
    assert made_of(noise).rejection is None
    assert made_of(noise, unsafe=True).rejection is Rejection.UNSAFE
    assert made_of(black, unsafe=True).rejection is Rejection.UNSAFE  # which is why it is black
    for bad in (NAN, np.inf, -np.inf):
        broken = noise.copy()
        broken[1, 2, 0] = bad
        assert made_of(broken) == made_of(broken, unsafe=True)
        assert (made_of(broken).pixels, made_of(broken).rejection) == (None, Rejection.NOT_FINITE)
    pixels = made_of(np.array([[[-0.5, 0.5, 1.5]]])).pixels
    assert pixels is not None
    assert pixels.tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize(("level", "blank"), [(7, True), (8, False)])
def test_a_picture_with_a_hint_of_something_is_not_blank(level: int, blank: bool) -> None:
    pixels = np.full((8, 8, 3), 100, np.uint8)
    pixels[3, 3, 1] = 100 + level
    assert is_blank(pixels) is blank
    assert is_blank(np.zeros((1, 1, 3), np.uint8))
