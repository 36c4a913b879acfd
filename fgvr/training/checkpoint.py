"""Checkpoints of a student's training: `last/` and `best/` are whole models, `state.pt` is what resuming needs, too."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from fgvr.classifier import WEIGHTS_FILE
from fgvr.students.architecture import StudentSpec
from fgvr.students.folder import save_student
from fgvr.training.left_out import LOST_FILE, LeftOut, read_lost, write_left_out

LAST, BEST, STATE_FILE, HISTORY_FILE = "last", "best", "state.pt", "history.json"

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class EpochMetrics:
    """How an epoch went; losses are means over the images, nan where there were none.

    Attributes:
        epoch: counted from 1.
        loss: class loss + alpha · aspect loss; with a teacher these two and its own by the weights of the epoch.
        class_loss: cross entropy, nats.
        aspect_loss: as `makd.aspect_loss` says, nats.
        train_top1: share of right classes on augmented training images, before each step.
        validation_top1: share of right classes on held-out images, after the epoch; nan where none are held out.
        learning_rate: of the last step.
        images_per_second: in training, over all workers.
        distillation_loss: what the teacher says, T² included; nan without a teacher.
    """

    epoch: int
    loss: float
    class_loss: float
    aspect_loss: float
    train_top1: float
    validation_top1: float
    learning_rate: float
    images_per_second: float
    distillation_loss: float = math.nan

    def plain(self) -> dict[str, float]:
        """As numbers by name, without those that are not defined."""
        return {name: float(value) for name, value in asdict(self).items() if not math.isnan(value)}


class Checkpoint:
    """Keeps the history and the best weights of a training, and writes and reads its checkpoints.

    Args:
        spec: the student.
        left_out: failures of the images that could not be read, by position in the examples.

    Attributes:
        lost: likewise, of those that could be read at first, and at some later time could not.
    """

    def __init__(self, spec: StudentSpec, left_out: LeftOut) -> None:
        self.spec, self.left_out = spec, left_out
        self.lost: LeftOut = {}
        self.history: list[EpochMetrics] = []
        self.best: EpochMetrics | None = None
        self.best_weights: Weights | None = None

    def finish_epoch(self, metrics: EpochMetrics, weights: Weights, *, keep: bool) -> None:
        """Add an epoch; equal validation results count for the later epoch, whose rate was lower."""
        self.history.append(metrics)
        if math.isnan(metrics.validation_top1):
            return
        if self.best is None or metrics.validation_top1 >= self.best.validation_top1:
            self.best = metrics
            if keep:
                self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def save(self, folder: Path, student: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Write a checkpoint into an empty folder."""
        save_student(folder / LAST, self.spec, student.state_dict(), self.history[-1].plain())
        if self.best is not None and self.best_weights is not None:
            save_student(folder / BEST, self.spec, self.best_weights, self.best.plain())
        torch.save({"optimiser": optimiser.state_dict()}, folder / STATE_FILE)
        write_history(folder / HISTORY_FILE, self.history)
        write_left_out(folder, self.left_out)
        write_left_out(folder, self.lost, LOST_FILE)

    def restore(self, folder: Path, student: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Continue from a checkpoint: weights, optimiser and history as they were when it was written."""
        student.load_state_dict(load_file(folder / LAST / WEIGHTS_FILE))
        # To the CPU first: the card that wrote it may not be here, or be another worker's.
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        optimiser.load_state_dict(state["optimiser"])
        self.history, self.lost = read_history(folder), read_lost(folder)
        validated = [epoch for epoch in self.history if not math.isnan(epoch.validation_top1)]
        if validated:
            self.best = max(validated, key=lambda epoch: (epoch.validation_top1, epoch.epoch))
            self.best_weights = load_file(folder / BEST / WEIGHTS_FILE)


def write_history(path: Path, history: list[EpochMetrics]) -> None:
    """As JSON, numbers that are not defined as null (JSON has no nan)."""
    rows = [{name: None if math.isnan(value) else value for name, value in asdict(e).items()} for e in history]
    path.write_text(json.dumps(rows, indent=1))


def read_history(folder: Path) -> list[EpochMetrics]:
    """The metrics of all epochs up to a checkpoint."""
    rows = json.loads((folder / HISTORY_FILE).read_text())
    undefined = dict.fromkeys(EpochMetrics.__dataclass_fields__, math.nan)
    return [EpochMetrics(**(undefined | {n: value for n, value in row.items() if value is not None})) for row in rows]
