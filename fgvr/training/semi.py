"""Semi-supervised training of a student: labelled photos and pseudo-labels together (Semi-ViT, arXiv 2208.05688).

A step has photos with targets and, `makd.semi.ratio` times as many, photos that stand without. The moving average of
the student's weights is the teacher: it names the latter as they are, and the student learns these names from strongly
changed crops (`fgvr.losses.pseudo_labels`). The student sees both kinds in one pass, so that batch normalisation has
one set of statistics; the teacher's are averaged like its weights, and it normalises as in inference.

An epoch has as many steps, and as many photos, as one of plain training on the same photos: those without targets
share its places with those that have some, which come again as often as it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.config.semi import Semi
from fgvr.losses.makd import UNKNOWN_CLASS
from fgvr.losses.pseudo_labels import NEVER, PseudoLabels, class_thresholds, pseudo_labels, pseudo_rows
from fgvr.training.batches import Batch, Positions
from fgvr.training.checkpoint import History
from fgvr.training.examples import Examples
from fgvr.training.loop import LossTerm, Mean, Term, train
from fgvr.training.reporter import Reporter
from fgvr.training.student import StudentTrainer
from fgvr.training.student_data import StudentJob, StudentTrainingError
from fgvr.training.student_terms import PseudoStep, StudentStep

EMA_SHARE = 20
"""The teacher's half-life where `makd.ema` names none: this part of all images learned from."""
LEAST = 2
"""Images that batch normalisation needs."""
TAUGHT, UNTAUGHT = 1, 2
"""Ends of the random streams of the order of photos with targets and without."""


def train_semi(job: StudentJob, reporter: Reporter) -> History:
    """As `train_student`, with pseudo-labels.

    Raises:
        StudentTrainingError: as `train_student`; or all images have a target, or none has one.
    """
    return train(SemiTrainer(job, reporter))


class PseudoTerm:
    """The loss of photos with pseudo-labels: a mean over all of them, also those that are not learned."""

    name = "pseudo_loss"

    def __init__(self, weight: float) -> None:
        """`weight`: beside the loss of the labelled photos (λ_u)."""
        self.weight = weight

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        if step.pseudo is None:
            raise ValueError("a step without pseudo-labels")
        rows = pseudo_rows(step.pseudo.logits, step.pseudo.labels)
        return Term(rows.sum(), float(len(rows)), step.pseudo.count, self.weight)


class SemiTrainer(StudentTrainer):
    """A student's trainer with pseudo-labels. A checkpoint's state also has the classes that photos have reached."""

    views = 2  # the first is cropped and flipped, the second also changed

    def __init__(self, job: StudentJob, reporter: Reporter) -> None:
        """Open images, teacher and student; raises as `train_student`."""
        self.semi: Semi = job.settings.semi
        self.last_confident = np.zeros(0, np.int32)
        super().__init__(job, reporter)
        if not len(self.last_confident):  # not restored
            self.last_confident = np.full(len(self.examples), NEVER, np.int32)
        self._named_here: list[tuple[Positions, Tensor]] = []  # by this worker in this epoch: positions, classes
        self.taught, self.untaught = _parts(self.examples, self.data.training)
        if self.average is None:
            raise ValueError("no moving average, which is the teacher")
        # Built anew, since a copy of a student in bf16 would compute with the student's own weights. The average's
        # tensors become the teacher's, which so follows it.
        self.teacher = self.built().requires_grad_(False).eval()
        self.teacher.load_state_dict(self.average.weights, assign=True)

    def half_life(self) -> float:
        """See StudentTrainer; without a setting a part of all images that are learned from."""
        learned = len(self.data.training) * self.settings.epochs
        return self.settings.ema or max(1.0, learned / EMA_SHARE)

    def loss_terms(self) -> Sequence[LossTerm[StudentStep]]:
        """Those of plain training, and that of pseudo-labels."""
        return [*super().loss_terms(), PseudoTerm(self.semi.weight)]

    def batches(self, epoch: int) -> Iterator[Batch]:
        """See Trainer."""
        self.thresholds = torch.from_numpy(self._thresholds(epoch)).to(self.device)
        return super().batches(epoch)

    def epoch_steps(self, epoch: int) -> Sequence[Positions]:
        """The positions of each step: those with targets, and behind them those that are given pseudo-labels."""
        settings, steps = self.settings, self.steps
        sizes = [len(each) for each in np.array_split(np.arange(len(self.data.training)), steps)]
        taught = [taught_of(size, self.semi.ratio) for size in sizes]
        untaught = [size - count for size, count in zip(sizes, taught, strict=True)]
        first = endless(self.taught, sum(taught), (settings.seed, epoch, TAUGHT))
        second = endless(self.untaught, sum(untaught), (settings.seed, epoch, UNTAUGHT))
        firsts = np.split(first, np.cumsum(taught)[:-1])
        seconds = np.split(second, np.cumsum(untaught)[:-1])
        return [np.concatenate(pair) for pair in zip(firsts, seconds, strict=True)]

    def _thresholds(self, epoch: int) -> npt.NDArray[np.float32]:
        """The smallest confidence that counts, per class.

        FlexMatch begins at 0 and believes a teacher that knows nothing; here the first epoch has the threshold itself.
        """
        classes = len(self.job.spec.labels)
        if not self.semi.per_class or epoch == 0:
            return np.full(classes, self.semi.threshold, np.float32)
        return class_thresholds(self.last_confident[self.untaught], classes, self.semi.threshold)

    def _step(self, batch: Batch) -> StudentStep:
        total = taught_of(len(batch.step_positions), self.semi.ratio)
        mine = len(range(self.reporter.rank, total, self.reporter.world_size))  # they lead each worker's share, too
        weak, strong = (view.to(self.device, non_blocking=True) for view in batch.views)
        labels = self._named(weak[mine:], batch.positions[mine:], batch.readable[mine:])
        own = strong[:mine] if self.settings.randaugment else weak[:mine]
        if mine >= LEAST and not bool(labels.kept.any()):  # nothing to learn from the others: they need no pass
            outputs = self._forward(self.model, own)
            untaught = outputs.new_zeros(len(labels.names), outputs.shape[1])
        else:
            both = self._forward(self.model, torch.cat([own.float(), labels.blended(strong[mine:])]))
            outputs, untaught = both[:mine], both[mine:]
        part = replace(
            batch, views=(own,), positions=batch.positions[:mine], step_positions=batch.step_positions[:total]
        )
        pseudo = PseudoStep(labels, self.job.spec.split(untaught)[0], len(batch.step_positions) - total)
        return replace(self._shown(part, (own,), (outputs,)), pseudo=pseudo)

    @torch.no_grad()
    def _named(self, pixels: Tensor, positions: Positions, could_read: npt.NDArray[np.bool_]) -> PseudoLabels:
        """What the teacher says of photos."""
        readable = torch.from_numpy(could_read).to(self.device)
        logits, _ = self.job.spec.split(self._forward(self.teacher, pixels))
        labels = pseudo_labels(logits.softmax(dim=1), self.thresholds, readable, mixup=self.semi.mixup)
        self._named_here.append((positions, torch.where(labels.confidence >= self.semi.threshold, labels.names, NEVER)))
        return labels

    def further(self, step: StudentStep) -> Mapping[str, Mean]:
        """See StudentTrainer; and the shares of other photos that the teacher is confident of, and that are learned."""
        means = super().further(step)
        if step.pseudo is None:
            return means
        labels, count = step.pseudo.labels, float(len(step.pseudo.labels.names))
        shares = {"pseudo_confident": labels.confident, "pseudo_learned": labels.kept}
        return {**means, **{name: Mean(share.sum(), count) for name, share in shares.items()}}

    def end_epoch(self, epoch: int) -> None:
        """See Trainer; then every worker knows of which class the teacher was confident for every photo."""
        super().end_epoch(epoch)
        self._gather_confident()

    def _gather_confident(self) -> None:
        found = torch.zeros(len(self.last_confident), dtype=torch.int32, device=self.device)
        for positions, names in self._named_here:
            places, sure = torch.from_numpy(positions).to(self.device), names != NEVER
            found[places[sure]] = (names[sure] + 1).int()  # where a photo came twice, the later one
        self._named_here = []
        if self.reporter.world_size > 1:
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        now = found.cpu().numpy() - 1
        self.last_confident = np.where(now != NEVER, now, self.last_confident).astype(np.int32)

    def state(self) -> dict[str, object]:
        """See StudentTrainer; and the classes of which the teacher was confident."""
        return {**super().state(), "last_confident": torch.from_numpy(self.last_confident)}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """See StudentTrainer."""
        super().restore_state(state)
        self.last_confident = state["last_confident"].numpy()


def taught_of(images: int, ratio: float) -> int:
    """How many of a step's images are those with targets: 1 of 1 + ratio, at least one, and not all."""
    return min(max(1, round(images / (1 + ratio))), images - 1)


def endless(positions: Positions, count: int, stream: tuple[int, ...]) -> Positions:
    """So many positions: all in random order, again and again in other orders."""
    rng = np.random.default_rng(stream)
    rounds = -(-count // len(positions))
    order: Positions = np.concatenate([rng.permutation(positions) for _ in range(rounds)])
    return order[:count]


def _parts(examples: Examples, training: Positions) -> tuple[Positions, Positions]:
    """Positions of the images with targets, of classes or of aspects, and of those that are given pseudo-labels.

    An image with aspects and without a class is both.

    Raises:
        StudentTrainingError: there are none of either.
    """
    unnamed = examples.classes[training] == UNKNOWN_CLASS
    answered = np.zeros(len(examples), dtype=bool)
    if examples.answers.shape[1]:
        answered[examples.answers.rows] = True
    if unnamed.all():
        raise StudentTrainingError(
            "makd.trainer = semi: no training image has a class that is trusted, so nothing can be learned from the "
            "others; give classes, have more images labelled, or set makd.trainer to plain"
        )
    if not unnamed.any():
        raise StudentTrainingError(
            "makd.trainer = semi: every training image has a class, so none is left for pseudo-labels; set "
            "makd.trainer to plain, or makd.images to pool or all"
        )
    return training[~unnamed | answered[training]], training[unnamed]
