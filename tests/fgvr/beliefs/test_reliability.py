"""Several sources: against Dawid and Skene's own equations in plain loops, and where they differ in what they cover."""

import math

import numpy as np
import pytest

from fgvr.arrays import NONE
from fgvr.beliefs.reliability import reliabilities


def dawid_skene(labels, names, rounds):
    """Equations 2.3 to 2.5 of the paper in plain loops, from majority votes."""
    count, sources = labels.shape
    shares = np.zeros((count, names))
    for i in range(count):
        for s in range(sources):
            if labels[i, s] != NONE:
                shares[i, labels[i, s]] += 1
        shares[i] /= shares[i].sum()
    for _ in range(rounds):
        theta = np.zeros((sources, names, names))
        for s in range(sources):
            for j in range(names):
                labelled = sum(shares[i, j] for i in range(count) if labels[i, s] != NONE)
                for a in range(names):
                    theta[s, j, a] = sum(shares[i, j] for i in range(count) if labels[i, s] == a) / labelled
        prior = shares.sum(axis=0) / count
        for i in range(count):
            for j in range(names):
                shares[i, j] = prior[j] * math.prod(
                    theta[s, j, labels[i, s]] for s in range(sources) if labels[i, s] != NONE
                )
            shares[i] /= shares[i].sum()
    return shares, theta


def sources(seed, accuracies, names=4, count=120, missing=0.1):
    random = np.random.default_rng(seed)
    truth = random.integers(0, names, count).astype(np.int32)
    columns = []
    for accuracy in accuracies:
        other = (truth + random.integers(1, names, count)) % names
        said = np.where(random.random(count) < accuracy, truth, other)
        columns.append(np.where(random.random(count) < missing, NONE, said))
    labels = np.column_stack(columns).astype(np.int32)
    labels[(labels == NONE).all(axis=1), 0] = 0
    return truth, labels


def test_it_is_the_papers_em():
    _, labels = sources(0, (0.9, 0.7, 0.5, 0.6))
    found = reliabilities(labels, 4, strength=0.0)
    expected, _ = dawid_skene(labels, 4, found.rounds)
    dense = np.zeros((len(labels), 4))
    rows, places = np.nonzero(found.labels != NONE)
    dense[rows, found.labels[rows, places]] = found.shares[rows, places]
    np.testing.assert_allclose(dense, expected, atol=1e-9)
    for source in range(4):
        said = labels[:, source] != NONE
        assert found.right[source] == pytest.approx(expected[said, labels[said, source]].mean())


def test_it_beats_the_vote_and_knows_who_is_right():
    truth, labels = sources(1, (0.9, 0.55, 0.5, 0.5), names=8, count=600, missing=0.0)
    found = reliabilities(labels, 8)
    votes = np.array([np.bincount(row, minlength=8).argmax() for row in labels])
    assert (found.best == truth).mean() > (votes == truth).mean() + 0.01
    np.testing.assert_allclose(found.right, (labels == truth[:, None]).mean(axis=0), atol=0.06)


def test_names_that_no_source_gave_an_image_are_not_tried_in_large_label_spaces():
    truth, labels = sources(2, (0.8, 0.7, 0.7), names=500, count=400)
    found = reliabilities(labels, 500)
    assert found.labels.shape[1] <= 4
    assert (found.best == truth).mean() > 0.84


def test_one_source_is_its_own_label():
    labels = np.array([[2], [0], [NONE]], np.int32)
    found = reliabilities(labels, 3)
    assert found.best.tolist() == [2, 0, NONE]
    assert np.isnan(found.right).all()
    assert found.rounds == 0
    checked = np.array([2, 1, 1], np.int32)
    looked = reliabilities(labels, 3, checked=checked)
    assert looked.best.tolist() == [2, 1, 1]
    assert looked.right.tolist() == [0.5]  # right of one of the two that both it and a person named


def test_checked_photos_tell_which_of_two_sources_is_right():
    truth, labels = sources(3, (0.9, 0.6), names=5, count=400, missing=0.0)
    checked = np.full(400, NONE, np.int32)
    checked[:150] = truth[:150]
    found = reliabilities(labels, 5, checked=checked)
    assert found.right[0] > found.right[1] + 0.15
    differ = (labels[:, 0] != labels[:, 1]) & (checked == NONE)
    assert (found.best == truth)[differ].mean() > 0.6


def test_agreement_by_hand():
    labels = np.array([[0, 0, NONE], [1, 2, NONE], [1, NONE, NONE]], np.int32)
    found = reliabilities(labels, 3)
    np.testing.assert_array_equal(found.agreement, [[1, 0.5, np.nan], [0.5, 1, np.nan], [np.nan] * 3])
    assert np.isnan(found.right[2])


def test_one_class_and_no_images():
    assert reliabilities(np.zeros((4, 2), np.int32), 1).best.tolist() == [0] * 4
    assert reliabilities(np.zeros((0, 2), np.int32), 3).best.shape == (0,)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no source"):
        reliabilities(np.zeros((3, 0), np.int32), 2)
    with pytest.raises(ValueError, match="labels from 0 to 5 in a label space of 3"):
        reliabilities(np.array([[0, 5]], np.int32), 3)
    with pytest.raises(ValueError, match="2 labelled images and 1 checks"):
        reliabilities(np.zeros((2, 2), np.int32), 3, checked=np.zeros(1, np.int32))
