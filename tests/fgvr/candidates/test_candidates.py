import numpy as np
import pytest

from fgvr.candidates import sets
from fgvr.candidates.sets import CandidateSets, coverage, neighbour_sets, packed, random_sets, single_sets

LABELS = np.array([[4, 7, 4], [2, 2, 2], [-1, 9, 1], [-1, -1, -1]], np.int32)
SCORES = np.array([[1.0, 0.8, 0.5], [1.0, 0.9, 0.9], [1.0, 0.6, 0.2], [1.0, 0.5, 0.5]], np.float32)


def as_dicts(sets):
    return [
        {int(label): float(weight) for label, weight in zip(labels, weights, strict=True) if label >= 0}
        for labels, weights in zip(sets.label_ids, sets.weights, strict=True)
    ]


def sets_of(labels, scores, weighting):
    """The sets where the labels [N, k] are those of N · k images, k of which are near to each of N images."""
    return neighbour_sets(single_sets(labels.ravel()), np.arange(labels.size).reshape(labels.shape), scores, weighting)


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
    found = as_dicts(sets_of(LABELS, SCORES, weighting))
    assert found[0] == pytest.approx(first)
    assert found[1] == pytest.approx({2: 1.0})
    assert set(found[2]) == {9, 1}  # its own label failed: the neighbours' count
    assert found[3] == {}


@pytest.mark.parametrize("weighting", ["uniform", "multiplicity", "similarity"])
def test_sets_are_those_of_the_definition(weighting, monkeypatch):
    random = np.random.default_rng(0)
    labels = random.integers(-1, 6, (300, 7)).astype(np.int32)
    scores = random.uniform(-0.5, 1, (300, 7)).astype(np.float32)
    monkeypatch.setattr(sets, "BLOCK", 5000)  # several blocks
    found = as_dicts(sets_of(labels, scores, weighting))
    for ours, expected in zip(found, brute_force(labels, scores, weighting), strict=True):
        assert list(ours) == list(expected)  # in order of first appearance
        assert ours == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("uniform", {4: 1 / 3, 7: 1 / 3, 2: 1 / 3}),
        ("multiplicity", {4: 0.75 / 2, 7: 0.25 / 2 + 0.5 / 2, 2: 0.5 / 2}),
        ("similarity", {4: 0.75 / 1.6, 7: (0.25 + 0.6 / 2) / 1.6, 2: 0.3 / 1.6}),
    ],
)
def test_a_neighbour_with_several_names_divides_its_vote(weighting, expected):
    names = CandidateSets(
        np.array([[4, 7], [7, 2], [-1, -1]], np.int32), np.array([[0.75, 0.25], [0.5, 0.5], [0, 0]], np.float32)
    )
    near, scores = np.array([[0, 1, 2, -1]]), np.array([[1.0, 0.6, 0.9, -np.inf]], np.float32)
    assert as_dicts(neighbour_sets(names, near, scores, weighting)) == [pytest.approx(expected)]


def test_places_are_packed_and_rows_without_votes_are_even():
    found = packed(np.array([[-1, 3, -1, 5], [-1, -1, -1, -1]], np.int32), np.zeros((2, 4), np.float32))
    assert found.label_ids.tolist() == [[3, 5], [-1, -1]]
    assert found.weights.tolist() == [[0.5, 0.5], [0, 0]]


def test_sets_of_some_rows_only():
    assert as_dicts(single_sets(np.array([5, 6], np.int32)).only(np.array([False, True]))) == [{}, {6: 1.0}]


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


def test_a_certain_label_is_a_set_of_one_and_the_others_stay():
    given = CandidateSets(np.array([[4, 2], [1, -1], [-1, -1]], np.int32), np.array([[0.5, 0.5], [1, 0], [0, 0]]))
    certain = given.certain(np.array([3, -1, 0], np.int32))
    assert certain.label_ids.tolist() == [[3, -1], [1, -1], [0, -1]]
    assert certain.weights.tolist() == [[1, 0], [1, 0], [1, 0]]
    assert given.label_ids.tolist() == [[4, 2], [1, -1], [-1, -1]]
