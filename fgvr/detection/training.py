"""Training a detector, with MaKD's aspect loss on whole images, in plain PyTorch.

As for a student (`fgvr.training.student`), checkpoints are written at the ends of epochs, and a resumed run continues
with the same batches, flips, sampled boxes and learning rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fgvr.config import ImageLimits
from fgvr.config.detect import Detect
from fgvr.detection.batches import DetectionBatch, DetectionLoader
from fgvr.detection.examples import DetectionExamples
from fgvr.detection.model import ASPECT_LOGITS, AspectDetector, DetectorSpec, PretrainedWeights, save_detector
from fgvr.errors import UserError
from fgvr.losses.makd import aspect_sum
from fgvr.training.batches import steps_per_epoch
from fgvr.training.checkpoint import (
    LAST,
    STATE_FILE,
    History,
    LeftOut,
    over_workers,
    read_history,
    read_left_out,
    too_many,
    write_history,
    write_left_out,
)
from fgvr.training.loop import EpochTrainer, Mean, Term, train
from fgvr.training.reporter import Reporter, data_parallel, share


class DetectionTrainingError(UserError, ValueError):
    """The detector cannot be trained on these images; the message says why."""


@dataclass(frozen=True)
class DetectionJob:
    """Inputs of a training run; picklable, sent to each worker.

    Attributes:
        examples: URI of the examples file.
        spec: the detector; its questions, if any, are the columns of the examples' p(yes).
        settings: the recipe.
        limits: limits on reading an image.
        max_error_share: allowed share of unreadable images; see `allowed_failures`.
        weights: of the hub, from which the backbone starts; None: random ones.
    """

    examples: str
    spec: DetectorSpec
    settings: Detect
    limits: ImageLimits
    max_error_share: float = 1.0
    weights: PretrainedWeights | None = None


RECIPE = 1
"""Increase it when the same settings and photos would train another detector."""
LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")


def train_detector(job: DetectionJob, reporter: Reporter) -> History:
    """Train to the last epoch, starting from the reporter's checkpoint if there is one; returns every epoch's metrics.

    Raises:
        DetectionTrainingError: too few images, too many unreadable ones, or the losses became NaN or infinite.
    """
    return train(DetectorTrainer(job, reporter))


class DetectorTrainer(EpochTrainer[DetectionBatch]):
    """One worker's side of a detector's training run.

    A checkpoint is a folder with `last/` (a model folder, see `save_detector`), `state.pt` for resuming,
    `history.json` (per epoch: the losses by torchvision's names, and the aspect loss, nats) and `left_out.json`
    (failures of images by position in the examples). An image that becomes unreadable during training is left out from
    then on.
    """

    def __init__(self, job: DetectionJob, reporter: Reporter) -> None:
        super().__init__(job.settings, reporter)
        self.job, self.settings = job, job.settings
        self.clip_norm = job.settings.clip_norm
        self.examples = DetectionExamples.read(job.examples)
        if self.examples.p_yes.shape[1] != len(job.spec.questions):
            raise ValueError(f"{len(job.spec.questions)} questions on p(yes) of {self.examples.p_yes.shape[1]}")
        # On a CPU the model needs the cores.
        threads = torch.get_num_threads() if self.device.type == "cuda" else 1
        self.loader = DetectionLoader(self.examples, job.limits, reporter.rank, reporter.world_size, threads)
        resumed = reporter.resume_folder()
        self.left_out: LeftOut = {}
        self._lost_here: LeftOut = {}  # by this worker in this epoch
        self._leave_out(self._unreadable() if resumed is None else read_left_out(resumed))
        torch.manual_seed(self.settings.seed)
        # A checkpoint holds all weights: whoever resumes needs no hub.
        self.detector = AspectDetector(job.spec, job.weights if resumed is None else None).to(self.device)
        self.optimiser = self.sgd([weight for weight in self.detector.parameters() if weight.requires_grad])
        if resumed is not None:
            self._restore(resumed)
        self.model = data_parallel(self.detector, reporter)

    def batches(self, epoch: int) -> Iterator[DetectionBatch]:
        """See Trainer; checkpoints are saved at the ends of epochs only, so each starts at its first step."""
        self.model.train()
        return self.loader.training(self.positions, self.settings.batch_size, self.settings.seed, epoch)

    def losses(self, batch: DetectionBatch) -> Mapping[str, Mean]:
        """See Trainer: torchvision's losses are means over this worker's share, so the mean over shares is reported."""
        self._lost_here |= batch.failures
        images = [pixels.to(self.device, non_blocking=True).float() / 255 for pixels in batch.pixels]
        targets = [{name: tensor.to(self.device) for name, tensor in target.items()} for target in batch.targets]
        outputs = self.model(images, targets)
        outputs["aspect_loss"] = self._aspect_loss(outputs.get(ASPECT_LOGITS), batch)
        weights = dict.fromkeys(LOSSES, 1.0) | {"aspect_loss": self.settings.alpha}
        real = float(len(batch.positions) > 0)  # 0 if a blank image replaces an unreadable share
        terms = {name: Term(real * outputs[name], real, self.reporter.world_size, weights[name]) for name in weights}
        totals = torch.stack([term.total.detach() for term in terms.values()])
        if not bool(totals.isfinite().all()):  # check now: such proposals trigger an assertion in torchvision
            raise self.diverged(math.nan, self.epoch)
        return terms

    def _aspect_loss(self, logits: Tensor | None, batch: DetectionBatch) -> Tensor:
        """This worker's part of the mean over the whole step; DDP averages the workers' parts."""
        if logits is None:
            return torch.zeros((), device=self.device)
        logits = logits[: len(batch.positions)]
        p_yes = torch.from_numpy(self.examples.p_yes[batch.positions]).to(logits.device)
        cells = int((~np.isnan(self.examples.p_yes[batch.step_positions])).sum())
        return aspect_sum(logits, p_yes, ~p_yes.isnan())[0] * self.reporter.world_size / max(cells, 1)

    def end_epoch(self, epoch: int) -> None:
        """See Trainer."""
        self._leave_out(self._lost_here)
        self._lost_here = {}

    def _unreadable(self) -> LeftOut:
        """Failures of unreadable images in this worker's share of all images."""
        mine = share(len(self.examples), self.reporter.rank, self.reporter.world_size)
        return self.loader.unreadable(np.arange(len(self.examples))[mine])

    def _leave_out(self, found: LeftOut) -> None:
        """Continue without the images that any worker found unreadable; every worker knows those of a checkpoint."""
        self.left_out = dict(sorted((self.left_out | over_workers(found, self.reporter.world_size)).items()))
        refusal = too_many(self.left_out, len(self.examples), self.job.max_error_share, self.examples)
        if refusal is not None:
            raise DetectionTrainingError(refusal)
        readable = np.ones(len(self.examples), dtype=bool)
        readable[list(self.left_out)] = False
        self.positions = np.flatnonzero(readable)
        self.steps = steps_per_epoch(len(self.positions), self.settings.batch_size)
        if len(self.positions) // self.steps < self.reporter.world_size:
            raise DetectionTrainingError(
                f"{len(self.positions)} training images in batches of detect.batch_size = {self.settings.batch_size} "
                f"leave some of {self.reporter.world_size} workers without an image in a step"
            )

    def diverged(self, loss: float, epoch: int) -> DetectionTrainingError:
        """See Trainer."""
        return DetectionTrainingError(
            f"the loss is not finite in epoch {epoch + 1}: lower detect.lr = {self.settings.lr}, or set "
            "detect.clip_norm"
        )

    def checkpoint(self, *, last: bool) -> Callable[[Path], None]:
        """See Trainer."""
        return self._save

    def _save(self, folder: Path) -> None:
        save_detector(folder / LAST, self.job.spec, self.detector, self.history[-1])
        state = {"detector": self.detector.state_dict(), "optimiser": self.optimiser.state_dict()}
        torch.save(state, folder / STATE_FILE)
        write_history(folder, self.history)
        write_left_out(folder, self.left_out)

    def _restore(self, folder: Path) -> None:
        state = torch.load(folder / STATE_FILE, weights_only=True, map_location="cpu")
        self.detector.load_state_dict(state["detector"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.history = read_history(folder)
        self.epoch = len(self.history)
