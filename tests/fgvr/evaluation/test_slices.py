"""Tests per slice: worked by hand, by SciPy's distributions, and on photos whose weak slice is known."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from fgvr.evaluation.slice_cuts import Cut, crossed, cut_by, gathered
from fgvr.evaluation.slices import Slices, effective_images, fisher, holm, measure_slices, name_scores
from fgvr.metrics.bootstrap import wilson
from fgvr.metrics.scores import score


def cut(name: str, codes: np.ndarray) -> Cut:
    return Cut((name,), tuple((str(n),) for n in range(int(codes.max()) + 1)), codes.astype(np.int64))


def test_holm_by_hand() -> None:
    # 4 × .01, 3 × .02, 2 × .03 and 1 × .04, the last two raised to what is before them.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.01]) == [0.01]
    assert holm([]) == []


def test_fisher_by_counting() -> None:
    # Fisher's tea: 3 of 4 cups right, 17/35; by counting all tables with the same margins.
    assert fisher(3, 4, 1, 4) == pytest.approx(17 / 35)
    right, images, rest_right, rest = 9, 20, 61, 80
    ways = {
        k: Fraction(math.comb(images, k) * math.comb(rest, 70 - k), math.comb(images + rest, 70)) for k in range(21)
    }
    exact = sum(way for way in ways.values() if way <= ways[right])
    assert fisher(right, images, rest_right, rest) == pytest.approx(float(exact))
    table = [[right, images - right], [rest_right, rest - rest_right]]
    assert fisher(right, images, rest_right, rest) == pytest.approx(stats.fisher_exact(table)[1])


def test_wilson_like_scipy() -> None:
    for right, images in ((0, 10), (10, 10), (3, 7), (820, 1000), (1, 1)):
        low, high = stats.binomtest(right, images).proportion_ci(method="wilson")
        assert wilson(right, images) == pytest.approx((low, high))
    assert wilson(0, 0) == (0, 1)


def test_a_planted_slice_is_first() -> None:
    """One in five photos, 40 points worse, beside columns that mean nothing, and beside a method without a weakness."""
    rng = np.random.default_rng(0)
    weak = rng.random(1_000) < 0.2
    hits = {
        "good": rng.random(1_000) < 0.8,
        "bad": rng.random(1_000) < np.where(weak, 0.4, 0.8),
    }
    cuts = [cut(f"null {n}", rng.integers(0, 5, 1_000)) for n in range(5)]
    found = measure_slices(hits, [*cuts, cut("weak", weak.astype(int))], min_images=20)
    first = found.rows[0]
    assert (first.method, first.by, first.value) == ("bad", ("weak",), ("1",))
    assert found.flagged == [first]
    # Counted again.
    inside, outside = hits["bad"][weak], hits["bad"][~weak]
    assert first.images == len(inside)
    assert first.top1 == pytest.approx(100 * inside.mean())
    assert first.gap == pytest.approx(100 * (inside.mean() - outside.mean()))
    assert first.low < first.top1 < first.high
    assert found.tests == 2 * (5 * 5 + 2)
    assert "bad where weak = 1" in found.sentence({})
    assert Slices.from_json(found.as_json()) == found


class Flat:
    """Names as directions in a plane, by their first letter: a and b at 60°, c across from a."""

    def encode(self, names: Sequence[str]) -> np.ndarray:
        directions = {"a": (1, 0), "b": (0.5, 0.75**0.5), "c": (-1, 0)}
        return np.array([directions[name[0]] for name in names], np.float32)


def test_sacc_and_cacc_of_slices_by_hand() -> None:
    true = ["a1"] * 4 + ["b1"] * 4
    said = ["a1", "a1", "c9", "", "b7", "b7", "b7", "a1"]
    scores = name_scores(said, true, Flat())
    assert scores.sacc == pytest.approx([100, 100, -100, 0, 100, 100, 100, 50])
    # One name per class: b7 is matched to b1, and a1 to itself.
    assert scores.cacc == pytest.approx([100, 100, 0, 0, 100, 100, 100, 0])
    halves = cut("half", np.arange(8) // 4)
    right = np.array([guess == truth for guess, truth in zip(said, true, strict=True)])
    found = measure_slices({"m": right}, [halves], min_images=2, names={"m": scores})
    first, second = sorted(found.rows, key=lambda row: row.value)
    assert (first.sacc, first.cacc) == pytest.approx((100 / 4, 50))
    assert (second.sacc, second.cacc) == pytest.approx((350 / 4, 75))
    assert (first.sacc_gap, first.cacc_gap) == pytest.approx((-62.5, -25))
    assert found.measures_names
    assert Slices.from_json(found.as_json()) == found
    whole = measure_slices({"m": right}, [cut("all", np.zeros(8))], min_images=2, names={"m": scores}).rows[0]
    assert (whole.sacc, whole.sacc_gap, whole.cacc_gap) == (pytest.approx(450 / 8), None, None)
    assert not measure_slices({"m": right}, [halves], min_images=2).measures_names
    nobody = name_scores([], [], Flat())
    assert len(nobody.sacc) == len(nobody.cacc) == 0


def test_the_means_of_slices_are_those_of_the_whole_evaluation() -> None:
    rng = np.random.default_rng(3)
    true = [f"{'abc'[n % 3]}{n % 7}" for n in range(500)]
    said = [
        true[n] if rng.random() < 0.6 else f"{'abc'[int(rng.integers(3))]}{int(rng.integers(9))}" for n in range(500)
    ]
    whole, each = score(said, true, Flat(), resamples=0), name_scores(said, true, Flat())
    assert (each.sacc.mean(), each.cacc.mean()) == pytest.approx((whole.sacc, whole.cacc), rel=1e-5)


@pytest.mark.slow
def test_null_slices_raise_no_alarm() -> None:
    """In 200 runs of 50 slices that mean nothing, at most 5% of the runs have any alarm, and binomial error."""
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(200):
        hits = {"any": rng.random(1_500) < 0.7}
        found = measure_slices(hits, [cut("null", rng.integers(0, 50, 1_500))], min_images=10)
        assert found.tests == 50
        alarms += any(row.corrected < 0.05 for row in found.rows)
    assert alarms <= stats.binom.ppf(0.999, 200, 0.05)


def in_groups(rng: np.random.Generator, slices: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photos of 300 people of unequal diligence, each as good or bad at it throughout, each in one slice."""
    groups = np.repeat(np.arange(300), rng.geometric(1 / 8, 300))
    share = rng.beta(1.5, 1, 300)
    return groups, rng.random(len(groups)) < share[groups], rng.integers(0, slices, 300)[groups]


def test_groups_keep_the_level() -> None:
    """Columns of people, that mean nothing: counting photos raises alarms in most runs, counting people in few."""
    rng, by_photo, by_group = np.random.default_rng(2), 0, 0
    for _ in range(100):
        groups, right, column = in_groups(rng, 10)
        cuts, hits = [cut("null", column)], {"any": right}
        by_photo += bool(measure_slices(hits, cuts, min_images=20).flagged)
        by_group += bool(measure_slices(hits, cuts, min_images=20, groups=groups, group_by="person").flagged)
    assert by_photo >= 30
    assert by_group <= stats.binom.ppf(0.999, 100, 0.05)


def test_groups_find_a_planted_slice() -> None:
    rng = np.random.default_rng(3)
    groups, right, column = in_groups(rng, 5)
    right &= (column != 2) | (rng.random(len(right)) < 0.35)
    found = measure_slices({"any": right}, [cut("where", column)], min_images=20, groups=groups, group_by="person")
    assert [row.value for row in found.flagged] == [("2",)]
    assert found.rows[0].groups == len(set(groups[column == 2]))
    alone = measure_slices({"any": right}, [cut("where", column)], min_images=20)
    width = {row.value: row.high - row.low for row in alone.rows}
    assert all(row.high - row.low > width[row.value] for row in found.rows)


def test_effective_images_by_hand() -> None:
    # Copies: ten people with four photos each, all four right or all wrong, half of the people: variance of the mean
    # by people .25 / 9, so .25 / (.25 / 9) = 9 independent photos.
    right = np.repeat(np.arange(10) % 2 == 0, 4)
    assert effective_images(right, np.repeat(np.arange(10), 4)) == pytest.approx(9)
    assert effective_images(np.ones(40, bool), np.repeat(np.arange(10), 4)) == 10
    assert effective_images(right, np.zeros(40, int)) == 1


def test_too_few_groups_are_not_tested() -> None:
    right, column = np.arange(200) % 3 > 0, (np.arange(200) >= 100).astype(int)
    found = measure_slices({"any": right}, [cut("half", column)], min_images=20, groups=np.arange(200) // 50)
    assert found.tests == 0
    assert {row.groups for row in found.rows} == {2}


def test_an_interaction_is_found_by_the_pair_only() -> None:
    """Wrong where exactly one of two columns holds: neither alone tells anything."""
    rng = np.random.default_rng(4)
    one, other = np.repeat([0, 0, 1, 1], 250), np.tile(np.repeat([0, 1], 250), 2)
    right = rng.permutation(np.repeat([True, False], [200, 50]))
    right = np.concatenate([right, rng.permutation(~right), rng.permutation(~right), rng.permutation(right)])
    first, second = cut("one", one), cut("other", other)
    assert not measure_slices({"any": right}, [first, second], min_images=20).flagged
    found = measure_slices({"any": right}, [first, second, crossed(first, second, 100)], min_images=20)
    assert {row.value for row in found.flagged} == {("0", "1"), ("1", "0")}
    assert {row.by for row in found.flagged} == {("one", "other")}
    assert found.flagged[0].title in {"one = 0, other = 1", "one = 1, other = 0"}


def test_constant_and_empty_columns_and_single_photos() -> None:
    right = np.arange(50) % 4 > 0
    constant = cut_by("shop", pa.array(["a"] * 50))
    empty = cut_by("price", pa.array([None] * 50, pa.string()))
    single = cut_by("name", pa.array([f"n{n}" for n in range(50)]))
    found = measure_slices({"any": right}, [constant, empty, single], min_images=20)
    assert found.tests == 0
    assert not found.flagged
    assert found.rows[0].gap is not None
    assert [row.gap for row in found.rows if row.by != ("name",)] == [None, None]
    assert "shop is the same for all" in found.sentence({})
    assert "price is empty for all" in found.sentence({})
    nothing = measure_slices({"any": np.zeros(0, bool)}, [cut_by("shop", pa.array([], pa.string()))], min_images=20)
    assert nothing.rows == ()
    grouped = measure_slices({"any": right}, [constant, single], min_images=2, groups=np.arange(50))
    assert grouped.tests == 0


def test_all_right_or_all_wrong() -> None:
    column = np.arange(100) % 2
    for right in (np.ones(100, bool), np.zeros(100, bool)):
        for groups in (None, np.arange(100) // 5):
            found = measure_slices({"any": right}, [cut("half", column)], min_images=20, groups=groups)
            assert [row.corrected for row in found.rows] == [1, 1]


def test_many_values_stay_few_rows() -> None:
    """200,000 photos of 100,000 senders: a hundred slices and one for the others, alone and in a pair."""
    rng = np.random.default_rng(5)
    senders = cut_by("sender", pa.array([f"s{n}" for n in rng.integers(0, 100_000, 200_000)]))
    shops = cut_by("shop", pa.array([f"p{n}" for n in rng.integers(0, 9, 200_000)]))
    hits = {"any": rng.random(200_000) < 0.5}
    for one in (gathered(senders, 100), crossed(senders, shops, 100)):
        assert len(one.values) == 101
        assert len(one.remarks) == 1
        found = measure_slices(hits, [one], min_images=20)
        assert sum(row.images for row in found.rows) == 200_000
        assert found.tests == 1  # the others; of each sender there are too few photos
        assert next(row for row in found.rows if row.p is not None).title.endswith(": (others)")
