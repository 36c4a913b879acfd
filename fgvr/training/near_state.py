"""What a NeaR training remembers between steps, its checkpoints, and what it leaves in the last one.

A checkpoint holds `state.pt` (context, optimiser, candidate weights of all images, counters) and `history.json`; the
last one also `model/` (fgvr.clip.classifier.NearModel) and `weights.npy` (the disambiguated weights, float32 [N, K] in
the order of the images with candidates).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.clip.classifier import NearModel

STATE_FILE, HISTORY_FILE, WEIGHTS_FILE, MODEL_FOLDER = "state.pt", "history.json", "weights.npy", "model"


@dataclass
class NearState:
    """Counters, the best context so far and the history of a training.

    Attributes:
        context: as it was when the state was loaded; the learner's own copy goes on from it.
        step: steps done.
        best_context: the one with the lowest held-out loss; None before the first validation.
        best_loss: its held-out loss.
        held_out_loss: of the last epoch; None where nothing is held out.
        history: reported metrics.
    """

    context: Tensor
    step: int = 0
    best_context: Tensor | None = None
    best_loss: float = float("inf")
    held_out_loss: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    _losses: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    _steps: int = 0

    @classmethod
    def start(cls, context: Tensor) -> NearState:
        """The state before the first step."""
        return cls(context.detach().clone())

    def add_loss(self, loss: Tensor) -> None:
        """A step's loss (this worker's part of it), kept on its device: reading it would wait for the device."""
        self._losses = self._losses.to(loss.device) + loss
        self._steps += 1

    def take_loss(self, joined: Callable[[Tensor], Tensor]) -> float:
        """Mean loss of the steps since the last call; `joined` sums over the workers."""
        total, steps = float(joined(self._losses.clone())), self._steps
        self._losses, self._steps = torch.zeros_like(self._losses), 0
        return total / max(steps, 1)

    def validated(self, loss: float, context: Tensor) -> None:
        """Note an epoch's held-out loss; the context is kept if it is the best."""
        self.held_out_loss = loss
        if loss < self.best_loss:
            self.best_loss, self.best_context = loss, context.detach().clone()

    def chosen(self, last: Tensor) -> Tensor:
        """The best context on held-out images, else the last."""
        return last if self.best_context is None else self.best_context.to(last.device)

    def save(self, folder: Path, context: Tensor, optimiser: torch.optim.Optimizer, weights: Tensor) -> None:
        """Write a checkpoint into an empty folder; `weights` are the candidate weights of all images."""
        content = {
            "context": context.detach().cpu(),
            "optimiser": optimiser.state_dict(),
            "weights": weights.cpu(),
            "step": self.step,
            "best_context": None if self.best_context is None else self.best_context.cpu(),
            "best_loss": self.best_loss,
            "held_out_loss": self.held_out_loss,
        }
        torch.save(content, folder / STATE_FILE)
        (folder / HISTORY_FILE).write_text(json.dumps(self.history, indent=1))

    @classmethod
    def load(cls, folder: Path, optimiser: torch.optim.Optimizer) -> tuple[NearState, Tensor]:
        """The state in a checkpoint and the candidate weights of all images; the optimiser continues from it, too."""
        content = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        optimiser.load_state_dict(content["optimiser"])
        state = cls(
            context=content["context"],
            step=content["step"],
            best_context=content["best_context"],
            best_loss=content["best_loss"],
            held_out_loss=content["held_out_loss"],
            history=json.loads((folder / HISTORY_FILE).read_text()),
        )
        return state, content["weights"]


@dataclass(frozen=True)
class Outcome:
    """What a finished training leaves: the model, and the disambiguated weights float32 [N, K]."""

    model: NearModel
    weights: Tensor

    def save(self, folder: Path) -> None:
        """Write both into the folder of the last checkpoint."""
        self.model.save(folder / MODEL_FOLDER)
        np.save(folder / WEIGHTS_FILE, self.weights.numpy())


def read_weights(folder: Path) -> npt.NDArray[np.float32]:
    """The disambiguated weights in the folder of a last checkpoint."""
    return np.asarray(np.load(folder / WEIGHTS_FILE), dtype=np.float32)
