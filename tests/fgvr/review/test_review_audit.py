import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from fgvr.review.audit import NoAudit, clopper_pearson, compare, draw, judge, photos_needed, stratified
from fgvr.review.audit_file import AuditSample, Drawn, held_out, read_sample


def world(everything: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names of a long tail, confidences, and whether the name is right: by name and confidence."""
    rng = np.random.default_rng(seed)
    names = rng.zipf(1.5, everything).clip(max=200).astype(np.int32)
    scores = rng.beta(4, 2, everything)
    hard = rng.uniform(-0.3, 0.1, 201)[names]
    return names, scores, rng.random(everything) < np.clip(0.4 + 0.6 * scores + hard, 0.02, 0.98)


def coverage(size: int, looked: int, seed: int) -> float:
    names, scores, right = world(20_000, seed)
    truth, covered = right.mean(), 0
    for audit in range(1000):
        positions, strata, sizes = draw(names, scores, size, seed=audit)
        found = stratified(right[positions[:looked]], strata[:looked], sizes)
        covered += found.low <= truth <= found.high
    return covered / 1000


@pytest.mark.slow
@pytest.mark.parametrize(("size", "looked"), [(300, 300), (300, 100), (100, 100)])
def test_the_interval_covers_the_truth_in_95_of_100_audits(size: int, looked: int) -> None:
    assert 0.94 <= coverage(size, looked, seed=1) <= 0.98


def test_clopper_pearson_is_scipys() -> None:
    for k, n in ((0, 20), (7, 30), (30, 30), (299, 300)):
        want = binomtest(k, n).proportion_ci(method="exact")
        low, high = clopper_pearson(k, n)
        assert (float(low), float(high)) == pytest.approx((want.low, want.high))


def test_the_estimate_weighs_strata_by_their_size() -> None:
    # Strata of 100 and 300 photos: 2 of 4 and 4 of 4 right: .25 · .5 + .75 · 1.
    right, strata = np.array([1, 1, 0, 0, 1, 1, 1, 1], bool), np.array([0] * 4 + [1] * 4)
    found = stratified(right, strata, np.array([100, 300]))
    assert found.share == pytest.approx(0.875)
    assert found.low < 0.875 < found.high


def test_all_looked_at_is_certain_and_none_says_nothing() -> None:
    found = stratified(np.array([1, 0, 1, 1], bool), np.array([0, 0, 1, 1]), np.array([2, 2]))
    assert (found.share, found.low, found.high) == (0.75, 0.75, 0.75)
    empty = stratified(np.zeros(0, bool), np.zeros(0, np.int64), np.array([5]))
    assert (empty.low, empty.high) == (0.0, 1.0)


@pytest.mark.parametrize("looked", range(1, 30))
def test_any_beginning_gives_an_interval(looked: int) -> None:
    names, scores, right = world(1000, 3)
    positions, strata, sizes = draw(names, scores, 60, seed=0)
    found = stratified(right[positions[:looked]], strata[:looked], sizes)
    assert 0 <= found.low <= found.share <= found.high <= 1


def test_a_sample_has_its_size_and_no_photo_twice() -> None:
    names, scores, _ = world(1003, 5)
    positions, strata, sizes = draw(names, scores, 97, seed=2)
    assert (len(positions), len(set(positions.tolist())), sizes.sum()) == (97, 97, 1003)
    assert np.array_equal(positions, draw(names, scores, 97, seed=2)[0])
    assert not np.array_equal(positions, draw(names, scores, 97, seed=3)[0])
    assert set(np.bincount(strata).tolist()) <= {10, 11}
    with pytest.raises(NoAudit):
        draw(names[:0], scores[:0], 5, seed=0)


def test_photos_without_a_score_are_drawn_too() -> None:
    positions, _, _ = draw(["a"] * 50, np.full(50, np.nan), 50, seed=0)
    assert sorted(positions.tolist()) == list(range(50))


def test_the_size_is_said_beforehand() -> None:
    size = photos_needed(0.05, 10_000_000)
    low, high = clopper_pearson(0.8 * size, size)
    assert (high - low) / 2 <= 0.05
    low, high = clopper_pearson(0.8 * (size - 1), size - 1)
    assert (high - low) / 2 > 0.05
    assert photos_needed(0.05, 40) == 40
    with pytest.raises(NoAudit, match="between"):
        photos_needed(0.0, 100)


def sample(**more: object) -> AuditSample:
    photos = tuple(Drawn(n, f"u{n}", n // 10, "A" if n < 10 else "B", n / 20, "C") for n in range(20))
    return dataclasses.replace(AuditSample(0, (50, 50), photos), **more)  # type: ignore[arg-type]


def test_a_sample_is_stored_once_and_held_out(tmp_path: Path) -> None:
    first = sample().store(str(tmp_path))
    again = sample(seed=7, photos=()).store(str(tmp_path))
    assert (again, again.seed) == (first, 0)
    sample(methods=("near", "makd"), photos=(Drawn(9, "v", 0, "A", 1.0, "B"),)).store(str(tmp_path))
    assert held_out(str(tmp_path)) == {*(f"u{n}" for n in range(20)), "v"}
    assert read_sample(str(tmp_path), "audit-near-makd.json").methods == ("near", "makd")


def test_cannot_tell_is_no_decision_but_widens_what_is_said() -> None:
    right: dict[str, bool | None] = {f"u{n}": n % 4 != 0 for n in range(16)} | {"u16": None, "u17": None}
    found = judge(sample(), right)
    assert (found.whole.decided, found.cannot_tell, found.drawn) == (16, 2, 20)
    assert found.by_name["A"].right == 7  # of 0 … 9 all but 0, 4 and 8
    assert found.worst < found.whole.low <= found.whole.high <= found.best
    assert sum(share.decided for _, _, share in found.by_score) == 16


def test_methods_are_compared_where_they_differ() -> None:
    truth = {**{f"u{n}": "A" for n in range(8)}, "u8": "C", "u9": "", "u10": "B"}
    found = compare(sample(methods=("near", "makd")), truth)
    assert (found.first, found.second, found.neither) == (9, 1, 1)
    assert found.p == pytest.approx(binomtest(1, 10).pvalue)
    assert found.better == "first"
