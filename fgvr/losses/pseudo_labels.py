"""Pseudo-labels as in Semi-ViT (Cai et al., NeurIPS 2022, arXiv 2208.05688, section 3), with the thresholds per class
of FlexMatch (Zhang et al., NeurIPS 2021, arXiv 2110.08263, equations 5 to 11).

A teacher names weakly changed photos; the student learns the names from strongly changed ones, where the teacher is
confident. With probabilistic pseudo-mixup, photos are blended in pairs in proportion to the teacher's confidence, so
that an uncertain photo has a part in what is learned without being believed alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

NEVER = -1
"""In `last_confident`: the teacher has not been confident of this photo yet."""


@dataclass(frozen=True)
class PseudoLabels:
    """What is learned from u photos.

    Attributes:
        names: the teacher's first class of each, int64 [u].
        confidence: its probability, float [u]; 0 where the photo could not be read.
        partners: the row of the photo that each is blended with, int64 [u]; itself where nothing is blended.
        share: the photo's own share of the blend, float32 [u].
        confident: whether the teacher is confident of the photo itself, bool [u].
        kept: whether the blend is learned, bool [u].
    """

    names: Tensor
    confidence: Tensor
    partners: Tensor
    share: Tensor
    confident: Tensor
    kept: Tensor

    def blended(self, pixels: Tensor) -> Tensor:
        """Pixels [u, …] of the photos as float32, blended with their partners'."""
        pixels = pixels.float()
        share = self.share.view(-1, *(1,) * (pixels.dim() - 1))
        return share * pixels + (1 - share) * pixels[self.partners]


def pseudo_labels(probabilities: Tensor, thresholds: Tensor, readable: Tensor, *, mixup: bool) -> PseudoLabels:
    """The names that a teacher gives, and which of them are learned.

    Photo i is blended with photo u − 1 − i by λ = c_i / (c_i + c_partner), and the blend is learned where the more
    confident of the two passes its threshold (with one threshold for all classes: where max(c_i, c_partner) does).

    Args:
        probabilities: the teacher's, of weakly changed photos, float [u, C].
        thresholds: smallest confidence, per class, float [C].
        readable: bool [u]; a photo that could not be read has no confidence.
        mixup: blend them; else each stays by itself.
    """
    confidence, names = probabilities.max(dim=1)
    confidence = torch.where(readable, confidence, 0.0)
    confident = (confidence >= thresholds[names]) & readable
    own = torch.arange(len(names), device=names.device)
    if not mixup:
        return PseudoLabels(names, confidence, own, torch.ones_like(confidence), confident, confident)
    partners = own.flip(0)
    theirs = confidence[partners]
    share = confidence / (confidence + theirs).clamp(min=torch.finfo(confidence.dtype).tiny)
    kept = torch.where(confidence >= theirs, confident, confident[partners])
    return PseudoLabels(names, confidence, partners, share, confident, kept)


def pseudo_rows(logits: Tensor, labels: PseudoLabels) -> Tensor:
    """Cross entropy of each photo with its blended names, float32 [u]; 0 where it is not learned.

    The loss of a step is their sum divided by the number of all photos of the step, learned or not.

    Args:
        logits: the student's, of strongly changed, blended photos, float [u, C].
        labels: what they are to be.
    """
    likely = functional.log_softmax(logits.float(), dim=1)
    own = likely.gather(1, labels.names[:, None])[:, 0]
    theirs = likely.gather(1, labels.names[labels.partners][:, None])[:, 0]
    return torch.where(labels.kept, -(labels.share * own + (1 - labels.share) * theirs), 0.0)


def class_thresholds(last_confident: npt.NDArray[np.int32], classes: int, threshold: float) -> npt.NDArray[np.float32]:
    """FlexMatch's threshold of each class, float32 [C]: lower for those that few photos have reached.

    Where no photo has reached any class yet, it is the threshold itself: a teacher that knows nothing is not believed.
    With σ_c the photos of which the teacher was confident as class c when it last was, β_c = σ_c / max(max σ, photos
    of which it never was) and M(x) = x / (2 − x), it is M(β_c) · threshold.

    Args:
        last_confident: per photo the class of which the teacher was confident last, int32 [U]; `NEVER`.
        classes: C.
        threshold: that of the class that most photos have reached, once these are more than the photos never reached.
    """
    reached = np.bincount(last_confident[last_confident != NEVER], minlength=classes)
    if not reached.any():
        return np.full(classes, threshold, np.float32)
    most = max(int(reached.max(initial=0)), int((last_confident == NEVER).sum()), 1)
    share = reached / most
    return (threshold * share / (2 - share)).astype(np.float32)
