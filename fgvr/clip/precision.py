"""In which precision the frozen towers run; features, logits, losses and learned vectors are fp32 everywhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from fgvr.precision import autocast, automatic


def low_precision(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast on a card that has it; nothing on a CPU: many have no instructions for it, and results would vary.

    On a CPU that has them, `benchmarks/speed/coop.py --precision bf16` measures what it would bring.
    """
    return autocast(device, automatic(device))
