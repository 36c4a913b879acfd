import numpy as np
import pytest

from fgvr.training.targets import NearLabels, TrueClasses, held_out, near_targets, spread, true_targets, wants_near


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("target", "classes", "near"),
    [
        ("auto", ids(0, 1, 0), False),
        ("auto", ids(0, -1, 0), True),  # a mixture would have two classes for one species
        ("auto", ids(-1, -1), True),
        ("true", ids(0, -1), False),
        ("near", ids(0, 1), True),
    ],
)
def test_who_gives_the_targets(target, classes, near):
    assert wants_near(target, classes) is near


def test_true_classes_become_dense_outputs():
    targets = true_targets(TrueClasses(ids(7, -1, 3, 7), ["finch", None, None, "finch"]))
    assert targets.classes.tolist() == [1, -1, 0, 1]
    assert targets.labels == ("class 3", "finch")


def test_true_classes_that_cannot_be_used():
    with pytest.raises(ValueError, match="no training image has a true class"):
        true_targets(TrueClasses(ids(-1, -1), [None, None]))
    with pytest.raises(ValueError, match=r"class id 7 has two names.*'finch'.*'robin'"):
        true_targets(TrueClasses(ids(7, 7), ["finch", "robin"]))


def test_near_prefers_the_disambiguated_label():
    space = ("a", "b", "c")
    targets = near_targets(NearLabels(ids(2, -1, -1), ids(0, 1, -1), space))
    assert targets.classes.tolist() == [2, 1, -1]
    assert targets.labels == space
    with pytest.raises(ValueError, match="nothing to learn"):
        near_targets(NearLabels(ids(-1), ids(-1), space))


def test_spread_puts_rows_beside_their_images():
    values = np.array([[0.5, 0.25], [1.0, 0.0], [9.0, 9.0]], dtype=np.float32)
    beside = spread(ids(2, 4, 6), ids(6, 2, 5), values, np.nan)  # image 5 is not trained on, 4 has no row
    assert beside[0].tolist() == [0.5 * 2, 0.0]  # row of image 2
    assert np.isnan(beside[1]).all()
    assert beside[2].tolist() == [0.5, 0.25]
    assert np.isnan(spread(ids(1), ids(), values[:0], np.nan)).all()


def test_validation_is_stratified_by_largest_remainders():
    # Classes of 10, 10, 5 and 1 images at 20%: 2, 2, 1 and nothing of the class of one.
    classes = np.repeat([0, 1, 2, 3], [10, 10, 5, 1])
    chosen = held_out(classes, 0.2, seed=0)
    assert np.bincount(classes[chosen], minlength=4).tolist() == [2, 2, 1, 0]
    # 15%: quotas 1.5, 1.5, 0.75, 0.15, in all 3.9, so 4: floors 1, 1, 0, 0, then class 2 and one of classes 0 and 1.
    counts = np.bincount(classes[held_out(classes, 0.15, seed=0)], minlength=4)
    assert counts.sum() == 4
    assert counts[2] == 1
    assert sorted(counts[:2]) == [1, 2]


def test_validation_never_takes_a_class_whole_nor_images_without_class():
    classes = np.array([0, 0, 1, -1, -1, -1])
    chosen = held_out(classes, 0.9, seed=1)
    assert chosen.sum() == 1
    assert classes[chosen].tolist() == [0]


def test_validation_follows_from_the_seed():
    classes = np.random.default_rng(0).integers(0, 5, 200)
    first = held_out(classes, 0.1, seed=3)
    assert first.sum() == 20
    assert (first == held_out(classes, 0.1, seed=3)).all()
    assert (first != held_out(classes, 0.1, seed=4)).any()
    assert not held_out(classes, 0, seed=3).any()
