from itertools import pairwise

import numpy as np
import pytest

from fgvr.training.targets import (
    TrueClasses,
    fraction_of,
    held_out,
    spread,
    true_targets,
)


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_true_classes_become_dense_outputs():
    targets = true_targets(TrueClasses(ids(7, -1, 3, 7), ["finch", None, None, "finch"]))
    assert targets.classes.tolist() == [1, -1, 0, 1]
    assert targets.labels == ("class 3", "finch")


def test_true_classes_that_cannot_be_used():
    with pytest.raises(ValueError, match="no training image has a true class"):
        true_targets(TrueClasses(ids(-1, -1), [None, None]))
    with pytest.raises(ValueError, match=r"class id 7 has two names.*'finch'.*'robin'"):
        true_targets(TrueClasses(ids(7, 7), ["finch", "robin"]))


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


FRACTIONS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.99, 1.0)


def test_every_class_gives_its_share_and_keeps_an_image():
    # Classes of 100, 50, 10 and 1 images, 161 in all; 40% are 64: 40, 20, 4, and the only image of the last.
    classes = np.random.default_rng(5).permutation(np.repeat([3, 0, 7, 9], [100, 50, 10, 1]))
    for seed in range(20):
        chosen = fraction_of(classes, 0.4, seed)
        assert chosen.sum() == 64
        taken = {int(label): int((classes[chosen] == label).sum()) for label in (3, 0, 7, 9)}
        assert taken.pop(9) == 1
        for label, expected in {3: 40, 0: 20, 7: 4}.items():
            assert abs(taken[label] - expected) <= 1


@pytest.mark.parametrize("sizes", [[30] * 12, [1, 2, 3, 5, 8, 13, 21, 34], [1] * 9, [400, 1]])
def test_a_smaller_share_is_inside_a_larger_one(sizes):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    shares = [fraction_of(classes, share, seed=2) for share in FRACTIONS]
    for smaller, larger in pairwise(shares):
        assert not (smaller & ~larger).any()
    assert shares[-1].all()
    for share, chosen in zip(FRACTIONS, shares, strict=True):
        assert chosen.sum() == max(len(sizes), round(share * len(classes)))
        assert len(np.unique(classes[chosen])) == len(sizes)


def test_the_images_of_a_class_are_drawn_evenly_by_the_seed():
    classes = np.repeat([0, 1], [10, 40])
    drawn = np.mean([fraction_of(classes, 0.4, seed) for seed in range(600)], axis=0)
    # Each image in 40% of the draws; the standard error of one is 0.02.
    assert abs(drawn - 0.4).max() < 0.08
    assert (fraction_of(classes, 0.4, 7) == fraction_of(classes, 0.4, 7)).all()
    assert (fraction_of(classes, 0.4, 7) != fraction_of(classes, 0.4, 8)).any()
