"""The search of near hashes equals a comparison of all pairs; equal digests and chains are grouped."""

from __future__ import annotations

import numpy as np
import pytest

from fgvr.checks import copies
from fgvr.checks.copies import agree, groups_of, near_groups, near_pairs


def planted(seed: int, count: int = 600) -> np.ndarray:
    """Random hashes, a third of which are others with 0 to 9 bits flipped."""
    draw = np.random.default_rng(seed)
    words = draw.integers(0, 2**64, count, dtype=np.uint64)
    for place in range(0, count, 3):
        for bit in draw.choice(64, draw.integers(0, 10), replace=False):
            words[place + 1] = words[place + 1] if bit else words[place]
        flipped = words[place]
        for bit in draw.choice(64, draw.integers(0, 10), replace=False):
            flipped ^= np.uint64(1) << np.uint64(bit)
        words[place + 2] = flipped
    return words.view(np.int64)


@pytest.mark.parametrize("bits", range(8))
def test_all_pairs_are_found(bits: int) -> None:
    hashes = np.unique(planted(bits))
    words = hashes.view(np.uint64)
    distance = np.bitwise_count(words[:, None] ^ words[None, :])
    one, other = np.nonzero(np.triu(distance <= bits, k=1))
    found = near_pairs(hashes, bits)
    assert set(zip(found.one.tolist(), found.other.tolist(), strict=True)) == set(
        zip(one.tolist(), other.tolist(), strict=True)
    )
    assert bits == 0 or len(one) > 5


def test_portions_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.unique(planted(11))
    whole = near_pairs(hashes, 5)
    monkeypatch.setattr(copies, "AT_ONCE", 3)
    small = near_pairs(hashes, 5)
    assert np.array_equal(whole.one, small.one)
    assert np.array_equal(whole.other, small.other)


def test_more_bits_than_the_search_is_complete_for() -> None:
    with pytest.raises(ValueError, match="complete up to 7"):
        near_pairs(np.zeros(1, np.int64), 8)


def test_groups_are_chains_and_equal_hashes_are_one() -> None:
    looks = np.array([0b0, 0xFF00, 0b11, 0b1111, 0xFF00, 0b0, -1], np.int64)
    grey = np.full((len(looks), 48), 128, np.uint8)
    assert near_groups(looks, grey, 2).tolist() == [0, 1, 0, 0, 1, 0, 6]  # 0 – 11 – 1111 is a chain of two steps
    assert near_groups(looks, grey, 0).tolist() == [0, 1, 2, 3, 1, 0, 6]
    assert near_groups(np.zeros(0, np.int64), np.zeros((0, 48), np.uint8), 4).tolist() == []


def test_photos_of_other_colours_are_no_copies() -> None:
    looks = np.array([5, 5, 5, 4, 4], np.int64)
    colours = np.full((5, 48), 128, np.uint8)
    colours[[1, 4]] += 20  # red ones
    colours[2] += 5
    assert near_groups(looks, colours, 3).tolist() == [0, 1, 0, 0, 1]
    assert near_groups(looks, colours, 0).tolist() == [0, 1, 0, 3, 4]


def test_light_may_change_everywhere_but_not_in_one_thing() -> None:
    photo = np.random.default_rng(0).integers(50, 200, (1, 16, 3), dtype=np.uint8)
    brighter, darker_thing = photo.copy(), photo.copy()
    brighter[:, :, 0] += 30
    darker_thing[:, 4:12, 0] -= 40  # half of the fields: the differences' standard deviation is 20
    flat = [each.reshape(1, 48) for each in (photo, brighter, darker_thing)]
    assert agree(flat[0], flat[1]).tolist() == [True]
    assert agree(flat[0], flat[2]).tolist() == [False]


def test_equal_hashes_are_not_compared_with_each_other() -> None:
    assert not near_groups(np.full(100_000, 5, np.int64), np.zeros((100_000, 48), np.uint8), 7).any()


def test_equal_digests() -> None:
    digests = np.array([[1, 2], [3, 4], [1, 2], [2, 1], [3, 4], [1, 2]], np.uint64)
    assert groups_of(digests).tolist() == [0, 1, 0, 3, 1, 0]
    assert groups_of(np.zeros((0, 2), np.uint64)).tolist() == []
