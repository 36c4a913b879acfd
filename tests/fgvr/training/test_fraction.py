from itertools import pairwise

import numpy as np
import pytest

from fgvr.training.fraction import fraction_of

SHARES = (0.05, 0.2, 0.4, 0.6, 0.8, 0.99, 1.0)


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
    shares = [fraction_of(classes, share, seed=2) for share in SHARES]
    for smaller, larger in pairwise(shares):
        assert not (smaller & ~larger).any()
    assert shares[-1].all()
    for share, chosen in zip(SHARES, shares, strict=True):
        assert chosen.sum() == max(len(sizes), round(share * len(classes)))
        assert len(np.unique(classes[chosen])) == len(sizes)


def test_the_images_of_a_class_are_drawn_evenly_by_the_seed():
    classes = np.repeat([0, 1], [10, 40])
    drawn = np.mean([fraction_of(classes, 0.4, seed) for seed in range(600)], axis=0)
    # Each image in 40% of the draws; the standard error of one is 0.02.
    assert abs(drawn - 0.4).max() < 0.08
    assert (fraction_of(classes, 0.4, 7) == fraction_of(classes, 0.4, 7)).all()
    assert (fraction_of(classes, 0.4, 7) != fraction_of(classes, 0.4, 8)).any()
