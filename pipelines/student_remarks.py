"""What a reader must know of a student: that it learned nothing, or from names that are probably wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from fgvr.losses.makd import UNKNOWN_CLASS

if TYPE_CHECKING:
    from fgvr.config import Makd
    from fgvr.training.checkpoint import History
    from fgvr.training.examples import Examples

FEW_HELD_OUT: Final = 30
"""Held-out images below which their accuracy says too little."""


def learned_nothing(history: History, examples: Examples, lr: float) -> tuple[str, ...]:
    """Of a student whose best epoch is right about no more held-out images than one that always gives one name."""
    held = examples.classes[examples.held_out & (examples.classes != UNKNOWN_CLASS)]
    reached = max((row["validation_top1"] for row in history if "validation_top1" in row), default=math.nan)
    if len(held) < FEW_HELD_OUT or math.isnan(reached):
        return ()
    frequent = np.bincount(held).max() / len(held)
    if frequent == 1 or reached > frequent:
        return ()
    return (
        f"it has learned nothing: {100 * reached:.1f} of 100 held-out images get their class target, where the most "
        f"frequent name alone would be right for {100 * frequent:.1f}; lower makd.lr = {lr:g}, or train longer",
    )


def doubtful_pseudo_labels(metrics: Mapping[str, float], classes: int, settings: Makd) -> tuple[str, ...]:
    """Of pseudo-labels of which none was learned in the last epoch, or which were learned no better than by a guess."""
    semi, learned = settings.semi, metrics.get("pseudo_learned")
    if learned is None or classes < 2 or not semi.weight or semi.threshold > 1:
        return ()
    if not learned:
        return (
            "in the last epoch the teacher was not confident of a single image without a trusted name, so these taught "
            "nothing; lower makd.semi.threshold, or train longer",
        )
    loss, guess = metrics["pseudo_loss"] / learned, math.log(classes)
    if loss < guess:
        return ()
    return (
        f"in the last epoch the loss of the pseudo-labels that were learned was {loss:.2f}, not below that of a guess "
        f"among {classes} names ({guess:.2f}), so many of them are probably wrong: raise makd.semi.threshold, or lower "
        "makd.semi.weight",
    )
