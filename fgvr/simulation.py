"""Pseudo-random numbers for simulated models: an image's content and a seed decide what such a model answers.

So a rerun, a retry or another worker gives the same rows, and two files with the same pixels get the same answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr.config.models import MADE_UP_KINDS

MADE_UP = "made_up"
"""Key in a manifest's `extra`: the names of the simulated models that the table depends on."""


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


def made_up(decides: Any, inputs: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> list[str]:
    """Sorted names of the simulated models that a table depends on.

    Args:
        decides: what determines the table's content, as JSON types.
        inputs: the `extra` of the tables that it was computed from.
    """
    found = {name for extra in inputs for name in extra.get(MADE_UP, ())}
    return sorted(found | set(_simulated(decides, "")))


def _simulated(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, dict):
        if str(value.get("kind")) in MADE_UP_KINDS:
            yield name
        for key, item in value.items():
            yield from _simulated(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _simulated(item, name)


# Hash-based random numbers: splitmix64 (Steele, Lea and Flood, OOPSLA 2014).


def mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Splitmix64's next output from these states: 64 bits, each depending on all input bits; sums wrap around.

    Different states give different outputs.
    """
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
