"""Pseudo-random numbers for simulated models: an image's content and a seed decide what such a model answers.

So a rerun, a retry or another worker gives the same rows, and two files with the same pixels get the same answers.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def uniforms(*key: object, count: int = 4) -> list[float]:
    """Up to eight numbers in [0, 1) determined by the key, each from 64 bits of a hash."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * count).digest()
    return [int.from_bytes(digest[8 * n : 8 * n + 8]) / 2**64 for n in range(count)]


def generator(*key: object) -> np.random.Generator:
    """A random generator seeded by the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))


def kind_of(content_id: str, kinds: int, seed: int) -> int:
    """The simulated class of an image, one of `kinds`; the simulated MLLM and the simulated vectors share it."""
    return int(uniforms("kind", seed, content_id, count=1)[0] * kinds)


# Random numbers that follow from their numbers alone: splitmix64 (Steele, Lea and Flood, OOPSLA 2014).


def mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Splitmix64's next output from these states: 64 bits, each depending on all input bits; sums wrap around.

    Different states give different outputs.
    """
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
