"""Types of the arrays that travel between modules: one definition each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
"""Image ids, mostly ascending."""
Labels = npt.NDArray[np.int32]
"""Label ids, `NONE` where there is none."""
Floats = npt.NDArray[np.float32]
"""Features, similarities, weights, probabilities."""
Doubles = npt.NDArray[np.float64]
"""Sums and means over many images."""
NONE = -1
"""In arrays of neighbours and labels: no neighbour, no label, or an unused place."""
