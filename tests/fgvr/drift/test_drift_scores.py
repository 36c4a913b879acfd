"""Scores of single photos, the reference file, parts, and clusters of photos that fit nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fgvr.arrays import NONE
from fgvr.drift.novel import grouped, novel_rows
from fgvr.drift.parts import Compared, Part, judged
from fgvr.drift.reference import DriftError, Reference, counted
from fgvr.drift.scores import Learned, energy, fit, unit, unsureness
from fgvr.selection.whitening import Whitening, fit_whitening


def reference(photos: int = 400, seed: int = 0, **more: object) -> Reference:
    random = np.random.default_rng(seed)
    values: dict[str, object] = {
        "bank": random.normal(size=(50, 8)).astype(np.float16),
        "whitening": None,
        "distance": random.gamma(2, size=photos),
        "doubt": random.normal(size=photos),
        "names": counted(random.choice(["a", "b", "c"], photos).tolist()),
        "k": 3,
        "has_energy": True,
        "model": "m",
        "encoder": {"clip": "c"},
    }
    return Reference(**(values | more))  # type: ignore[arg-type]


def part_of(seed: int, photos: int = 300, shift: float = 0.0, names: tuple[str, ...] = ("a", "b", "c")) -> Part:
    random = np.random.default_rng(seed)
    distance, doubt = random.gamma(2, size=photos) + shift, random.normal(size=photos)
    return Part(0, photos - 1, distance, doubt, counted(random.choice(names, photos).tolist()))


PLAIN = Whitening(np.zeros(2), np.eye(2), np.zeros(2))
"""The space of the vectors themselves."""


def test_distance_is_that_to_the_kth_neighbour() -> None:
    bank = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0], [np.nan, 1.0]])
    asked, learned = np.array([[3.0, 0.0], [1.0, 1.0]]), Learned(bank, PLAIN)
    np.testing.assert_allclose(learned.distances(asked, 1), [0, 1 - np.sqrt(0.5)], atol=1e-6)
    np.testing.assert_allclose(learned.distances(asked, 3), [2, 1 + np.sqrt(0.5)], atol=1e-6)
    np.testing.assert_allclose(learned.distances(asked, 99), learned.distances(asked, 3))


def test_distance_is_measured_in_the_whitened_space() -> None:
    random = np.random.default_rng(5)
    bank, asked = random.normal(size=(60, 6)), random.normal(size=(4, 6))
    space = fit_whitening(unit(bank))
    one, other = space.apply(unit(asked)), space.apply(unit(bank))
    np.testing.assert_allclose(Learned(bank).distances(asked, 1), 1 - (one @ other.T).max(axis=1), atol=1e-5)


def test_photos_without_a_direction_have_no_distance() -> None:
    bank = np.eye(2)
    asked = np.array([[0.0, 0], [np.nan, 1], [np.inf, 0], [0, 1]])
    assert np.isnan(Learned(bank, PLAIN).distances(asked, 1)).tolist() == [True, True, True, False]
    assert np.isnan(Learned(np.zeros((0, 2))).distances(bank, 1)).all()
    assert np.isnan(Learned(np.zeros((4, 2))).distances(bank, 1)).all()
    assert len(Learned(bank, PLAIN).distances(np.zeros((0, 2)), 1)) == 0
    np.testing.assert_allclose(unit(np.array([[3e20, 4e20]])), [[0.6, 0.8]], rtol=1e-6)


def test_all_photos_alike_are_no_error() -> None:
    found = Learned(np.ones((30, 4))).distances(np.concatenate([np.ones((2, 4)), np.eye(4)]), 1)
    assert np.isfinite(found).all()


def test_energy_is_that_of_torch() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (5, 20_000)).astype(np.float32)
    expected = -torch.logsumexp(torch.from_numpy(logits).double(), dim=1).numpy()
    np.testing.assert_allclose(energy(logits), expected)
    np.testing.assert_allclose(unsureness(np.array([1.0, 0.5])), [0, np.log(2)])
    assert np.isfinite(unsureness(np.array([0.0]))).all()


def test_fit_by_hand() -> None:
    known = np.array([1.0, 2.0, 2.0, 3.0, np.nan])
    np.testing.assert_allclose(fit(np.array([0.0, 2.0, 2.5, 9.0, np.nan]), known), [1, 4 / 5, 2 / 5, 1 / 5, np.nan])


def test_fit_holds_its_share_of_false_alarms() -> None:
    random = np.random.default_rng(3)
    found = np.mean([(fit(random.normal(size=200), random.normal(size=60)) <= 0.1).mean() for _ in range(300)])
    assert found == pytest.approx(6 / 61, abs=0.01)  # six of 61 places are at most 0.1


def test_the_file_is_read_back() -> None:
    space = fit_whitening(unit(np.random.default_rng(1).normal(size=(40, 8))))
    one = reference(whitening=space, distance=np.array([0.1, np.nan]), doubt=np.array([1.0, 2.0]), names={"Ärlig": 2})
    other = Reference.from_bytes(one.to_bytes(), "there")
    np.testing.assert_array_equal(one.bank, other.bank)
    np.testing.assert_array_equal(one.distance, other.distance)
    assert other.whitening is not None
    np.testing.assert_array_equal(space.matrix, other.whitening.matrix)
    assert (dict(other.names), other.k, other.model, dict(other.encoder)) == ({"Ärlig": 2}, 3, "m", {"clip": "c"})


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04 broken", reference().to_bytes()[:-200]])
def test_a_damaged_file_is_named(data: bytes) -> None:
    with pytest.raises(DriftError, match="there: no reference"):
        Reference.from_bytes(data, "there")


def test_too_few_reference_photos_say_what_to_do() -> None:
    with pytest.raises(DriftError, match="validation_share"):
        reference(19).check()
    with pytest.raises(DriftError, match="embed their split"):
        reference(bank=np.zeros((0, 8), np.float16)).check()
    reference(20).check()


def test_a_change_is_found_where_it_is() -> None:
    parts = [part_of(seed) for seed in range(4)]
    parts[2] = part_of(9, shift=1.5, names=("a", "d"))
    found = judged(parts, reference(), 0.05)
    assert len(found) == 16
    assert {(row.part, row.test) for row in found if row.alarm} == {
        (2, Compared.DISTANCE),
        (2, Compared.FAR),
        (2, Compared.NAMES),
    }


def test_at_most_one_run_in_twenty_alarms_where_nothing_has_changed() -> None:
    runs = 300
    alarms = sum(
        any(row.alarm for row in judged([part_of(10 * run + n) for n in range(5)], reference(seed=run + 10**6), 0.05))
        for run in range(runs)
    )
    assert alarms / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_parts_of_one_photo_and_without_any_score() -> None:
    nothing = Part(7, 7, np.array([np.nan]), np.array([np.nan]), {})
    found = judged([part_of(0, photos=1), nothing], reference(), 0.05)
    assert [row.alarm for row in found] == [False] * 8
    assert all(np.isnan(row.p_corrected) for row in found[4:])
    assert judged([], reference(), 0.05) == []


def test_novel_photos_come_worst_first() -> None:
    assert novel_rows(np.array([0.5, 0.1, np.nan, 0.01, 0.1]), 0.1, 10).tolist() == [3, 1, 4]
    assert novel_rows(np.array([0.5, 0.1, np.nan, 0.01, 0.1]), 0.1, 1).tolist() == [3]
    assert not len(novel_rows(np.zeros(0), 0.1, 10))


def test_clusters_are_numbered_by_size() -> None:
    random = np.random.default_rng(0)
    axes = np.eye(5)[[0] * 4 + [1] * 9 + [2] * 6]
    vectors = np.concatenate([axes + random.normal(0, 0.02, axes.shape), np.zeros((1, 5))])
    found = grouped(vectors, 3)
    assert found.cluster.tolist() == [2] * 4 + [0] * 9 + [1] * 6 + [NONE]
    assert (found.similarity[:-1] > 0.99).all()
    assert grouped(np.zeros((2, 5))).cluster.tolist() == [NONE, NONE]
    assert grouped(np.ones((3, 5)), 7).cluster.tolist() == [0, 0, 0]
