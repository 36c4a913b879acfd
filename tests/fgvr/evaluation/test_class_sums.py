"""Class means and mutual information, against scikit-learn and a table worked by hand."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from fgvr.evaluation.aspects import ClassSums, chance_bits, entropy, halves, mutual_information


def sums_of(classes, p_yes, folds=None, number=None):
    classes = np.asarray(classes, dtype=np.int64)
    p_yes = np.asarray(p_yes, dtype=np.float32)
    sums = ClassSums(number or classes.max() + 1, p_yes.shape[1])
    sums.add(np.arange(len(classes)) % 2 if folds is None else np.asarray(folds), classes, p_yes)
    return sums


def bits(sums):
    return mutual_information(sums.means(), sums.counts.sum(axis=0))


@pytest.mark.parametrize("order", [[0, 1] * 6, [0] * 6 + [1] * 6, [0, 0, 1, 1] * 3])
def test_both_halves_have_half_of_every_class_in_whatever_order_they_are_listed(order):
    classes = np.array(order)
    folds = halves(classes)
    assert [np.bincount(folds[classes == one], minlength=2).tolist() for one in (0, 1)] == [[3, 3], [3, 3]]


def test_halves_of_odd_classes():
    assert halves(np.array([5, 2, 5, 5, 9])).tolist() == [1, 0, 0, 1, 0]


def test_means_leave_missing_answers_out():
    nan = np.nan
    sums = sums_of([0, 0, 2, 2], [[0.2, 1.0], [0.4, nan], [nan, nan], [0.9, nan]])
    np.testing.assert_allclose(sums.means(), [[0.3, 1.0], [nan, nan], [0.9, nan]], atol=1e-7)
    assert sums.images.sum(axis=0).tolist() == [2, 0, 2]
    assert sums.counts.sum(axis=0).tolist() == [[2, 1], [0, 0], [1, 0]]


def test_parts_add_up():
    rng = np.random.default_rng(0)
    classes, p = rng.integers(0, 4, 50), rng.random((50, 3), dtype=np.float32)
    whole = sums_of(classes, p)
    parts = ClassSums(4, 3)
    for rows in np.split(np.arange(50), [7, 20]):
        parts.add(rows % 2, classes[rows], p[rows])
    np.testing.assert_allclose(parts.sums, whole.sums)
    np.testing.assert_array_equal(parts.counts, whole.counts)


def test_of_certain_answers_it_is_scikit_learn_s():
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 7, 300)
    answers = np.stack([(classes == 3), (classes < 4), rng.random(300) < 0.3], axis=1).astype(np.float32)
    expected = [mutual_info_score(classes, answers[:, q]) / np.log(2) for q in range(3)]
    np.testing.assert_allclose(bits(sums_of(classes, answers)), expected, atol=1e-9)


def test_worked_by_hand():
    # Two classes of two images. Certain and right: 1 bit. p = 0.75 / 0.25: 1 - H(0.75) = 1 - 0.811278.
    sums = sums_of([0, 0, 1, 1], [[1, 0.75, 0.5], [1, 0.75, 0.5], [0, 0.25, 0.5], [0, 0.25, 0.5]])
    np.testing.assert_allclose(bits(sums), [1, 0.188722, 0], atol=1e-6)


def test_an_aspect_that_nobody_answered_tells_nothing():
    assert bits(sums_of([0, 1], [[np.nan], [np.nan]])).tolist() == [0]


def test_entropy():
    np.testing.assert_allclose(entropy(np.array([0, 0.5, 0.25, 1])), [0, 1, 0.811278, 0], atol=1e-6)


def test_chance_is_what_answers_without_meaning_seem_to_tell():
    rng = np.random.default_rng(2)
    classes = np.repeat(np.arange(20), 15)
    seen = [bits(sums_of(classes, rng.integers(0, 2, (300, 1))))[0] for _ in range(200)]
    counts = sums_of(classes, np.zeros((300, 1))).counts.sum(axis=0)
    assert chance_bits(counts)[0] == pytest.approx(19 / (600 * np.log(2)))
    assert np.mean(seen) == pytest.approx(chance_bits(counts)[0], rel=0.1)
