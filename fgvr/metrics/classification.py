"""Top-1 accuracy of free-form names, and how much of the truth a label space or a candidate set can express.

A predicted name counts as a class if both names are equal after `fold_name`. Meaning and synonyms do not count:
"rock dove" is wrong for "Rock Pigeon"; "rock pigeon" and "Rock-Pigeon" are right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fgvr.names.spelling import fold_name


def top1_hits(predicted: Sequence[str], true: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Bool [N]: whether the predicted name equals the true name by the rule above; an empty name never does."""
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} true names: they must be of the same images")
    folded = {name: fold_name(name) for name in {*predicted, *true}}
    pairs = zip(predicted, true, strict=True)
    return np.array([bool(folded[g]) and folded[g] == folded[t] for g, t in pairs], dtype=bool)


def inclusion_hits(predicted: Sequence[str], true: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Bool [N]: the predicted name contains the true one, ignoring case and outer blanks (altndrr/lmms-owc, after vic).

    As there, letters count and not words: "Red-winged Gull" contains "gull", and so does "seagull".
    """
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} true names: they must be of the same images")
    pairs = zip(predicted, true, strict=True)
    return np.array([bool(t.strip()) and t.strip().lower() in g.strip().lower() for g, t in pairs], dtype=bool)


def mapped_share(
    predicted: Sequence[str], classes: Iterable[str], weights: npt.NDArray[np.int64] | None = None
) -> float:
    """Share (0–1) of predictions that name any of the true classes, right or wrong; 0 without predictions."""
    known = {fold_name(name) for name in classes} - {""}
    folded = {name: fold_name(name) for name in set(predicted)}
    found = [folded[name] in known for name in predicted]
    return float(np.average(found, weights=weights)) if found else 0.0


def candidate_coverage(candidates: Sequence[Sequence[str]], true: Sequence[str]) -> float:
    """Share (0–1) of images whose candidate set contains the true name: an upper bound for disambiguation."""
    if len(candidates) != len(true):
        raise ValueError(f"{len(candidates)} candidate sets for {len(true)} true names")
    hits = [
        fold_name(truth) in {fold_name(name) for name in names} for names, truth in zip(candidates, true, strict=True)
    ]
    return float(np.mean(hits)) if hits else 0.0
