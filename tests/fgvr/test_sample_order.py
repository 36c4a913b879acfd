"""Samples of a split: of the size asked for, inside larger ones, even, and others by another seed."""

from itertools import pairwise

import numpy as np
import pytest

from fgvr.sources.sampling import first_of

IDS = np.arange(100, 10_100, dtype=np.int64)


def splitmix(state: int) -> int:
    """Of the published algorithm, in Python's own integers."""
    word = (state + 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def test_the_sample_is_the_first_of_an_order_by_hash() -> None:
    order = sorted(IDS.tolist(), key=lambda image: splitmix((splitmix(5) + image) % 2**64))
    assert first_of(IDS, 30, 5).tolist() == sorted(order[:30])


@pytest.mark.parametrize("count", [None, 10_000, 10_001])
def test_all_of_them_ascending(count: int | None) -> None:
    assert first_of(IDS[::-1].copy(), count, 0).tolist() == IDS.tolist()


def test_larger_samples_hold_smaller_ones_and_seeds_differ() -> None:
    samples = [set(first_of(IDS, count, 3).tolist()) for count in (1, 10, 500, 9_999)]
    assert [len(sample) for sample in samples] == [1, 10, 500, 9_999]
    assert all(small < large for small, large in pairwise(samples))
    assert samples[2] != set(first_of(IDS, 500, 4).tolist())


def test_images_that_are_in_another_split_do_not_change_the_order_of_the_others() -> None:
    half = IDS[::2]
    assert set(first_of(half, 100, 1).tolist()) >= set(first_of(IDS, 100, 1).tolist()) & set(half.tolist())


def test_every_part_of_the_ids_gives_its_share() -> None:
    # 1,000 of 10,000: a tenth of each quarter is 250 ± 14 (hypergeometric), so 70 off is five sigma.
    quarters = np.histogram(first_of(IDS, 1_000, 0), bins=4, range=(100, 10_100))[0]
    assert np.abs(quarters - 250).max() < 70
