"""The loss terms of a student: class targets, the MLLM's answers about aspects, signatures, and a teacher's logits.

Each is a `fgvr.training.loop.LossTerm` on a `StudentStep` and computes a published loss (`fgvr.losses`). Sums run over
this worker's images, counts over the images of the whole step: every worker has the targets of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fgvr.config import Dkd, Kd
from fgvr.losses.kd import dkd_rows, kd_rows, standardised
from fgvr.losses.makd import UNKNOWN_CLASS, AspectLoss, aspect_counts, aspect_sum, class_sum
from fgvr.losses.mixture import clean_probability, refined_rows
from fgvr.losses.pseudo_labels import PseudoLabels
from fgvr.losses.signatures import option_places, signature_rows
from fgvr.losses.soft_targets import hard_rows, soft_rows
from fgvr.training.batches import Batch
from fgvr.training.examples import Examples, SoftClasses
from fgvr.training.loop import LossTerm, Term
from fgvr.training.reporter import sum_over_workers
from fgvr.training.teacher import Teacher


@dataclass(frozen=True)
class PseudoStep:
    """This worker's u images of a step that stand without targets (`fgvr.training.semi`).

    Attributes:
        labels: what a teacher says of them.
        logits: the student's, of their changed and blended pixels, float32 [u, C].
        count: how many there are in the whole step, over all workers.
    """

    labels: PseudoLabels
    logits: Tensor
    count: int


@dataclass(frozen=True)
class StudentStep:
    """What loss terms see of a step: this worker's n images in one or more views, the outputs, and the targets.

    Attributes:
        epoch: counted from 0.
        batch: has the images' positions in the examples, and those of the whole step.
        pixels: per view, uint8 [n, S, S, 3] on the device.
        class_logits: per view, float32 [n, C].
        aspect_logits: per view, float32 [n, Q].
        classes: class targets, int64 [n]; −1 for images without one and for images that could not be read after all.
        p_yes: float32 [n, Q]; nan where the MLLM gave no answer.
        partners: the same step with the targets of the images that these are mixed with (`fgvr.training.mixing`); None
            where nothing is mixed.
        share: share of the images themselves in the mixed ones; their partners have the rest.
        pseudo: further images, which stand without targets; None in plain training.
        choice_logits: per view, float32 [n, K]: the options of the choice questions.
        projected: photos, metadata and texts in one space, each [n, 256] (`fgvr.training.fused`); mostly none.
    """

    epoch: int
    batch: Batch
    pixels: tuple[Tensor, ...]
    class_logits: tuple[Tensor, ...]
    aspect_logits: tuple[Tensor, ...]
    classes: Tensor
    p_yes: Tensor
    partners: StudentStep | None = None
    share: float = 1.0
    pseudo: PseudoStep | None = None
    choice_logits: tuple[Tensor, ...] = ()
    projected: tuple[Tensor, ...] = ()


class MixedTerm:
    """A loss of mixed images: that of their own targets by their share, and that of their partners' by the rest.

    Losses that are linear in the target, as cross entropies are, so have the loss of the mixed target.
    """

    def __init__(self, term: LossTerm[StudentStep]) -> None:
        self.term, self.name = term, term.name

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm. The step's pairs are a permutation of its images, so that the count is that of either."""
        own = self.term(step)
        if step.partners is None:
            return own
        other, share = self.term(step.partners), step.share
        total = share * own.total + (1 - share) * other.total
        return Term(total, share * own.seen + (1 - share) * other.seen, own.count, own.weight)


class ClassTerm:
    """Cross entropy of the first view with the class targets; an image may have several, and may count for less."""

    name = "class_loss"

    def __init__(self, examples: Examples, weight: float, smoothing: float = 0.0) -> None:
        """`smoothing`: share of a target that is spread over all classes."""
        self.weight, self._classes = weight, examples.classes  # memory-mapped: no copy of millions
        self._counts, self._soft = examples.weights, examples.soft
        self.smoothing = smoothing

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        if self._counts is None and self._soft is None:
            total, seen = class_sum(step.class_logits[0], step.classes, self.smoothing)
            return Term(total, seen, self._count(step), self.weight)
        return self._term(self._rows(step), step)

    def _rows(self, step: StudentStep) -> Tensor:
        """The loss of each image, float32 [n]."""
        if self._soft is None:
            return hard_rows(step.class_logits[0], step.classes, self.smoothing)
        return soft_rows(step.class_logits[0], *self._names(step, self._soft), self.smoothing)

    def _names(self, step: StudentStep, soft: SoftClasses) -> tuple[Tensor, Tensor]:
        """The names of each image, int [n, k], −1 in unused places, and their probabilities."""
        ids, shares = (
            torch.from_numpy(values).to(step.classes.device, non_blocking=True) for values in soft[step.batch.positions]
        )
        return ids, shares

    def _term(self, rows: Tensor, step: StudentStep) -> Term:
        """The weighted mean of the images' losses."""
        counts = self._weights(step)
        return Term((counts * rows).sum(), counts.sum(), self._count(step), self.weight)

    def _weights(self, step: StudentStep) -> Tensor:
        """How much each image counts, float32 [n]; 0 without a class."""
        counts = (step.classes != UNKNOWN_CLASS).float()
        if self._counts is not None:
            counts *= torch.from_numpy(self._counts[step.batch.positions]).to(counts.device, non_blocking=True)
        return counts

    def _count(self, step: StudentStep) -> float:
        """Targets of the whole step, or the sum of their weights."""
        positions = step.batch.step_positions
        known = self._classes[positions] != UNKNOWN_CLASS
        return int(known.sum()) if self._counts is None else float(self._counts[positions][known].sum(dtype=np.float64))


class SignatureTerm(ClassTerm):
    """The loss by which the first view's choice outputs follow the signature of the image's class (LaViD).

    An image counts as in the class loss, since it is its name that says which signature is learned: not without one,
    and by its weight. Where it has several names, their signatures are mixed by the names' probabilities. An image
    whose class has no signature counts and adds nothing, so that the others do not weigh more for it.
    """

    name = "signature_loss"

    def __init__(self, examples: Examples, signatures: Tensor, sizes: Sequence[int], weight: float) -> None:
        """`signatures`: float32 [C, K] on the device, nan without one; `sizes`: number of options of each question."""
        super().__init__(examples, weight)
        self.signatures, self._places = signatures, option_places(sizes).to(signatures.device)
        self._known = ~signatures.isnan().any(dim=1)

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        targets, weights = self._targets(step), self._weights(step)
        rows = signature_rows(step.choice_logits[0], targets, self._places)
        seen = weights[~targets.isnan().any(dim=1)].sum()
        return Term((weights * rows).sum(), seen, self._count(step), self.weight)

    def _targets(self, step: StudentStep) -> Tensor:
        """The signature of each image, float32 [n, K]; nan without one."""
        ids, shares = step.classes[:, None], torch.ones_like(step.classes, dtype=torch.float32)[:, None]
        if self._soft is not None:
            ids, shares = self._names(step, self._soft)
        names = ids.clamp(min=0).long()
        shares = torch.where((ids >= 0) & self._known[names], shares.float(), 0.0)
        mass = shares.sum(dim=1, keepdim=True)
        mixed = torch.einsum("nk,nko->no", shares / mass.clamp(min=1e-12), self.signatures[names].nan_to_num())
        return torch.where((mass > 0) & (step.classes != UNKNOWN_CLASS)[:, None], mixed, torch.nan)


class RefinedClassTerm(ClassTerm):
    """Cross entropy of the first view with class targets that count as far as they are clean (`fgvr.losses.mixture`).

    Clean is what the losses of an epoch say, of each image as it was seen in the epoch: a pass of its own over all
    images, as DivideMix makes it, would cost a third of the training. All workers have the same probabilities.
    """

    def __init__(self, examples: Examples, weight: float, refine_after: int) -> None:
        """`refine_after`: epochs in which all targets count as clean."""
        super().__init__(examples, weight)
        self.refine_after = refine_after
        self.clean = torch.ones(len(examples), dtype=torch.float32)
        self._seen: list[tuple[npt.NDArray[np.int64], Tensor]] = []  # in this epoch: positions, losses on the device

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        logits, classes, positions = step.class_logits[0], step.classes, step.batch.positions
        clean = self.clean[torch.from_numpy(positions)].to(logits.device, non_blocking=True)
        rows = refined_rows(logits, classes, clean)
        with torch.no_grad():
            losses = hard_rows(logits, classes)
            self._seen.append((positions, losses.masked_fill(classes == UNKNOWN_CLASS, torch.nan)))
        return self._term(rows, step)

    def end_epoch(self, epoch: int, rank: int, world_size: int) -> None:
        """Split the targets by the losses of the epoch, counted from 0; all workers call it."""
        seen, self._seen = self._seen, []
        if epoch + 1 < self.refine_after:
            return
        device = seen[0][1].device if seen else torch.device("cpu")  # of the process group, too
        sums = torch.zeros(2, len(self.clean), dtype=torch.float64, device=device)
        for positions, losses in seen:
            places, known = torch.from_numpy(positions).to(device), losses.isfinite()
            sums[0].index_add_(0, places[known], losses[known].double())
            sums[1].index_add_(0, places[known], torch.ones_like(losses[known], dtype=torch.float64))
        total, count = sum_over_workers(sums, world_size).cpu().numpy()
        clean = torch.zeros(len(self.clean), device=device)
        if rank == 0:  # one worker fits the mixture, so that all have the same
            known = count > 0
            found = clean_probability(np.divide(total, count, out=np.zeros_like(total), where=known), known)
            clean = torch.from_numpy(np.where(known, found, self.clean.numpy()).astype(np.float32)).to(device)
        self.clean = sum_over_workers(clean, world_size).cpu()

    def clean_share(self) -> float:
        """Mean probability that a target is clean, over the images that have one."""
        known = torch.from_numpy(self._classes != UNKNOWN_CLASS)
        return float(self.clean[known].mean()) if bool(known.any()) else 1.0


class AspectTerm:
    """The aspect loss of the first view with the MLLM's p(yes).

    The paper asks about every image, so an image's aspects weigh α / n in a step of n images. Where only some images
    were asked about, a mean over those alone would let each weigh more the fewer there are in a step: so all images
    of a step count, and those that were not asked about add nothing.
    """

    name = "aspect_loss"

    def __init__(self, examples: Examples, kind: AspectLoss, weight: float, *, all_asked: bool = True) -> None:
        """`all_asked`: an image without answers is one that failed, and does not count."""
        self.kind, self.weight = kind, weight
        whole = 1 if kind == "softmax_kl" else examples.answers.shape[1]
        self._counts = np.full(len(examples), 0 if all_asked else whole, dtype=np.int32)
        for rows, values in examples.answers.blocks():
            p_yes = torch.from_numpy(values)
            self._counts[rows] = aspect_counts(p_yes, ~p_yes.isnan(), kind).numpy()

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        total, seen = aspect_sum(step.aspect_logits[0], step.p_yes, ~step.p_yes.isnan(), self.kind)
        return Term(total, seen, int(self._counts[step.batch.step_positions].sum()), self.weight)


class DistillationTerm:
    """The loss by which the first view's class logits follow a teacher's, T² included."""

    name = "distillation_loss"

    def __init__(
        self, settings: Kd | Dkd, teacher: Teacher, classes: npt.NDArray[np.int64], *, all_asked: bool = True
    ) -> None:
        """`classes`: int64 [N], class targets of the examples; −1 where there is none.

        `all_asked`: an image about which the teacher says nothing is one on which the MLLM failed. Else all images of a
        step count, as in `AspectTerm`.
        """
        self.settings, self.teacher = settings, teacher
        wanted = classes != UNKNOWN_CLASS if isinstance(settings, Dkd) else np.ones(len(classes), dtype=bool)
        self._taught = teacher.known & wanted
        self._counted = self._taught if all_asked or bool(teacher.known.all()) else wanted

    def weight(self, epoch: int) -> float:
        """Weight in an epoch, counted from 0: it rises linearly up to the last epoch of the warm-up."""
        warmup = self.settings.warmup_epochs
        return self.settings.weight * (min((epoch + 1) / warmup, 1.0) if warmup else 1.0)

    def __call__(self, step: StudentStep) -> Term:
        """See LossTerm."""
        batch, student = step.batch, step.class_logits[0]
        teacher = self.teacher.logits(step.pixels[0], batch.positions)
        if self.settings.standardise:
            student, teacher = standardised(student), standardised(teacher)
        rows = self._rows(student, teacher, step.classes)
        taught = torch.from_numpy(self._taught[batch.positions] & batch.readable).to(rows.device)
        return Term(
            torch.where(taught, rows, 0.0).sum(),
            taught.sum().float(),
            int(self._counted[batch.step_positions].sum()),
            self.weight(step.epoch),
        )

    def _rows(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        settings = self.settings
        if isinstance(settings, Kd):
            return kd_rows(student, teacher, settings.temperature)
        target_part, other_part = dkd_rows(student, teacher, classes.clamp(min=0), settings.temperature)
        return settings.alpha * target_part + settings.beta * other_part
