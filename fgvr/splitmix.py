"""Random numbers that follow from their numbers alone: splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Splitmix64's next output from these states: 64 bits that all depend on all; sums wrap around.

    Different states have different outputs.
    """
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
