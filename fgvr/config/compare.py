"""Which backbones are compared as students, on which photos, and within which budget one is recommended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from fgvr.config.base import RUNTIME_ONLY, Part, Workers
from fgvr.config.tree import Tuned


class Compare(Part):
    """compare: several backbones, each trained as the student of `makd` without aspects (docs/compare.md)."""

    models: Tuned[tuple[str, ...]] = ("resnet18", "mobilenetv3_small_100", "deit_tiny_patch16_224", "convit_tiny")
    """timm's names of the backbones: a convolutional network, a vision transformer, a local one …; all else is as in
    `makd`. A further one trains alone: the others are kept."""
    seeds: Tuned[int] = Field(default=3, ge=1)
    """Trainings per backbone, with makd.seed and the numbers after it. One shows nothing of the chance in training."""
    weights: dict[str, str] = Field(default_factory=dict)
    """Backbone → pretrained weights, as in makd.weights; the others start at random, which is no equal condition."""
    test_column: Tuned[str | None] = None
    """Column that says where a photo is from (a shop, a portal), one of ingest.source.metadata_columns, for a test
    across sources; null: no such test."""
    test_values: Tuned[tuple[str, ...]] = ()
    """Values of `test_column` whose photos nobody learns from: they are a test of their own, whatever their split."""
    max_ms: Annotated[Tuned[float | None], RUNTIME_ONLY] = Field(default=None, gt=0)
    """Budget: milliseconds per photo in batches of 64 on compare.workers, without reading the file; null: any."""
    max_params: Annotated[Tuned[int | None], RUNTIME_ONLY] = Field(default=None, gt=0)
    """Budget: number of weights; null: any."""
    max_gmacs: Annotated[Tuned[float | None], RUNTIME_ONLY] = Field(default=None, gt=0)
    """Budget: billions of multiply-adds per photo; null: any."""
    silhouette_images: int = Field(default=5000, ge=2)
    """Most photos of which the silhouette is computed, whose time grows with their square."""
    workers: Annotated[Workers, RUNTIME_ONLY] = Workers(num_cpus=1)
    """What measures the trained students: its cores or its GPU are what times and memory are of."""

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part: one half of the test across sources without the other."""
        if self.test_values and self.test_column is None:
            yield "test_values", "test_column names no column; name it, or leave the values out"
        if self.test_column is not None and not self.test_values:
            yield "test_column", "test_values names none of its values; name those to test on, or leave the column out"
