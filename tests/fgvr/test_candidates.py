import numpy as np
import pytest

from fgvr.candidates import CandidateSets, coverage, neighbour_sets, random_sets, single_sets

LABELS = np.array([[4, 7, 4], [2, 2, 2], [-1, 9, 1], [-1, -1, -1]], np.int32)
SCORES = np.array([[1.0, 0.8, 0.5], [1.0, 0.9, 0.9], [1.0, 0.6, 0.2], [1.0, 0.5, 0.5]], np.float32)


def as_dicts(sets):
    return [
        {int(label): float(weight) for label, weight in zip(labels, weights, strict=True) if label >= 0}
        for labels, weights in zip(sets.label_ids, sets.weights, strict=True)
    ]


def brute_force(labels, scores, weighting):
    """The definition, one image after the other."""
    found = []
    for row_labels, row_scores in zip(labels.tolist(), scores.tolist(), strict=True):
        votes: dict[int, float] = {}
        for label, score in zip(row_labels, row_scores, strict=True):
            if label >= 0:
                vote = {"uniform": 0.0, "multiplicity": 1.0, "similarity": max(score, 0.0)}[weighting]
                votes[label] = votes.get(label, 0.0) + vote
        total = sum(votes.values())
        found.append({label: vote / total if total else 1 / len(votes) for label, vote in votes.items()})
    return found


@pytest.mark.parametrize(
    ("weighting", "first"),
    [
        ("uniform", {4: 1 / 2, 7: 1 / 2}),
        ("multiplicity", {4: 2 / 3, 7: 1 / 3}),
        ("similarity", {4: 1.5 / 2.3, 7: 0.8 / 2.3}),
    ],
)
def test_weights_by_hand(weighting, first):
    found = as_dicts(neighbour_sets(LABELS, SCORES, weighting))
    assert found[0] == pytest.approx(first)
    assert found[1] == pytest.approx({2: 1.0})
    assert set(found[2]) == {9, 1}  # its own label failed: the neighbours' count
    assert found[3] == {}


@pytest.mark.parametrize("weighting", ["uniform", "multiplicity", "similarity"])
def test_sets_are_those_of_the_definition(weighting):
    random = np.random.default_rng(0)
    labels = random.integers(-1, 6, (300, 7)).astype(np.int32)
    scores = random.uniform(-0.5, 1, (300, 7)).astype(np.float32)
    found = as_dicts(neighbour_sets(labels, scores, weighting))
    for ours, expected in zip(found, brute_force(labels, scores, weighting), strict=True):
        assert list(ours) == list(expected)  # in order of first appearance
        assert ours == pytest.approx(expected, abs=1e-6)


def test_random_sets_hold_the_own_label_and_k_distinct_ones():
    own = np.array([3, 0, -1, 9], np.int32)
    sets = random_sets(own, labels_in_space=10, k=4, seed=1)
    for label, row in zip(own, sets.label_ids, strict=True):
        assert len(set(row)) == 4
        assert label == -1 or row[0] == label
    np.testing.assert_allclose(sets.weights, 0.25)
    assert random_sets(own, 10, 4, seed=1).label_ids.tolist() == sets.label_ids.tolist()
    assert random_sets(own, 10, 4, seed=2).label_ids.tolist() != sets.label_ids.tolist()
    assert random_sets(np.array([1], np.int32), labels_in_space=2, k=5, seed=0).sizes.tolist() == [2]


def test_other_labels_of_random_sets_are_equally_likely():
    sets = random_sets(np.zeros(30_000, np.int32), labels_in_space=6, k=3, seed=0)
    counts = np.bincount(sets.label_ids[:, 1:].ravel(), minlength=6)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / counts.sum(), 0.2, atol=0.01)


def test_single_sets():
    assert as_dicts(single_sets(np.array([5, -1], np.int32))) == [{5: 1.0}, {}]


def test_coverage_by_hand():
    sets = CandidateSets(np.array([[1, 2], [3, -1], [4, 5], [6, 7]], np.int32), np.zeros((4, 2), np.float32))
    assert coverage(sets, np.array([2, 9, 4, -1], np.int32)) == pytest.approx(2 / 3)
    assert np.isnan(coverage(sets, np.full(4, -1, np.int32)))
