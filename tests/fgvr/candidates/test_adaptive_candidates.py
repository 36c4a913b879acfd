"""Adaptive sets: the posterior by hand, and on simulated images in both regimes."""

import numpy as np
import pytest

from fgvr.candidates.agreement import Agreement, estimate
from fgvr.candidates.methods import FLOOR, MASS, adaptive_sets, reach
from fgvr.candidates.sets import CandidateSets, coverage, neighbour_sets, single_sets

# λ = log(0.6 / (0.4 · 0.25)) = log 6 for the own label, log(0.5 / (0.5 · 0.25)) = log 4 and log 2 for two neighbours.
THREE = Agreement(0.5, 0.6, 0.8, (0.6, 0.5, 1 / 3), 0.25)


def weights_of(sets, row=0):
    pairs = zip(sets.label_ids[row].tolist(), sets.weights[row].tolist(), strict=True)
    return {label: weight for label, weight in pairs if label >= 0}


def test_the_evidence_of_a_vote_by_hand():
    np.testing.assert_allclose(np.exp(THREE.evidence), [6, 4, 2])
    assert reach(THREE) == 3
    weak = Agreement(0.5, 0.6, 0.8, (0.6, 0.5, 0.1, 0.1), 0.25)  # 0.1 / (0.9 · 0.25) < 1: speaks against
    assert weak.evidence[2:].tolist() == [0, 0]
    assert reach(weak) == 2
    assert reach(Agreement(0.5, 0.8, 0.6, (0.8, 0.5), 0.2)) == 1  # neighbours less pure than labels: itself alone
    assert reach(Agreement(0.5)) is None


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([4, 7, 7], {7: 8 / 14, 4: 6 / 14}),
        ([4, 4, 7], {4: 24 / 26, 7: 2 / 26}),
        ([4, 7, 9], {4: 6 / 12, 7: 4 / 12, 9: 2 / 12}),
        ([4, 4, 4], {4: 1.0}),
    ],
)
def test_the_posterior_by_hand(labels, expected):
    names = single_sets(np.array(labels, np.int32))
    sets = adaptive_sets(names, np.array([[0, 1, 2]]).repeat(3, axis=0), THREE)
    assert weights_of(sets) == pytest.approx(expected, abs=1e-6)
    assert list(weights_of(sets)) == sorted(expected, key=lambda label: -expected[label])  # the likeliest first


def test_shares_of_several_names_share_the_evidence():
    names = CandidateSets(np.array([[4, 7], [7, -1]], np.int32), np.array([[0.5, 0.5], [1, 0]], np.float32))
    sets = adaptive_sets(names, np.array([[0, 1], [1, 0]]), THREE)
    by_4, by_7 = 6**0.5, 6**0.5 * 4
    assert weights_of(sets) == pytest.approx({7: by_7 / (by_4 + by_7), 4: by_4 / (by_4 + by_7)}, abs=1e-6)


def test_an_image_without_a_label_has_its_neighbours_at_their_own_ranks():
    names = single_sets(np.array([-1, 4, 7], np.int32))
    sets = adaptive_sets(names, np.array([[1, 2, -1], [1, 2, -1], [2, 1, -1]]), THREE)
    assert weights_of(sets) == pytest.approx({4: 4 / 6, 7: 2 / 6}, abs=1e-6)


def test_unlikely_names_are_left_out_but_the_own_one_keeps_its_floor():
    sure = Agreement(0.9, 0.5, 0.98, (0.5,) + (0.49,) * 10, 0.1)  # each vote is worth about a factor of 10
    names = single_sets(np.array([4, 7, 7, 7, 7, 7, 9, 7, 7, 7, 7], np.int32))
    near = np.tile(np.arange(11), (11, 1))
    near[:, 0] = np.arange(11)
    assert weights_of(adaptive_sets(names, near, sure)) == pytest.approx({7: 1 - FLOOR, 4: FLOOR}, abs=1e-6)


def simulate(images_a_class, spread, accuracy, seed=0):
    """36 classes in 6 genera; wrong labels are of the same genus. True ids, labels, the 11 nearest by rank."""
    random = np.random.default_rng(seed)
    centres = np.repeat(random.normal(size=(6, 24)), 6, axis=0) + 0.8 * random.normal(size=(36, 24))
    truth = np.repeat(np.arange(36), images_a_class)
    vectors = centres[truth] + spread * random.normal(size=(len(truth), 24))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first = truth // 6 * 6
    wrong = first + (truth - first + random.integers(1, 6, len(truth))) % 6
    own = np.where(random.random(len(truth)) < accuracy, truth, wrong).astype(np.int32)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, 2.0)
    return truth.astype(np.int32), own, np.argsort(-similar, axis=1)[:, :11]


def heaviest_right(sets, truth):
    return (sets.label_ids[np.arange(len(truth)), sets.weights.argmax(axis=1)] == truth).mean()


def weight_on_truth(sets, truth):
    return (sets.weights * (sets.label_ids == truth[:, None])).sum(axis=1).mean()


@pytest.mark.parametrize("images_a_class", [3, 10, 30])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noisy_labels_in_pure_neighbourhoods(images_a_class, seed):
    truth, own, near = simulate(images_a_class, 0.5, 0.65, seed)
    agreement = estimate(own[near], k=3)
    assert agreement.label_accuracy == pytest.approx((own == truth).mean(), abs=0.06)
    assert agreement.neighbour_precision == pytest.approx((truth[near[:, 1:3]] == truth[:, None]).mean(), abs=0.08)
    assert agreement.purer
    names, k = single_sets(own), reach(agreement)
    adaptive = adaptive_sets(names, near[:, :k], agreement)
    three = neighbour_sets(names, near[:, :3], np.ones((len(own), 3), np.float32))
    assert heaviest_right(adaptive, truth) > (own == truth).mean() + 0.1
    assert weight_on_truth(adaptive, truth) > weight_on_truth(three, truth) + 0.15
    assert coverage(adaptive, truth) > coverage(three, truth) - 0.05  # which the unlikely names may cost


@pytest.mark.parametrize("images_a_class", [3, 10, 30])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clean_labels_in_impure_neighbourhoods(images_a_class, seed):
    truth, own, near = simulate(images_a_class, 1.4, 0.95, seed)
    agreement = estimate(own[near], k=3)
    assert not agreement.purer
    assert (truth[near[:, 1:3]] == truth[:, None]).mean() < (own == truth).mean()
    assert reach(agreement) == 1  # sets would only spoil: every image keeps its own label


def test_weights_sum_to_one_and_sets_are_credible():
    own, near = simulate(10, 1.0, 0.65)[1:]
    agreement = estimate(own[near], k=3)
    names = single_sets(own)
    sets = adaptive_sets(names, near[:, : reach(agreement)], agreement)
    np.testing.assert_allclose(sets.weights.sum(axis=1), 1, atol=1e-5)
    assert ((sets.label_ids == own[:, None]) & (sets.weights >= FLOOR - 1e-6)).any(axis=1).all()
    others = np.where(sets.label_ids == own[:, None], 0.0, sets.weights)
    smallest = np.where(others > 0, others, np.inf).min(axis=1)
    # Without its least likely name a set would hold less than MASS (of what it holds now, which is no more than all).
    assert (1 - smallest < MASS + FLOOR)[np.isfinite(smallest)].all()
