"""In which precision the frozen towers run; features, logits, losses and learned vectors are fp32 everywhere."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def low_precision(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast on CUDA; nothing on a CPU: many have no instructions for it, and results would differ.

    On a CPU that has them, `benchmarks/coop.py --precision bf16` measures what it would bring.
    """
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
