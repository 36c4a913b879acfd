"""What all training runs of tiny models share: command line, batches, optimiser, learning rate, progress lines."""

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import harness
from fgvr.demo.drawn_files import first_entry


def training_parser(doc: str | None, *, seed: int) -> argparse.ArgumentParser:
    """The command line of a training run; `seed` is the default of --seed."""
    parser = harness.parser(doc, results=False)
    parser.add_argument("--seed", type=int, default=seed, help="of data, order and weights (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    return parser


def refuse_foreign(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Exit with a usage error where a model would be written into a folder with files, an earlier model's included.

    Which model is whose cannot be seen, and training for hours must not end in somebody's own weights.
    """
    if (name := first_entry(str(folder))) is not None:
        parser.error(f"{folder} is not empty ({name} …); name another folder, or remove what is in it first")


def scaled(steps: int, scale: float) -> int:
    """Number of steps of a shorter or longer training run, at least one."""
    return max(1, round(steps * scale))


def batches(count: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield rows int64 [size] per step, reshuffled after each pass; an incomplete last batch is dropped."""
    order = np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < size:
            order = rng.permutation(count)
        yield order[:size]
        order = order[size:]


class Learner:
    """Optimiser, learning rate and progress lines of one stage of training.

    Args:
        name: name in the progress lines.
        modules: modules to train: their parameters that need a gradient now.
        rate: highest learning rate.
        steps: number of steps of the stage.
        warm_up: number of these steps in which the rate rises.
        decay: weight decay of matrices.
        every: steps between two progress lines.
    """

    def __init__(
        self,
        name: str,
        modules: Iterable[nn.Module],
        rate: float,
        *,
        steps: int,
        warm_up: int,
        decay: float = 0.05,
        every: int = 100,
    ) -> None:
        self._optimiser = adamw(modules, rate, decay)
        self._schedule = warm_cosine(self._optimiser, steps, warm_up)
        self._progress = Progress(name, steps, every)

    def step(self, loss: torch.Tensor) -> None:
        """One optimiser step on a loss, with the gradient norm over all parameters clipped to 1."""
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [one for group in self._optimiser.param_groups for one in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self._optimiser.step()
        self._schedule.step()
        self._progress.update(loss.item())


def half_precision(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's state by name, its floating-point tensors as float16, to be saved."""
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in module.state_dict().items()
    }


def adamw(modules: Iterable[nn.Module], rate: float, decay: float = 0.05) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def warm_cosine(optimiser: torch.optim.Optimizer, steps: int, warm_up: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a cosine down to zero at ``steps``."""

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


class Progress:
    """Prints a line every ``every`` steps: mean loss since the last line, time spent and time left."""

    def __init__(self, name: str, steps: int, every: int) -> None:
        self.name, self.steps, self.every = name, steps, every
        self._started, self._sum, self._count, self._step = time.perf_counter(), 0.0, 0, 0

    def update(self, loss: float) -> None:
        """Count a step."""
        self._step, self._sum, self._count = self._step + 1, self._sum + loss, self._count + 1
        if self._step % self.every and self._step != self.steps:
            return
        spent = time.perf_counter() - self._started
        left = spent / self._step * (self.steps - self._step)
        mean, self._sum, self._count = self._sum / self._count, 0.0, 0
        line = f"{self.name} {self._step}/{self.steps} loss {mean:.4f} {spent:.0f} s spent, {left:.0f} s left"
        print(line, file=sys.stderr, flush=True)
