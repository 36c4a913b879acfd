"""Label issues: which come first, what is suggested instead, and the propagation against a dense solution."""

import math

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from fgvr.arrays import NONE
from fgvr.beliefs.confusion import confusion_posterior
from fgvr.beliefs.label_issues import label_issues, out_of_fold
from tests.fgvr.beliefs.noisy_clusters import nearest, planted, unit


def nobody(count):
    return np.full(count, NONE, np.int32)


def spread_by_hand(own, names, ids, similarities, checked, seed=0):
    """Out-of-fold propagation with dense matrices, as fgvr.heads.propagation's docstring has it."""
    count = len(own)
    weights = np.zeros((count, count))
    for i in range(count):
        for j, similarity in zip(ids[i], similarities[i], strict=True):
            weights[i, j] = max(weights[i, j], math.exp(10 * (similarity - 1)))
    weights = np.maximum(weights, weights.T)
    root = np.diag(1 / np.sqrt(weights.sum(axis=1)))
    links = root @ weights @ root
    judged = np.flatnonzero((own != NONE) & (checked == NONE))
    folds = np.full(count, -1)
    folds[judged] = np.random.default_rng(seed).permutation(len(judged)) % 5
    shares = np.zeros((count, names))
    for fold in range(5):
        start = np.zeros((count, names))
        for i in range(count):
            label = own[i] if checked[i] == NONE else checked[i]
            if label != NONE and folds[i] != fold:
                start[i, label] = 1
        start /= np.maximum(start.sum(axis=0), 1)
        mass = np.zeros_like(start)
        for _ in range(20):
            mass = 0.9 * links @ mass + 0.1 * start
        rows = folds == fold
        shares[rows] = mass[rows] / np.maximum(mass[rows].sum(axis=1, keepdims=True), 1e-300)
    return shares


def test_the_shares_by_dense_matrices():
    data = planted(1, classes=5, each=9, spread=0.35)
    own, checked = data.own.copy(), nobody(45)
    own[3], checked[8] = NONE, data.truth[8]
    ids, similarities = nearest(data.vectors, 10)
    own_share, other, other_share = out_of_fold(own, 5, ids, similarities, checked=checked)
    shares = spread_by_hand(own, 5, ids, similarities, checked)
    for i in np.flatnonzero((own != NONE) & (checked == NONE)):
        rest = shares[i].copy()
        rest[own[i]] = 0
        assert own_share[i] == pytest.approx(shares[i, own[i]], rel=1e-4)
        assert (other[i], other_share[i]) == (rest.argmax(), pytest.approx(rest.max(), rel=1e-4))


def test_the_score_is_the_mean_of_two_ranks():
    data = planted(1, classes=6, each=15)
    ids, similarities = nearest(data.vectors, 10)
    found = label_issues(data.own, data.vectors, 6, ids, similarities)
    doubt = confusion_posterior(data.own, data.vectors, 6).doubt
    expected = (rankdata(found.other_share - found.own_share) + rankdata(doubt)) / 2 / 90
    np.testing.assert_allclose(found.score, expected)
    assert found.worst(5).tolist() == np.argsort(-expected, kind="stable")[:5].tolist()


def test_wrong_labels_come_first_with_the_right_name_suggested():
    data = planted(2, classes=8, each=25)
    ids, similarities = nearest(data.vectors, 10)
    found = label_issues(data.own, data.vectors, 8, ids, similarities)
    assert roc_auc_score(data.wrong, found.score) > 0.97
    worst = found.worst(30)
    assert data.wrong[worst].mean() > 0.9
    assert (found.suggested[worst, 0] == data.truth[worst]).mean() > 0.9
    assert not (found.suggested == data.own[:, None]).any()


def test_the_lists_second_name_is_suggested_last():
    data = planted(2, classes=8, each=10)
    ids, similarities = nearest(data.vectors, 10)
    listed = np.column_stack([data.own, (data.own + 3) % 8]).astype(np.int32)
    found = label_issues(data.own, data.vectors, 8, ids, similarities, listed=listed)
    assert (found.suggested == listed[:, 1, None]).any(axis=1).mean() > 0.9


def test_what_is_checked_or_has_no_label_is_not_judged():
    data = planted(2, classes=4, each=10)
    own, checked = data.own.copy(), nobody(40)
    own[0], checked[1] = NONE, data.truth[1]
    ids, similarities = nearest(data.vectors, 10)
    found = label_issues(own, data.vectors, 4, ids, similarities, checked=checked)
    assert np.flatnonzero(np.isnan(found.score)).tolist() == [0, 1]
    assert not {0, 1} & set(found.worst(40).tolist())


def test_no_neighbours_one_name_no_images():
    data = planted(2, classes=4, each=5)
    alone = np.full((20, 10), NONE, np.int64), np.zeros((20, 10), np.float32)
    found = label_issues(data.own, data.vectors, 4, *alone)
    assert (found.other == NONE).all()
    assert np.isfinite(found.score).all()  # the posterior still orders them
    one = label_issues(np.zeros(20, np.int32), data.vectors, 1, *nearest(data.vectors, 5))
    assert len(set(one.score.tolist())) == 1
    assert (one.suggested == NONE).all()
    none = label_issues(nobody(0), data.vectors[:0], 3, alone[0][:0], alone[1][:0])
    assert none.worst(5).tolist() == []
    unlabelled = label_issues(nobody(20), data.vectors, 4, *alone)
    assert unlabelled.worst(5).tolist() == []


def test_bad_input_is_refused():
    vectors = unit(np.eye(4))
    near = nearest(vectors, 2)
    with pytest.raises(ValueError, match=r"of \[4, 3, 4, 4, 4\] images"):
        label_issues(np.zeros(4, np.int32), vectors[:3], 2, *near)
