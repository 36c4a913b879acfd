"""Names of two runs: matched by URI in streams of any portions, moves counted, and the exact test of two counts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import binom

from fgvr.evaluation.differences import Named, NotSorted, name_changes, paired_score


def portions(photos: dict[str, str], sizes: random.Random) -> Iterator[Named]:
    """Photos in the order of their URIs, in portions of 0 to 4."""
    uris = sorted(photos)
    while uris:
        count = sizes.randint(0, 4)
        yield uris[:count], [photos[uri] for uri in uris[:count]]
        uris = uris[count:]


@pytest.mark.parametrize("seed", range(20))
def test_any_portions_give_what_dictionaries_give(seed: int) -> None:
    draw = random.Random(seed)
    first = {f"photos/{draw.randint(0, 99):03}ä.jpg": draw.choice("abc") for _ in range(draw.randint(0, 60))}
    second = {f"photos/{draw.randint(0, 99):03}ä.jpg": draw.choice("abcd") for _ in range(draw.randint(0, 60))}
    changes = name_changes(portions(first, draw), portions(second, draw))
    both = first.keys() & second.keys()
    assert changes.pairs == Counter((first[uri], second[uri]) for uri in both)
    assert changes.photos == len(both)
    assert changes.only_first == len(first.keys() - second.keys())
    assert changes.only_second == len(second.keys() - first.keys())
    assert changes.changed == sum(first[uri] != second[uri] for uri in both)


def test_moves_renames_and_counts_by_name() -> None:
    first = {f"{n:02}": "Wren" for n in range(10)} | {f"{n:02}": "Finch" for n in range(10, 14)} | {"20": "Gull"}
    second = {f"{n:02}": "Winter Wren" for n in range(9)} | {"09": ""} | {f"{n:02}": "Finch" for n in range(10, 14)}
    second |= {"20": "Finch"}
    changes = name_changes([(list(first), list(first.values()))], [(list(second), list(second.values()))])
    assert changes.moves() == [("Wren", "Winter Wren", 9), ("Gull", "Finch", 1), ("Wren", "", 1)]
    assert changes.renamed() == [("Wren", "Winter Wren", 9)]  # Finch is no new name, and Gull's photo got it
    names = {each.name: (each.before, each.after, each.kept) for each in changes.names()}
    assert names == {"Wren": (10, 0, 0), "Winter Wren": (0, 9, 0), "Finch": (4, 5, 4), "Gull": (1, 0, 0)}
    assert changes.names()[0].name == "Wren"


def test_streams_out_of_order_are_refused() -> None:
    with pytest.raises(NotSorted):
        name_changes([(["b", "a"], ["x", "y"])], [(["a"], ["x"])])
    with pytest.raises(NotSorted):
        name_changes([(["b"], ["x"]), (["b"], ["x"])], [(["c"], ["x"])])


def test_the_paired_test_is_the_binomial_tail_worked_by_hand() -> None:
    first = np.array([True] * 5 + [False] * 6 + [True] * 1)
    second = np.array([True] * 5 + [True] * 6 + [False] * 1)
    score = paired_score(first, second)
    assert score is not None
    assert (score.photos, score.only_first, score.only_second) == (12, 1, 6)
    assert score.first == 50
    assert score.second == pytest.approx(100 * 11 / 12)
    assert score.p == pytest.approx(2 * binom.cdf(1, 7, 0.5))  # 2 · (1 + 7) / 128
    assert score.p == pytest.approx(0.125)
    assert score.low is not None
    assert score.high is not None
    assert score.low < 100 * 5 / 12 < score.high


def test_nothing_to_compare() -> None:
    assert paired_score(np.zeros(0, bool), np.zeros(0, bool)) is None
    same = paired_score(np.array([True]), np.array([True]))
    assert same is not None
    assert (same.p, same.low) == (1.0, None)
    with pytest.raises(ValueError, match="1 and 2 photos"):
        paired_score(np.zeros(1, bool), np.zeros(2, bool))
    assert name_changes([], []).photos == 0
