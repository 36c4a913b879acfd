"""The search for each image's nearest images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fgvr.config.base import Part


class NeighbourSearch(Part):
    """neighbours: how the nearest images are searched, of which candidates makes its sets."""

    method: Literal["auto", "exact", "ivf"] = "auto"
    """`exact`, `ivf` (an inverted file, which misses a few), or exact while that takes at most `exact_seconds`."""
    recall: float = Field(default=0.95, gt=0, le=1)
    """Share of the true nearest images that an inverted file must find, measured on a sample; it probes more lists
    until it does."""
    exact_seconds: float | None = Field(default=None, gt=0)
    """Time that exact search may take by the measured rate of the matrix product; null: 60 on CPUs, 7200 on GPUs."""
