"""The confusion posterior: against the formula in loops, and what it makes of planted mistakes."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fgvr.arrays import NONE
from fgvr.beliefs.confusion import confusion_posterior
from fgvr.beliefs.names_near import joined, nearest_names, nearness
from tests.fgvr.beliefs.noisy_clusters import planted, unit


def by_the_formula(own, vectors, names, listed, checked, rounds=8):  # noqa: C901 - the formula in one piece
    """R over all V names in plain loops, as the module's docstring has it, and −log odds of the own names."""
    count = len(own)
    shares = np.zeros((count, names))
    for i in range(count):
        shares[i] = 0.3 / (names - 1)
        shares[i, own[i]] = 0.7
        if checked[i] != NONE:
            shares[i] = np.arange(names) == checked[i]
    for _ in range(rounds):
        q = min(max(np.mean([shares[i, own[i]] for i in range(count)]), 0.01), 0.99)
        ranks = np.ones(listed.shape[1])  # at ranks 2 …, then at none; one image each beforehand
        for i in range(count):
            on = [name for name in listed[i] if name != NONE]
            for j in range(names):
                if j != own[i]:
                    ranks[on.index(j) - 1 if j in on else -1] += shares[i, j]
        ranks /= ranks.sum()
        logs = np.zeros((count, names))
        for i in range(count):
            on = [name for name in listed[i] if name != NONE]
            others = [k for k in range(count) if k != i]
            for j in range(names):
                often = np.mean(own == own[i])
                together = sum(shares[k, j] for k in others if own[k] == own[i])
                images = sum(shares[k, j] for k in others)
                theta = (5 * (q * (own[i] == j) + (1 - q) * often) + together) / (5 + images)
                rho = 1.0
                if j != own[i]:
                    rho = ranks[on.index(j) - 1] if j in on else ranks[-1] / (names - listed.shape[1])
                total = sum(shares[k, j] * vectors[k].astype(float) for k in others)
                near = vectors[i] @ total / (np.linalg.norm(total) + 1)
                logs[i, j] = math.log(theta) + math.log(rho) + 10 * near
        for i in range(count):
            if checked[i] == NONE:
                shares[i] = np.exp(logs[i] - logs[i].max())
                shares[i] /= shares[i].sum()
    odds = [
        math.log(sum(math.exp(logs[i, j]) for j in range(names) if j != own[i])) - logs[i, own[i]] for i in range(count)
    ]
    return shares, np.array(odds)


@pytest.mark.parametrize("lists", [False, True])
def test_it_is_the_formula(lists):
    data = planted(3, classes=5, each=5, spread=0.3)
    random = np.random.default_rng(0)
    listed = data.own[:, None]
    if lists:
        others = [random.permutation([j for j in range(5) if j != own])[:2] for own in data.own]
        listed = np.column_stack([data.own, others]).astype(np.int32)
    checked = np.full(25, NONE, np.int32)
    checked[[2, 9]] = data.truth[[2, 9]]
    found = confusion_posterior(data.own, data.vectors, 5, listed=listed, checked=checked)
    expected, odds = by_the_formula(data.own, data.vectors, 5, listed, checked)
    dense = np.zeros((25, 5))
    rows, places = np.nonzero(found.labels != NONE)
    dense[rows, found.labels[rows, places]] = found.shares[rows, places]
    np.testing.assert_allclose(dense, expected, atol=1e-6)
    open_ = checked == NONE
    np.testing.assert_allclose(found.doubt[open_], odds[open_], atol=1e-4)
    assert found.label_accuracy == pytest.approx(np.mean(expected[np.arange(25), data.own]))


def test_wrong_labels_come_first():
    data = planted(1, classes=8, each=25)
    found = confusion_posterior(data.own, data.vectors, 8)
    assert roc_auc_score(data.wrong, found.doubt) > 0.95
    worst = np.argsort(-found.doubt)[:20]
    assert data.wrong[worst].mean() > 0.9
    assert (found.other[worst] == data.truth[worst]).mean() > 0.8


def test_what_a_person_has_said_is_certain():
    data = planted(1, classes=4, each=10)
    checked = np.full(40, NONE, np.int32)
    checked[:4] = data.truth[:4]
    found = confusion_posterior(data.own, data.vectors, 4, checked=checked)
    said = found.labels[:4][found.shares[:4] == 1]
    assert said.tolist() == data.truth[:4].tolist()
    assert found.doubt[:4].tolist() == [math.inf if wrong else -math.inf for wrong in data.wrong[:4]]


def test_one_name_cannot_be_wrong():
    vectors = unit(np.random.default_rng(0).standard_normal((6, 4)))
    found = confusion_posterior(np.zeros(6, np.int32), vectors, 1)
    assert (found.doubt == -math.inf).all()
    assert (found.other == NONE).all()
    assert found.label_accuracy == 1


def test_no_images():
    found = confusion_posterior(np.zeros(0, np.int32), np.zeros((0, 4), np.float32), 3)
    assert found.doubt.shape == (0,)
    assert found.other.shape == (0,)


def test_bad_input_is_refused():
    vectors = unit(np.eye(3))
    with pytest.raises(ValueError, match="3 names, 2 vectors"):
        confusion_posterior(np.zeros(3, np.int32), vectors[:2], 2)
    with pytest.raises(ValueError, match="1 of 3 images have no name"):
        confusion_posterior(np.array([0, NONE, 1], np.int32), vectors, 2)


def test_joined_names_are_distinct_and_keep_the_first_column():
    parts = np.array([[NONE], [4]], np.int32), np.array([[2, 2, 7], [7, 4, NONE]], np.int32)
    assert joined(*parts).tolist() == [[NONE, 2, 7], [4, 7, NONE]]


def test_nearness_by_hand():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    labels = np.array([[0, 1], [0, NONE], [1, 0]], np.int32)
    shares = np.array([[0.5, 0.5], [1.0, 0.0], [1.0, 0.0]])
    # For image 0: name 0 has image 1 alone, of length 1, so 1 / (1 + 1); name 1 has image 2, at a right angle. For
    # image 1: half of image 0, .5 / 1.5. For image 2: name 1 has half of image 0, at a right angle; so has name 0.
    found = nearness(vectors, labels, shares, 2)
    np.testing.assert_allclose(found, [[0.5, 0], [1 / 3, 0], [0, 0]], atol=1e-6)


def test_nearest_names_are_those_of_the_nearest_prototypes():
    vectors = unit(np.array([[1, 0], [1, 0.2], [0, 1], [-1, 0]]))
    own = np.array([3, 3, 1, NONE], np.int32)
    assert nearest_names(vectors, own, 9, most=1).tolist() == [[3], [3], [1], [1]]
    assert sorted(nearest_names(vectors, own, 9)[0].tolist()) == [1, 3]
    assert nearest_names(vectors, np.full(4, NONE, np.int32), 9).tolist() == [[NONE]] * 4
