"""Learning-rate schedule, optimiser and progress lines shared by the training stages."""

import math
import sys
import time
from collections.abc import Iterable

import torch
from torch import nn


def adamw(modules: Iterable[nn.Module], rate: float, decay: float = 0.05) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def warm_cosine(optimiser: torch.optim.Optimizer, steps: int, warm_up: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a cosine down to nothing at ``steps``."""

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def take_step(
    loss: torch.Tensor, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR
) -> None:
    """One optimiser step on a loss, the gradient's norm over all parameters cut to 1."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()
    schedule.step()


class Progress:
    """Prints a line every ``every`` steps: mean loss since the last line, time spent and time left."""

    def __init__(self, name: str, steps: int, every: int = 100) -> None:
        self.name, self.steps, self.every = name, steps, every
        self._started, self._sum, self._count = time.perf_counter(), 0.0, 0

    def update(self, step: int, loss: float) -> None:
        """Count step number ``step`` (from 0)."""
        self._sum, self._count = self._sum + loss, self._count + 1
        if (step + 1) % self.every and step + 1 != self.steps:
            return
        spent = time.perf_counter() - self._started
        left = spent / (step + 1) * (self.steps - step - 1)
        mean, self._sum, self._count = self._sum / self._count, 0.0, 0
        line = f"{self.name} {step + 1}/{self.steps} loss {mean:.4f} {spent:.0f} s spent, {left:.0f} s left"
        print(line, file=sys.stderr, flush=True)
