"""Quality measures against numbers worked by hand and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, silhouette_score

from fgvr.compare.quality import accuracies, finite, macro_f1, ranks_of, silhouette


def test_ranks_of_true_names_whatever_their_spelling() -> None:
    labels = ["Tern", "black-headed gull", "Wren", "Owl", "Jay", "Finch"]
    scores = np.array([[6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]], np.float32)
    found = ranks_of(scores, labels, ["tern", "Black-Headed Gull", "Tern", "Heron"])
    assert found.tolist() == [0, 1, -1, -1]  # the sixth best name and an unknown one are none of the five best


def test_top1_and_top5_by_hand() -> None:
    top1, top5 = accuracies(np.array([0, 1, 4, -1]), 9, resamples=200, seed=0)
    assert (top1.value, top5.value) == (25.0, 75.0)
    assert top1.low is not None
    assert top1.high is not None
    assert 0 <= top1.low <= 25 <= top1.high <= 100
    assert top1.note == top5.note == ""


def test_top5_of_fewer_than_five_names_says_so() -> None:
    _, top5 = accuracies(np.array([0, 2]), 3, resamples=0, seed=0)
    assert (top5.value, top5.note, top5.low) == (100.0, "top-3: the student knows 3 names", None)


def test_macro_f1_with_absent_classes_is_that_of_scikit_learn() -> None:
    true = ["a", "a", "a", "b", "b", "c"]
    said = ["a", "a", "d", "b", "a", "b"]  # c is never said, d never true
    # By hand: a: 2·2/(3 + 3) = 2/3; b: 2·1/(2 + 2) = 1/2; c: 0; mean 7/18.
    assert macro_f1(said, true).value == pytest.approx(100 * 7 / 18)
    expected = f1_score(true, said, labels=["a", "b", "c"], average="macro", zero_division=0)
    assert macro_f1(said, true).value == pytest.approx(100 * expected)


def test_macro_f1_of_one_class_and_of_no_photo() -> None:
    one = macro_f1(["a", "b"], ["a", "a"])
    assert one.value == pytest.approx(100 * 2 / 3)
    assert "one class" in one.note
    assert macro_f1([], []).value is None


def test_silhouette_of_two_points_far_apart_is_one_and_of_random_labels_about_zero() -> None:
    apart = np.repeat(np.array([[-1.0, 0.0], [1.0, 0.0]], np.float32), 10, axis=0)
    names = ["a"] * 10 + ["b"] * 10
    assert silhouette(apart, names, most=5000, seed=0).value == pytest.approx(1)
    noise = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    random = silhouette(noise, [str(n % 4) for n in range(400)], most=5000, seed=0).value
    assert random == pytest.approx(0, abs=0.03)
    assert random == pytest.approx(float(silhouette_score(noise, np.arange(400) % 4)))


def test_silhouette_is_of_a_seeded_sample_of_many_photos() -> None:
    noise = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    names = [str(n % 3) for n in range(300)]
    first, again = (silhouette(noise, names, most=100, seed=7) for _ in range(2))
    assert first == again
    assert first.note == "of 100 photos"
    assert silhouette(noise, names, most=100, seed=8).value != first.value


@pytest.mark.parametrize(
    ("names", "why"), [(["a", "A", "a"], "one class only"), (["a", "b", "c"], "one photo per class")]
)
def test_a_silhouette_that_is_not_defined_says_why(names: list[str], why: str) -> None:
    found = silhouette(np.eye(3, dtype=np.float32), names, most=10, seed=0)
    assert found.value is None
    assert why in found.note


def test_vectors_that_are_missing_or_not_finite_have_no_silhouette() -> None:
    assert silhouette(None, ["a", "b"], most=10, seed=0).value is None
    broken = np.array([[np.nan], [0], [1], [2]], np.float32)
    assert "not finite" in silhouette(broken, ["a", "a", "b", "b"], most=10, seed=0).note
    assert finite(np.array([[0.5, 0.5], [np.nan, 0.5]], np.float32)).tolist() == [True, False]
