"""Every method on ordinary and on odd label spaces."""

import numpy as np
import pytest

from fgvr.arrays import NONE
from fgvr.candidates.agreement import Agreement, estimate
from fgvr.candidates.methods import candidate_sets, held_out_sets, most_neighbours, used_neighbours
from fgvr.candidates.sets import CandidateSets, single_sets
from fgvr.config import Candidates
from fgvr.neighbours import Neighbours

METHODS = ["neighbours", "adaptive", "mllm", "random", "single"]
HELPFUL = Agreement(0.5, 0.6, 0.9, (0.6, 0.55, 0.5), 0.25)
NAMES = CandidateSets(
    np.array([[4, 7], [7, -1], [2, -1], [-1, -1]], np.int32),
    np.array([[0.75, 0.25], [1, 0], [1, 0], [0, 0]], np.float32),
)
NEAR = Neighbours(np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 1, 2]]), np.ones((4, 3), np.float32), "exact", 1.0)


def sets_of(names, found, agreement, *, space=9, embedded=None, **config):
    embedded = np.ones(len(names), bool) if embedded is None else embedded
    return candidate_sets(Candidates(**config), found, names, embedded=embedded, space=space, agreement=agreement)


def row(sets, image):
    pairs = zip(sets.label_ids[image].tolist(), sets.weights[image].tolist(), strict=True)
    return {label: weight for label, weight in pairs if label >= 0}


def test_the_mllm_s_own_names_need_no_neighbour():
    assert row(sets_of(NAMES, NEAR, HELPFUL, method="mllm"), 0) == {4: 0.5, 7: 0.5}
    assert row(sets_of(NAMES, NEAR, HELPFUL, method="mllm", weights="multiplicity"), 0) == {4: 0.75, 7: 0.25}
    assert row(sets_of(NAMES, NEAR, HELPFUL, method="mllm"), 3) == {}
    assert row(sets_of(NAMES, NEAR, HELPFUL, method="single"), 0) == {4: 1.0}


def test_adaptive_takes_neighbours_only_where_they_are_purer():
    config = Candidates(method="adaptive", k=2)
    assert (most_neighbours(config), used_neighbours(config, HELPFUL)) == (11, 3)
    assert set(row(sets_of(NAMES, NEAR, HELPFUL, method="adaptive"), 2)) == {2, 7, 4}
    clean = Agreement(0.5, 0.9, 0.6, (0.9, 0.5, 0.5), 0.25)
    assert used_neighbours(config, clean) == 1
    assert row(sets_of(NAMES, NEAR, clean, method="adaptive"), 0) == {4: 0.75, 7: 0.25}


def test_adaptive_without_an_estimate_is_the_paper_s_method(caplog):
    config = Candidates(method="adaptive", k=2)
    assert used_neighbours(config, Agreement(0.1)) == 2
    found = sets_of(NAMES, NEAR, Agreement(0.1), method="adaptive", k=2)
    expected = sets_of(NAMES, NEAR, Agreement(0.1), method="neighbours", k=2)
    assert found.label_ids.tolist() == expected.label_ids.tolist()
    assert "too few labels agree" in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_images_without_a_vector_have_no_candidates(method):
    embedded = np.array([True, False, True, True])
    sets = sets_of(NAMES, NEAR, HELPFUL, method=method, embedded=embedded)
    assert row(sets, 1) == {}
    assert sets.sizes[2] > 0


def neighbourhoods(own, k=11):
    """Images in a row of which the next ones are near."""
    near = (np.arange(len(own))[:, None] + np.arange(k)) % len(own)
    return Neighbours(near, np.ones(near.shape, np.float32), "exact", 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_label_space_of_one_name(method):
    own = np.zeros(40, np.int32)
    found = neighbourhoods(own)
    agreement = estimate(own[found.ids], k=3)
    assert (agreement.agreement, agreement.label_accuracy, agreement.neighbour_precision) == (1, 1, 1)
    sets = sets_of(single_sets(own), found, agreement, method=method, space=1)
    assert sets.sizes.tolist() == [1] * 40
    np.testing.assert_allclose(sets.weights.sum(axis=1), 1)


@pytest.mark.parametrize("method", METHODS)
def test_names_that_are_all_distinct(method):
    own = np.arange(40, dtype=np.int32)
    found = neighbourhoods(own)
    agreement = estimate(own[found.ids], k=3)
    assert agreement == Agreement(agreement=0.0)  # nothing agrees: nothing can be told
    sets = sets_of(single_sets(own), found, agreement, method=method, space=40)
    assert sets.sizes.tolist() == [1 if method in {"mllm", "single"} else 3] * 40
    assert (sets.label_ids[:, 0] == own).all()


@pytest.mark.parametrize("method", METHODS)
def test_fewer_images_than_k(method):
    own = np.array([3, 5], np.int32)
    found = Neighbours(np.array([[0, 1, -1], [1, 0, -1]]), np.ones((2, 3), np.float32), "exact", 1.0)
    sets = sets_of(single_sets(own), found, Agreement(), method=method, space=9)
    assert (sets.label_ids[:, 0] == own).all()
    assert sets.sizes.tolist() == [{"mllm": 1, "single": 1, "random": 3}.get(method, 2)] * 2


def test_sets_of_held_out_labels_know_only_the_others():
    # Images 0 to 4 on a line; image 2 is held out. The second nearest of image 1 then is image 0, not image 2.
    near = np.array([[0, 1, 2], [1, 2, 0], [2, 1, 3], [3, 4, 2], [4, 3, 2]])
    found = Neighbours(near, np.full((5, 3), 0.5, np.float32), "exact", 1.0)
    names = single_sets(np.array([0, 1, 2, 3, 4], np.int32))
    known = np.array([True, True, False, True, True])
    sets = held_out_sets(Candidates(k=2), found, names, known, space=5)
    assert [set(row.tolist()) - {NONE} for row in sets.label_ids] == [{0, 1}, {1, 0}, set(), {3, 4}, {4, 3}]
    own = held_out_sets(Candidates(method="mllm"), found, names, known, space=5)
    assert own.label_ids[:, 0].tolist() == [0, 1, NONE, 3, 4]


def test_the_posterior_is_not_made_here():
    with pytest.raises(ValueError, match="needs a text tower"):
        sets_of(NAMES, NEAR, HELPFUL, method="posterior")
