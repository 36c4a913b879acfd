"""How the slices of `evaluate.slice_by` are measured."""

from __future__ import annotations

from pydantic import Field

from fgvr.config.base import Part
from fgvr.config.tree import Tuned

CLASS_NAME = "class_name"
FOLDER = "folder"
BUILT_IN = (CLASS_NAME, FOLDER)
"""What photos can be sliced by without a column of metadata: their true class, and the folder in which they lie."""


class SliceTests(Part):
    """evaluate.slices: how slices are measured and compared with the rest (docs/slices.md)."""

    group_by: Tuned[str | None] = None
    """Column of what photos have in common beyond their slice (a sender, a product, a day): intervals and tests then
    count groups instead of photos. null: photos are taken as independent of each other, which gives too small p-values
    where they are not."""
    min_images: int = Field(default=20, ge=2)
    """Smallest slice that is tested; smaller ones are only counted. Each test costs the others some power."""
    max_values: int = Field(default=100, ge=1)
    """Most values of a column, or of a pair of columns, that become slices; the rarer ones are one slice `(others)`."""
