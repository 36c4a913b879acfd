"""The classifier from answers alone, against scikit-learn's BernoulliNB fitted anew without each answer."""

import numpy as np
import pytest
from sklearn.naive_bayes import BernoulliNB

from fgvr.evaluation.aspects import ClassSums, leave_one_out


def guide(images=400, classes=6, questions=8, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random((classes, questions))
    labels = rng.integers(0, classes, images)
    answers = (rng.random((images, questions)) < truth[labels]).astype(np.float32)
    return rng.integers(0, 2, images), labels, answers


def sums_of(folds, labels, answers, classes):
    sums = ClassSums(classes, answers.shape[1])
    sums.add(folds, labels, answers)
    return sums


def hits(folds, labels, answers):
    right = np.zeros(len(labels))
    for fold in (0, 1):
        model = BernoulliNB().fit(answers[folds != fold], labels[folds != fold])
        right[folds == fold] = model.predict(answers[folds == fold]) == labels[folds == fold]
    return right


def test_it_is_scikit_learn_s_fitted_again_without_each_answer():
    folds, labels, answers = guide()
    found = leave_one_out(sums_of(folds, labels, answers, 6), folds, labels, answers)
    right = hits(folds, labels, answers)
    assert found is not None
    assert found.images == 400
    assert found.accuracy == pytest.approx(right.mean())
    for question in range(8):
        lost = right - hits(folds, labels, np.delete(answers, question, axis=1))
        assert found.drop[question] == pytest.approx(lost.mean())
        assert found.error[question] == pytest.approx(lost.std() / 20)


def test_a_sample_is_judged_by_the_sums_of_all():
    folds, labels, answers = guide()
    sums = sums_of(folds, labels, answers, 6)
    all_of_them, few = (
        leave_one_out(sums, folds, labels, answers),
        leave_one_out(sums, folds[:50], labels[:50], answers[:50]),
    )
    assert all_of_them is not None
    assert few is not None
    assert few.accuracy == pytest.approx(hits(folds, labels, answers)[:50].mean())


def test_a_missing_answer_tells_nothing():
    folds, labels, answers = guide()
    sums = sums_of(folds, labels, answers, 6)
    answers[:, 3] = np.nan
    found = leave_one_out(sums, folds, labels, answers)
    assert found is not None
    assert found.drop[3] == 0


@pytest.mark.parametrize(
    ("folds", "labels", "questions"),
    [([], [], 2), ([0, 1, 0, 1], [0, 0, 0, 0], 2), ([0, 0, 0, 0], [0, 1, 0, 1], 2), ([0, 1, 0, 1], [0, 0, 1, 1], 0)],
)
def test_where_nothing_can_be_told_apart(folds, labels, questions):
    folds, labels = np.array(folds, dtype=np.int64), np.array(labels, dtype=np.int64)
    answers = np.full((len(labels), questions), 0.5, dtype=np.float32)
    assert leave_one_out(sums_of(folds, labels, answers, 2), folds, labels, answers) is None


def test_many_classes_are_judged_in_parts(monkeypatch):
    folds, labels, answers = guide()
    sums = sums_of(folds, labels, answers, 6)
    whole = leave_one_out(sums, folds, labels, answers)
    monkeypatch.setattr("fgvr.evaluation.aspects._CELLS", 60)
    parts = leave_one_out(sums, folds, labels, answers)
    assert whole is not None
    assert parts is not None
    assert parts.accuracy == whole.accuracy
    np.testing.assert_array_equal(parts.drop, whole.drop)
