"""Training a detector, with MaKD's aspect loss on whole images, in plain PyTorch.

As `fgvr.training.makd`: one process or many, checkpoints at the ends of epochs, and a resumed training goes on with
the same batches, flips, sampled boxes and rates (bit-equal on a CPU with the same number of threads).
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fgvr.config import ImageLimits
from fgvr.config.detect import Detect
from fgvr.detection.batches import DetectionBatch, DetectionLoader
from fgvr.detection.examples import DetectionExamples
from fgvr.detection.model import ASPECT_LOGITS, AspectDetector, DetectorSpec, save_detector
from fgvr.errors import UserError
from fgvr.losses.makd import UNKNOWN_CLASS, makd_terms
from fgvr.training.batches import steps_per_epoch
from fgvr.training.collective import share, sum_over_workers
from fgvr.training.left_out import LeftOut, over_workers, read_left_out, too_many, write_left_out
from fgvr.training.reporter import Reporter
from fgvr.training.schedule import learning_rate

LAST, STATE_FILE, HISTORY_FILE = "last", "state.pt", "history.json"


class DetectionTrainingError(UserError, ValueError):
    """A detector that cannot be trained on these images; the message says why."""


@dataclass(frozen=True)
class DetectionJob:
    """What a training is about; pickles, and travels to each worker.

    Attributes:
        examples: URI of the examples file.
        spec: the detector; with questions, they are the columns of the examples' p(yes).
        settings: the recipe.
        limits: of reading an image.
        max_error_share: of images that cannot be read; see `allowed_failures`.
    """

    examples: str
    spec: DetectorSpec
    settings: Detect
    limits: ImageLimits
    max_error_share: float = 1.0


@dataclass(frozen=True)
class DetectionEpoch:
    """How an epoch went: means over its steps of the losses, by torchvision's names, and of the aspects' (nats)."""

    epoch: int
    loss: float
    loss_objectness: float
    loss_rpn_box_reg: float
    loss_classifier: float
    loss_box_reg: float
    aspect_loss: float
    learning_rate: float
    images_per_second: float


RECIPE = 1
"""Raised when the same settings and photos come to train another detector."""
LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")


def train_detector(job: DetectionJob, reporter: Reporter) -> None:
    """Train to the last epoch, from the reporter's checkpoint if it has one.

    A checkpoint is a folder with `last/` (a model folder, see `save_detector`), `state.pt` for resuming,
    `history.json` (every epoch) and `left_out.json` (failures of images by position in the examples). An image that
    becomes unreadable on the way is left out from then on.

    Raises:
        DetectionTrainingError: too few images, too many that cannot be read, or the losses are no numbers any more.
    """
    training = _Training(job, reporter)
    if len(training.history) >= job.settings.epochs:  # it died after its last checkpoint: only the report is missing
        training.report(checkpoint=True)
    for epoch in range(len(training.history), job.settings.epochs):
        training.epoch(epoch)


class _Training:
    """One worker's side of a training."""

    def __init__(self, job: DetectionJob, reporter: Reporter) -> None:
        self.job, self.reporter, self.settings = job, reporter, job.settings
        self.examples = DetectionExamples.read(job.examples)
        if self.examples.p_yes.shape[1] != len(job.spec.questions):
            raise ValueError(f"{len(job.spec.questions)} questions on p(yes) of {self.examples.p_yes.shape[1]}")
        cuda = reporter.device.type == "cuda"
        threads = torch.get_num_threads() if cuda else 1  # on a CPU the model needs the cores
        self.loader = DetectionLoader(self.examples, job.limits, reporter.rank, reporter.world_size, threads)
        resumed = reporter.resume_folder()
        self.left_out: LeftOut = {}
        self._leave_out(self._unreadable() if resumed is None else read_left_out(resumed))
        torch.manual_seed(self.settings.seed)
        self.detector = AspectDetector(job.spec, pretrained=self.settings.pretrained).to(reporter.device)
        self.optimiser = torch.optim.SGD(
            [parameter for parameter in self.detector.parameters() if parameter.requires_grad],
            lr=self.settings.lr,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
        )
        self.history: list[DetectionEpoch] = []
        if resumed is not None:
            self._restore(resumed)
        self.model: nn.Module = self.detector
        if reporter.world_size > 1:
            on_gpu = [reporter.device.index] if cuda else None
            self.model = DistributedDataParallel(self.detector, device_ids=on_gpu)

    def epoch(self, epoch: int) -> None:
        """Train one pass and report."""
        # Which boxes are sampled for the losses is drawn from torch's generator.
        torch.manual_seed(hash((self.settings.seed, epoch, self.reporter.rank)))
        start = time.monotonic()
        self.model.train()
        sums = torch.zeros(len(LOSSES) + 2, dtype=torch.float64, device=self.reporter.device)
        lost: LeftOut = {}
        batches = self.loader.training(self.positions, self.settings.batch_size, self.settings.seed, epoch)
        for number, batch in enumerate(batches):
            rate = learning_rate(self.settings, epoch * self.steps + number, self.steps)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            sums += self._step(batch)
            lost |= batch.failures
        *totals, shares = sum_over_workers(sums, self.reporter.world_size).tolist()
        losses = {name: total / max(shares, 1) for name, total in zip((*LOSSES, "aspect_loss"), totals, strict=True)}
        total = sum(losses[name] for name in LOSSES) + self.settings.alpha * losses["aspect_loss"]
        self.history.append(
            DetectionEpoch(
                epoch=epoch + 1,
                loss=total,
                learning_rate=self.optimiser.param_groups[0]["lr"],
                images_per_second=len(self.positions) / (time.monotonic() - start),
                **losses,
            )
        )
        self._leave_out(lost)
        last = epoch + 1 == self.settings.epochs
        self.report(checkpoint=last or (epoch + 1) % self.settings.checkpoint_epochs == 0)

    def report(self, *, checkpoint: bool) -> None:
        """Report the last epoch, with a checkpoint or without."""
        self.reporter.report(asdict(self.history[-1]), self._save if checkpoint else None)

    def _step(self, batch: DetectionBatch) -> Tensor:
        device = self.reporter.device
        images = [pixels.to(device, non_blocking=True).float() / 255 for pixels in batch.pixels]
        targets = [{name: tensor.to(device) for name, tensor in target.items()} for target in batch.targets]
        outputs = self.model(images, targets)
        weight = float(len(batch.positions) > 0)  # a blank image stands there for a share that cannot be read
        losses = [weight * outputs[name] for name in LOSSES]
        aspect_loss = weight * self._aspect_loss(outputs.get(ASPECT_LOGITS), batch)
        loss = torch.stack(losses).sum() + self.settings.alpha * aspect_loss
        if not math.isfinite(float(loss.detach())):  # now: torchvision stops at such proposals with an assertion
            raise DetectionTrainingError(
                f"the loss is not finite in epoch {len(self.history) + 1}: lower detect.lr = {self.settings.lr}, or "
                "set detect.clip_norm"
            )
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.detector.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        return torch.stack([*losses, aspect_loss, torch.full_like(aspect_loss, weight)]).detach().double()

    def _aspect_loss(self, logits: Tensor | None, batch: DetectionBatch) -> Tensor:
        """This worker's part of the mean over the whole step; DDP averages the workers' parts."""
        if logits is None:
            return torch.zeros((), device=self.reporter.device)
        logits = logits[: len(batch.positions)]
        p_yes = torch.from_numpy(self.examples.p_yes[batch.positions]).to(logits.device)
        # An image has no class here: one output that nothing is compared with stands in for the classes.
        outputs = torch.cat([logits.new_zeros((len(logits), 1)), logits], dim=1)
        unknown = torch.full((len(logits),), UNKNOWN_CLASS, device=logits.device)
        cells = int((~np.isnan(self.examples.p_yes[batch.step_positions])).sum())
        return makd_terms(outputs, unknown, p_yes, ~p_yes.isnan()).aspect_sum * self.reporter.world_size / max(cells, 1)

    def _unreadable(self) -> LeftOut:
        """Failures of those of this worker's share of all images that cannot be read."""
        mine = share(len(self.examples), self.reporter.rank, self.reporter.world_size)
        return self.loader.unreadable(np.arange(len(self.examples))[mine])

    def _leave_out(self, found: LeftOut) -> None:
        """Go on without the images that any worker found unreadable; those of a checkpoint every worker knows."""
        self.left_out = dict(sorted((self.left_out | over_workers(found, self.reporter.world_size)).items()))
        refusal = too_many(self.left_out, len(self.examples), self.job.max_error_share, self.examples)
        if refusal is not None:
            raise DetectionTrainingError(refusal)
        readable = np.ones(len(self.examples), dtype=bool)
        readable[list(self.left_out)] = False
        self.positions = np.flatnonzero(readable)
        self.steps = self._steps()

    def _steps(self) -> int:
        images, world = len(self.positions), self.reporter.world_size
        steps = steps_per_epoch(images, self.settings.batch_size)
        if images // steps < world:
            raise DetectionTrainingError(
                f"{images} training images in batches of detect.batch_size = {self.settings.batch_size} leave some of "
                f"{world} workers without an image in a step"
            )
        return steps

    def _save(self, folder: Path) -> None:
        save_detector(folder / LAST, self.job.spec, self.detector, asdict(self.history[-1]))
        state = {"detector": self.detector.state_dict(), "optimiser": self.optimiser.state_dict()}
        torch.save(state, folder / STATE_FILE)
        (folder / HISTORY_FILE).write_text(json.dumps([asdict(epoch) for epoch in self.history], indent=1))
        write_left_out(folder, self.left_out)

    def _restore(self, folder: Path) -> None:
        state = torch.load(folder / STATE_FILE, weights_only=True, map_location="cpu")
        self.detector.load_state_dict(state["detector"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.history = [DetectionEpoch(**row) for row in json.loads((folder / HISTORY_FILE).read_text())]
