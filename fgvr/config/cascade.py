"""What is promised of predictions, and what becomes of those for which nothing can be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from fgvr.config.base import Part
from fgvr.config.tree import Tuned


class Promised(Part):
    """Fields of infer: a promised precision, and the steps below its threshold (docs/calibration.md)."""

    target_precision: Tuned[float | None] = Field(default=None, gt=0, lt=1)
    """Share of right names among those that are given, e.g. 0.95; the tables `calibration` and `decided` are made with
    it. What cannot be shown is not promised. null: predictions are taken as they are."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """Chance with which the promise holds. Raise it where a broken promise costs much; it takes more checked photos."""
    calibrate_on: Literal["audit", "truth"] = "audit"
    """Photos whose right name is known, from outside: the `audit` that people drew and decided on the review page, or
    those in `evaluate.split` whose true class the data has (`truth`). Never photos that the model learned from."""
    second_look_budget: int = Field(default=0, ge=0)
    """Photos below the threshold about which the MLLM is asked again, as a choice among the model's best names. 0: it
    is not asked. Checked photos that it needs for its own promise are among them."""
    queue_photos: int = Field(default=1000, ge=0)
    """Most photos that are put into the review page's queue `undecided`, the surest first; the rest get no name."""

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part: how to decide, where nothing is promised."""
        if self.target_precision is not None:
            return
        for name in ("confidence", "calibrate_on", "second_look_budget", "queue_photos"):
            if getattr(self, name) != Promised.model_fields[name].default:
                yield name, "target_precision = null promises nothing; set it, e.g. to 0.95"
