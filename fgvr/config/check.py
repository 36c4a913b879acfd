"""Checks of photos that need no model."""

from __future__ import annotations

from pydantic import Field

from fgvr.config.base import Part, Workers
from fgvr.config.tree import Tuned


class Check(Part):
    """check: which photos are bad pictures or copies of others, and which classes are odd. docs/checks.md."""

    blurred: Tuned[float] = Field(default=30, ge=0)
    """Sharpness (variance of the Laplacian at a short side of 256 pixels) below which a photo counts as blurred; 0:
    none. Plain surfaces have little sharpness, too."""
    dark: float = Field(default=30, ge=0, le=255)
    """Mean brightness, 0 to 255, below which a photo counts as dark."""
    light: float = Field(default=240, ge=0, le=255)
    """Mean brightness above which it counts as too light; products on white paper may reach 235."""
    low_contrast: float = Field(default=8, ge=0)
    """Standard deviation of the brightness below which there is hardly anything to see. Such photos are not compared
    with others: all plain surfaces look alike."""
    tiny: int = Field(default=64, ge=0)
    """Shorter side, in pixels, below which a photo counts as tiny."""
    odd_aspect: float = Field(default=3, ge=1)
    """Longer side divided by the shorter one above which a photo counts as oddly long."""
    near: Tuned[int] = Field(default=4, ge=0, le=7)
    """Bits, of 64, in which the perceptual hashes of near-duplicates differ at most; 0: only equal ones. Raise it for
    heavier crops and stamps, which also brings pairs that are no copies."""
    few: int = Field(default=5, ge=0)
    """Photos of a class in the split that is learned from below which the class counts as rare."""
    workers: Workers = Workers(rows_per_part=4096)
