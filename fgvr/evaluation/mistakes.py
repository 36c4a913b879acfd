"""What a method's wrong names cost: the four losses of FungiCLEF, with the costs of a file as the second."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fgvr.arrays import NONE
from fgvr.heads.costs import CostFile, Costs, Tracks
from fgvr.names.spelling import fold_name


def mistakes_of(said: Sequence[str], true: Sequence[str | None], file: CostFile, nameable: Sequence[str]) -> Tracks:
    """T1 to T4 per image over the images whose class is known; see `fgvr.heads.costs.Tracks`.

    Args:
        said: one name per image; "" where the method failed or abstained.
        true: one true class name per image; None or "" if unknown: such images do not count.
        file: the costs. T2 is their mean; saying nothing costs what the file says.
        nameable: the label space. For T4 a class that no label names is an "unknown" one, and saying nothing is right
            for it.

    Raises:
        ValueError: no class is known.
        CostsError: the file's names and groups are neither classes nor names of this method.
    """
    pairs = [(name, truth) for name, truth in zip(said, true, strict=True) if truth]
    if not pairs:
        raise ValueError("mistakes cost nothing where no class is known")
    folded = [(fold_name(name), fold_name(truth)) for name, truth in pairs]
    names = sorted({name for pair in folded for name in pair} - {""})
    place = {name: number for number, name in enumerate(names)} | {"": NONE}
    spoken = np.array([place[name] for name, _ in folded], np.int64)
    truths = np.array([place[truth] for _, truth in folded], np.int64)
    costs = Costs.of(file, names)
    wrong = spoken != truths
    known = {fold_name(name) for name in nameable}
    unknown = np.array([truth not in known for _, truth in folded])
    silent = spoken == NONE
    weights = np.where(unknown, np.where(silent, 0.0, 10.0), np.where(silent, 0.1, wrong.astype(np.float64)))
    mean = float(costs.cost(truths, spoken).mean())
    share = float(wrong.mean())
    return Tracks(share, mean, share + mean, float(weights.mean()))
