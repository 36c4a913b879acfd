"""Rates, order, views and held-out images of a NeaR training: pure functions of the recipe, so nothing to restore."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fgvr.config import Near

Positions = npt.NDArray[np.int64]

WARMUP_RATE = 1e-5  # CoOp's constant warm-up


def learning_rate(settings: Near, epoch: int) -> float:
    """The rate of an epoch, counted from 0: `warmup_epochs` at 1e-5, then a cosine from `lr` to 0.

    As CoOp's (Dassl's ConstantWarmupScheduler over CosineAnnealingLR), but with the cosine over the epochs that remain.
    """
    warmup = min(settings.warmup_epochs, settings.epochs - 1)
    if epoch < warmup:
        return min(WARMUP_RATE, settings.lr)
    done = (epoch - warmup) / (settings.epochs - warmup)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def held_out(settings: Near, images: int) -> npt.NDArray[np.bool_]:
    """Bool [images]: those that are not learned from but choose the best epoch; at least one image is learned from."""
    count = min(round(settings.validation_share * images), images - 1)
    held = np.zeros(images, dtype=bool)
    held[np.random.default_rng((settings.seed, 2**32)).permutation(images)[:count]] = True
    return held


def steps_per_epoch(settings: Near, images: int) -> int:
    """Batches of at most `batch_size` that hold all images."""
    return math.ceil(images / settings.batch_size)


def epoch_steps(settings: Near, positions: Positions, epoch: int) -> list[Positions]:
    """The batches of an epoch over all workers: every image once, in random order, sizes equal within one image."""
    steps = steps_per_epoch(settings, len(positions))
    order = np.random.default_rng((settings.seed, epoch)).permutation(positions) if steps > 1 else positions
    return np.array_split(order, steps)


def epoch_views(settings: Near, images: int, views: int, epoch: int) -> npt.NDArray[np.int64]:
    """Which of its cached views each image shows in an epoch: int64 [images]."""
    return np.random.default_rng((settings.seed, epoch, views)).integers(0, views, images)
