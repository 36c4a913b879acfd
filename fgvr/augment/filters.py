"""Which generated pictures students may learn from (SaSPA, Michaeli and Fried, NeurIPS 2024, and its code).

Two filters: CLIP must find that a picture shows something of the kind at all, and a classifier of the names must have
its name among the best. Ties count against a picture: a model that cannot tell is no witness.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Floats

Flags = npt.NDArray[np.bool_]
Ranks = npt.NDArray[np.int32]

RULES = 1
"""Increase it when the same pictures would be judged differently."""
UNRANKED: Final = 0
"""In place of a rank, where the classifier does not have the name."""
BLANK_RANGE: Final = 8
"""A picture whose levels differ by less than this shows nothing: so a safety checker or a broken decoder leaves it."""


class Rejection(StrEnum):
    """Why a picture is not kept, in the order in which this is asked."""

    NOT_FINITE = "not_finite"  # the generator gave nan or infinity
    UNSAFE = "unsafe"  # the pipeline's own safety checker blanked it
    BLANK = "blank"  # of one colour
    NOT_THE_KIND = "not_the_kind"  # a negative prompt is at least as near as the basic one
    NOT_THE_NAME = "not_the_name"  # the name is not among the best of the classifier
    UNRANKED = "unranked"  # the classifier does not have the name


def is_blank(pixels: npt.NDArray[Any]) -> bool:
    """Whether an image, uint8 [H, W, 3], is black or of any other single colour."""
    flat = pixels.reshape(-1, pixels.shape[-1])
    return bool((flat.max(axis=0).astype(int) - flat.min(axis=0) < BLANK_RANGE).all())


def basic_wins(basic: Floats, negatives: Floats) -> Flags:
    """Whether the basic prompt is nearer than every negative one, bool [n].

    Args:
        basic: cosines of the pictures with it, float32 [n].
        negatives: cosines with the negative prompts, float32 [n, m]; of none every picture passes.
    """
    return np.asarray((basic[:, None] > negatives).all(axis=1), dtype=bool)


def ranks(scores: Floats, labels: npt.NDArray[np.int64]) -> Ranks:
    """The rank of each picture's own name, int32 [n]: 1 is the best, `UNRANKED` without a name.

    Names with the same score come before it, and so do those whose score is nan.

    Args:
        scores: of the C names, float32 [n, C].
        labels: the column of each picture's name, int64 [n]; −1 where the classifier does not have it.
    """
    own = scores[np.arange(len(labels)), np.maximum(labels, 0)] if scores.size else np.zeros(len(labels), np.float32)
    found = (~(scores < own[:, None])).sum(axis=1).astype(np.int32)
    return np.where(labels >= 0, found, UNRANKED).astype(np.int32)


def most_rank(top_k: int, names: int) -> int:
    """The worst rank that passes: min(top_k, C), which of few names rejects nothing."""
    return min(top_k, names)


def judged(wins: Flags, found: Ranks, names: int, top_k: int | None) -> list[Rejection | None]:
    """Why each picture is rejected; None if it is kept.

    Args:
        wins: of `basic_wins`, bool [n].
        found: of `ranks`, int32 [n].
        names: C.
        top_k: as in the config; None: ranks are not asked.
    """
    verdicts: list[Rejection | None] = []
    for wins_here, rank in zip(wins.tolist(), found.tolist(), strict=True):
        if not wins_here:
            verdicts.append(Rejection.NOT_THE_KIND)
        elif top_k is None:
            verdicts.append(None)
        elif rank == UNRANKED:
            verdicts.append(Rejection.UNRANKED)
        else:
            verdicts.append(None if rank <= most_rank(top_k, names) else Rejection.NOT_THE_NAME)
    return verdicts
