"""The coefficient of the entropy term over the steps (two-stage entropy RLVR, arXiv 2511.07738)."""

from __future__ import annotations

import math
from typing import Literal

Stages = Literal["two_stage", "explore", "exploit"]
SHARE = 0.8
"""Share of the steps that explore."""


def coefficient(step: int, steps: int, beta: float, stages: Stages = "two_stage") -> float:
    """c(t) of the loss L = L_GRPO − c(t)·H, H the mean entropy of the completions' tokens.

    +β in the first 80% of the steps, which keeps the model from fitting wrong names, then −β, which makes it decide.

    Args:
        step: optimiser steps done so far, from 0.
        steps: optimiser steps of the whole training.
        beta: β, positive.
        stages: `explore` and `exploit` have one sign throughout.
    """
    if stages != "two_stage":
        return beta if stages == "explore" else -beta
    return beta if step < math.ceil(SHARE * steps - 1e-9) else -beta
