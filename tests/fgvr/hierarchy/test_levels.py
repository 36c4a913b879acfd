"""Metrics by level, worked by hand on the tree of test_decisions."""

import pytest

from fgvr.hierarchy.kinds import Kinds
from fgvr.hierarchy.levels import hierarchy_scores
from tests.fgvr.hierarchy.test_tree_decisions import KINDS


def test_six_answers_by_hand():
    true = ["herring", "herring", "herring", "mew", "mew", "arctic", None, "unicorn"]
    said = ["Herring", "mew", "common", "gull", "", "pegasus", "mew", "mew"]
    found = hierarchy_scores(said, true, KINDS, resamples=200)
    # |T| = 3 each (bird, gull, herring), of six images. |P|: 3, 3, 3, 2, 0, 1. Shared: 3, 2, 1, 2, 0, 0.
    assert found.images == 6
    assert found.left_out == 1
    assert found.precision == pytest.approx(100 * 8 / 12)
    assert found.recall == pytest.approx(100 * 8 / 18)
    assert found.f1 == pytest.approx(100 * 16 / 30)
    # Mistakes: mew 1, common 2, gull 1 (its own height), pegasus 3 (below the root).
    assert found.mistake_height == pytest.approx(7 / 4)
    assert found.not_wrong == pytest.approx(100 * 2 / 5)
    assert found.unknown == pytest.approx(1 / 5)
    genus, species = found.levels  # all true names are birds: level 1 says nothing
    assert (genus.level, genus.images, genus.accuracy) == ("level 2", 6, pytest.approx(100 * 3 / 6))
    assert (species.level, species.accuracy) == ("level 3", pytest.approx(100 / 6))
    assert genus.answered == pytest.approx(100 * 4 / 6)
    assert species.answered == pytest.approx(100 * 3 / 6)
    for metric in ("precision", "recall", "f1", "mistake_height", "not_wrong"):
        low, high = found.intervals[metric]
        assert low <= getattr(found, metric) <= high
        assert low < high
    assert genus.interval[0] < genus.accuracy < genus.interval[1]
    assert found.numbers()["accuracy.level-2"] == genus.accuracy


def test_nothing_known_nothing_said_nothing_wrong():
    assert hierarchy_scores(["mew"], ["unicorn"], KINDS) is None
    assert hierarchy_scores(["mew"], [None], KINDS) is None
    silent = hierarchy_scores(["", ""], ["mew", "arctic"], KINDS, resamples=0)
    assert (silent.precision, silent.recall, silent.f1, silent.mistake_height, silent.not_wrong) == (
        0,
        0,
        0,
        None,
        None,
    )
    assert not silent.intervals
    right = hierarchy_scores(["mew", "arctic"], ["mew", "arctic"], KINDS)
    assert (right.precision, right.f1, right.mistake_height, right.not_wrong) == (100, 100, None, 100)


def test_a_level_that_some_names_lack():
    kinds = Kinds(
        {"mallard": "anatidae", "mew": "gull", "gull": "laridae"},
        {},
        ("family", "genus", "species"),
        {"mallard": (2, 2), "mew": (2, 2), "gull": (1, 1), "laridae": (0, 0), "anatidae": (0, 0)},
    )
    found = hierarchy_scores(["mallard", "gull"], ["mallard", "mew"], kinds)
    levels = {each.level: (each.accuracy, each.images) for each in found.levels}
    assert levels == {"family": (100, 2), "species": (50, 2)}  # one genus only is among the true ones
