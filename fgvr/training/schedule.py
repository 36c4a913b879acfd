"""Learning rates as a pure function of time, so that a resumed training has no schedule to restore."""

from __future__ import annotations

import math

from fgvr.config import Makd
from fgvr.config.detect import Detect
from fgvr.training.batches import steps_per_epoch


def bounded_by_steps(settings: Makd, images: int) -> Makd:
    """The recipe with as few epochs as `max_steps` allows, one at least; the same one where they are fewer anyway.

    Milestones and warm-up keep their shares of the training, in whole epochs.

    Args:
        settings: the recipe.
        images: that are trained on.
    """
    if settings.max_steps is None:
        return settings
    most = max(1, settings.max_steps // steps_per_epoch(images, settings.batch_size))
    if most >= settings.epochs:
        return settings
    share = most / settings.epochs
    return settings.model_copy(
        update={
            "epochs": most,
            "milestones": tuple(round(milestone * share) for milestone in settings.milestones),
            "warmup_epochs": round(settings.warmup_epochs * share),
        }
    )


def learning_rate(settings: Makd | Detect, step: int, steps_per_epoch: int) -> float:
    """The rate of a step, counted from 0 over the whole training.

    Linear warm-up over `warmup_epochs` (its last step has the full rate); then `milestones` divides by ten after each
    of these epochs, as `torch.optim.lr_scheduler.MultiStepLR`; `cosine` falls to zero at the end of the last epoch
    (Loshchilov and Hutter 2017, without restarts).
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "milestones":
        epoch = step // steps_per_epoch
        return settings.lr * 0.1 ** sum(epoch >= milestone for milestone in settings.milestones)
    total = settings.epochs * steps_per_epoch
    done = (step - warmup) / max(total - warmup, 1)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1)))
