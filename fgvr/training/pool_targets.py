"""What each photo of a pool teaches a student: the names that a method gives it, and how much they count.

A pool photo has no label of its own. A classifier of stored vectors names it (NeaR, a head, prototypes); a photo that
the MLLM has named and NeaR has settled keeps that name, and one that a person has checked keeps the person's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fgvr.arrays import NONE, Floats, Labels

TOP = 8
"""Names per photo at most: with 20,000 names, all their probabilities would take 40 kB per photo."""
Weighing = Literal["none", "confidence", "agreement", "issues"]
Kind = Literal["checked", "settled", "named"]
"""By whom: a person, the MLLM and NeaR together, a classifier alone."""
Standing = Literal["checked", "agreed", "suspicious", "disagreed", "unasked"]
"""Why a photo's name is trusted in semi-supervised training, or not: a person has checked it; the MLLM and the
classifier say the same; they do, but the neighbours prefer another name; they do not; the MLLM has not named it."""
TRUSTED: tuple[Standing, ...] = ("checked", "agreed")
RULES = 1
"""Increase it when the same models and settings would give other targets."""


@dataclass(frozen=True)
class Named:
    """The names of n photos, best first.

    Attributes:
        label_ids: int32 [n, k]; `NONE` where there are fewer, or none at all.
        probabilities: float32 [n, k]; those of a photo sum to 1, or to 0 where it has no name.
    """

    label_ids: Labels
    probabilities: Floats

    @property
    def first(self) -> Labels:
        """The best name of each photo, int32 [n]; `NONE` without one."""
        return self.label_ids[:, 0]


def best_names(scores: Floats, temperature: float | None) -> Named:
    """The most probable names of n photos: one of each, or, with a temperature, the best `TOP`.

    Args:
        scores: probabilities, float [n, C].
        temperature: p becomes p^(1/T), rescaled over the names that are kept (Hinton et al. 2015, section 2, for the
            logits of a softmax); None: one name, for certain.
    """
    if temperature is None:  # a partial sort of 20,000 names would take seventeen times as long
        return Named(scores.argmax(axis=1).astype(np.int32)[:, None], np.ones((len(scores), 1), np.float32))
    count = min(TOP, scores.shape[1])
    best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    kept = np.take_along_axis(scores, best, axis=1).astype(np.float64)
    order = np.argsort(-kept, axis=1, kind="stable")
    best, kept = np.take_along_axis(best, order, axis=1), np.take_along_axis(kept, order, axis=1)
    # Relative to the best name, so that a sharp temperature does not underflow to zero everywhere.
    shares = (kept / np.maximum(kept[:, :1], np.finfo(np.float64).tiny)) ** (1 / temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    return Named(best.astype(np.int32), shares.astype(np.float32))


def with_certain(named: Named, label_ids: Labels) -> Named:
    """The same, with one certain name for each photo that has one in `label_ids`, int32 [n]; `NONE` elsewhere."""
    known = label_ids != NONE
    ids, shares = named.label_ids.copy(), named.probabilities.copy()
    ids[known], shares[known] = NONE, 0.0
    ids[known, 0], shares[known, 0] = label_ids[known], 1.0
    return Named(ids, shares)


def agreement(names: Labels, others: Sequence[Labels]) -> Floats:
    """The share of those who name a photo that give the name in `names`, its own giver included: float32 [n].

    Args:
        names: the names that are learned, int32 [n].
        others: what others say, int32 [n] each, in the same label space; `NONE` where one says nothing.
    """
    said, agreed = np.ones(len(names)), np.ones(len(names))
    for each in others:
        said += each != NONE
        agreed += (each == names) & (each != NONE)
    return (agreed / said).astype(np.float32)


def weights(
    named: Named,
    weighing: Weighing,
    *,
    confidence: Floats,
    others: Sequence[Labels] = (),
    suspicion: Floats | None = None,
    checked: npt.NDArray[np.bool_] | None = None,
    checked_weight: float = 1.0,
) -> Floats:
    """How much each photo counts, float32 [n]: 0 … 1, or `checked_weight` where a person has looked.

    Args:
        named: the names that are learned.
        weighing: the rule (`makd.target_weights`).
        confidence: the classifier's probability of the name, float [n]; 1 for settled names would hide how sure it is.
        others: see `agreement`.
        suspicion: how suspicious the label of a photo is, float [n] in 0 … 1, nan where it was not judged.
        checked: bool [n]; None: nobody has looked.
        checked_weight: at least 1.
    """
    count = np.ones(len(named.first), np.float32)
    if weighing == "confidence":
        count = np.asarray(confidence, np.float32).copy()
    elif weighing == "agreement":
        count = agreement(named.first, others)
    elif weighing == "issues" and suspicion is not None:
        count = (1 - np.nan_to_num(suspicion, nan=0.0)).astype(np.float32)
    if checked is not None:
        count[checked] = checked_weight
    count[named.first == NONE] = 0.0
    return count


def standings(
    learned: Labels,
    names: Labels,
    own: Labels,
    *,
    doubted: npt.NDArray[np.bool_],
    checked: npt.NDArray[np.bool_],
) -> npt.NDArray[np.str_]:
    """Why the name of each of n photos is trusted, or not: `Standing`.

    Args:
        learned: the name that would be the target, int32 [n]: NeaR may have settled another than the two say.
        names: what the classifier of stored vectors says, int32 [n].
        own: what the MLLM says, int32 [n], in the same label space; `NONE` where it says nothing.
        doubted: whether the neighbours of a photo prefer another name to the MLLM's, bool [n].
        checked: whether a person has looked, bool [n].
    """
    rules = [checked, own == NONE, (names != own) | (learned != own), doubted]
    return np.select(rules, ["checked", "unasked", "disagreed", "suspicious"], default="agreed")
