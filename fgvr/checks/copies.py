"""Which photos are copies of others: exact ones by their digest, near ones by perceptual hashes a few bits apart.

A hash knows no colours: a red and a blue shirt on one table have the same. So near-duplicates must also agree in the
colours of a coarse grid, and in its lightness but for one change of all fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Hashes = npt.NDArray[np.int64]
Groups = npt.NDArray[np.int64]

BANDS: Final = 4
MOST_BITS: Final = 7
"""Distance up to which the search is complete: two hashes that differ in at most 7 bits differ in at most one bit of
one of four bands of 16 (Norouzi et al., CVPR 2012)."""
SAME_COLOURS: Final = 6.0
"""Mean difference of the colours (a and b of CIELAB, 0 to 255) up to which two photos agree."""
SAME_LIGHT: Final = 8.0
"""Standard deviation of the differences in lightness (L, 0 to 255): one that all fields share is another exposure."""
MOST_LEADERS: Final = 16
"""Photos of one hash and different colours that others are compared with; further ones stay alone."""
AT_ONCE: Final = 4_000_000
"""Pairs that are compared at once."""


@dataclass(frozen=True)
class NearPairs:
    """Pairs of different hashes, by their places in the sorted distinct hashes: int64 [P] each."""

    one: npt.NDArray[np.int64]
    other: npt.NDArray[np.int64]


def groups_of(digests: npt.NDArray[np.uint64]) -> Groups:
    """The group of equal digests, uint64 [N, 2], of each photo, int64 [N]: the smallest place with it."""
    places = np.arange(len(digests), dtype=np.int64)
    order = np.lexsort((places, digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    first = np.ones(len(digests), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    groups = np.empty(len(digests), np.int64)
    groups[order] = order[np.maximum.accumulate(np.where(first, places, 0))]
    return groups


def near_pairs(hashes: Hashes, bits: int) -> NearPairs:
    """All pairs of distinct hashes that differ in at most `bits` bits.

    Args:
        hashes: int64 [n], distinct.
        bits: at most `MOST_BITS`.

    Raises:
        ValueError: `bits` is larger.
    """
    if not 0 <= bits <= MOST_BITS:
        raise ValueError(f"{bits} bits: the search is complete up to {MOST_BITS}")
    found: list[npt.NDArray[np.int64]] = []
    words = hashes.view(np.uint64)
    slack = 0 if bits < BANDS else 1  # bits that one band may differ in: the fewest of four that share `bits`
    for band in range(BANDS):
        keys = (words >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        flips = [0, *(1 << bit for bit in range(16))] if slack else [0]
        for flip in flips:
            wanted = keys ^ np.uint64(flip)
            starts, ends = np.searchsorted(ordered, wanted), np.searchsorted(ordered, wanted, side="right")
            for left, number in _portions(ends - starts):
                right = order[starts[left] + number]
                near = np.bitwise_count(words[left] ^ words[right]) <= bits
                keep = near & (left < right)
                found.append(np.stack([left[keep], right[keep]]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1) if found else np.zeros((2, 0), np.int64)
    return NearPairs(pairs[0], pairs[1])


def _portions(sizes: Groups) -> Iterator[tuple[Groups, Groups]]:
    """(item, number) of `sizes[item]` numbers from 0 for each item, in portions of bounded size."""
    total = np.concatenate([[0], np.cumsum(sizes)])
    first = 0
    while first < len(sizes):
        last = max(first + 1, int(np.searchsorted(total, total[first] + AT_ONCE, side="right")) - 1)
        size = sizes[first:last]
        items = np.repeat(np.arange(first, last), size)
        yield items, np.arange(len(items)) - np.repeat(np.cumsum(size) - size, size)
        first = last


def near_groups(looks: Hashes, colours: npt.NDArray[np.uint8], bits: int) -> Groups:
    """The group of near-duplicates of each photo, int64 [N]: the smallest place in it.

    Photos are joined in chains: two photos of a group may differ in more than `bits` bits.

    Args:
        looks: perceptual hashes, int64 [N].
        colours: of the grid, uint8 [N, c].
        bits: as in `near_pairs`.
    """
    leader, distinct = _leaders(looks, colours)
    leads = np.flatnonzero(leader == np.arange(len(looks)))
    look_of = np.searchsorted(distinct, looks[leads])
    order = np.argsort(look_of, kind="stable")
    leads, look_of = leads[order], look_of[order]
    pairs = near_pairs(distinct, bits)
    counts = np.bincount(look_of, minlength=len(distinct))
    starts = np.cumsum(counts) - counts
    one, other = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    # Each leader of one hash beside each of the other: mostly one and one.
    for pair, number in _portions(counts[pairs.one] * counts[pairs.other]):
        width = counts[pairs.other[pair]]
        left, right = starts[pairs.one[pair]] + number // width, starts[pairs.other[pair]] + number % width
        near = agree(colours[leads[left]], colours[leads[right]])
        one.append(leads[left[near]])
        other.append(leads[right[near]])
    size = len(looks)
    edges = (np.concatenate([*one, leader]), np.concatenate([*other, np.arange(size)]))
    joined = connected_components(coo_array((np.ones(len(edges[0]), np.int8), edges), shape=(size, size)), False)[1]
    smallest = np.full(size, size, np.int64)
    np.minimum.at(smallest, joined, np.arange(size))
    groups: Groups = smallest[joined]
    return groups


def agree(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Whether photos have the same colours, uint8 [P, c] each (L, a, b by field): bool [P]."""
    apart = (one.astype(np.int16) - other).reshape(len(one), -1, 3)
    same: npt.NDArray[np.bool_] = np.abs(apart[:, :, 1:]).mean(axis=(1, 2)) <= SAME_COLOURS
    same &= apart[:, :, 0].std(axis=1) <= SAME_LIGHT
    return same


def _leaders(looks: Hashes, colours: npt.NDArray[np.uint8]) -> tuple[Groups, Hashes]:
    """Photos of one hash by their colours: the leader of each, and the distinct hashes.

    The first photo of a hash leads; one that agrees with no leader becomes another.
    """
    order = np.argsort(looks, kind="stable")
    distinct, starts, counts = np.unique(looks[order], return_index=True, return_counts=True)
    leader = np.arange(len(looks), dtype=np.int64)
    for start, count in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        leads: list[int] = []
        for place in order[start : start + count].tolist():
            near = np.flatnonzero(agree(colours[leads], colours[place])).tolist() if leads else []
            if near:
                leader[place] = leads[near[0]]
            elif len(leads) < MOST_LEADERS:
                leads.append(place)
    return leader, distinct
