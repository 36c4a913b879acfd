"""How good a trained student is on photos whose true names are known: top-1, top-5, macro-F1 and silhouette."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Floats, Ids
from fgvr.metrics.bootstrap import interval
from fgvr.names.spelling import fold_name

TOP = 5
NOWHERE = -1
"""Rank of a true name that is not among a photo's best names."""


@dataclass(frozen=True)
class Measure:
    """One number, or why there is none.

    Attributes:
        metric: its name.
        value: the number; None where it is not defined.
        note: why it is not defined, or what a reader must know.
        low: lower end of its 95% interval; None without one.
        high: upper end.
    """

    metric: str
    value: float | None
    note: str = ""
    low: float | None = None
    high: float | None = None


def ranks_of(scores: Floats, labels: Sequence[str], true: Sequence[str]) -> Ids:
    """The place of each photo's true name among its five best names, int64 [N]: 0 for the best, −1 for none of them.

    Names are compared as everywhere (`fold_name`), since a student may have learned names that a model gave.

    Args:
        scores: of N photos and C names, float [N, C].
        labels: the C names.
        true: the N true names.
    """
    folded = np.array([fold_name(label) for label in labels])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    hits = folded[best] == np.array([fold_name(name) for name in true])[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1), NOWHERE).astype(np.int64)


def accuracies(ranks: Ids, names: int, *, resamples: int, seed: int) -> list[Measure]:
    """Top-1 and top-5 in percent, with bootstrap intervals over photos; of C < 5 names the best C count.

    Args:
        ranks: as `ranks_of` gives them, int64 [N].
        names: C.
        resamples: of the bootstrap; 0: no intervals.
        seed: of the bootstrap.
    """
    found = []
    for metric, most in (("top1", 1), ("top5", TOP)):
        hits = np.where((ranks >= 0) & (ranks < most), 100.0, 0.0).astype(np.float64)
        low, high = interval(hits, resamples=resamples, seed=seed) or (None, None)
        note = f"top-{names}: the student knows {names} names" if most > names else ""
        found.append(Measure(metric, float(hits.mean()) if len(hits) else None, note, low, high))
    return found


def macro_f1(predicted: Sequence[str], true: Sequence[str]) -> Measure:
    """F1 in percent, averaged over the classes that occur among the true names; any other name is a wrong answer.

    As scikit-learn's f1_score with labels=sorted(set(true)), average="macro" and zero_division=0: a class that nobody
    predicts has F1 = 0, and one that is predicted but absent has no F1 of its own.
    """
    truth, said = [fold_name(name) for name in true], [fold_name(name) for name in predicted]
    classes = sorted(set(truth))
    if not classes:
        return Measure("macro_f1", None, "no photo")
    place = {name: number for number, name in enumerate(classes)}
    t = np.array([place[name] for name in truth])
    p = np.array([place.get(name, len(classes)) for name in said])
    size = len(classes)
    right = np.bincount(t[t == p], minlength=size)
    counted = np.bincount(t, minlength=size) + np.bincount(p, minlength=size + 1)[:size]
    note = "one class only: it is its F1" if size == 1 else ""
    return Measure("macro_f1", float(100 * np.mean(2 * right / counted)), note)


def silhouette(vectors: Floats | None, true: Sequence[str], *, most: int, seed: int) -> Measure:
    """Mean silhouette (Rousseeuw 1987; scikit-learn's, Euclidean), −1 … 1, of the vectors by true class.

    It says how far classes are apart in the network's own space, whatever its classifier makes of it.

    Args:
        vectors: what goes into the classifier, float [N, D]; None where the network has no such layer.
        true: the true names.
        most: photos of a random sample; its time and memory grow with their square.
        seed: of the sample.
    """
    if vectors is None:
        return Measure("silhouette", None, "the network has no single layer in front of its classifier")
    codes = np.unique([fold_name(name) for name in true], return_inverse=True)[1]
    if len(codes) > most:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(codes))[:most])
        vectors, codes = vectors[chosen], codes[chosen]
    classes = len(np.unique(codes))
    if classes < 2:
        return Measure("silhouette", None, "one class only: there is none to be apart from")
    if classes == len(codes):
        return Measure("silhouette", None, "one photo per class: none has a neighbour of its class")
    if not np.isfinite(vectors).all():
        return Measure("silhouette", None, "the network's vectors are not finite")
    from sklearn.metrics import silhouette_score

    note = f"of {len(codes):,} photos" if len(codes) < len(true) else ""
    return Measure("silhouette", float(silhouette_score(vectors, codes)), note)


def finite(scores: Floats) -> npt.NDArray[np.bool_]:
    """Whether the scores of each photo are numbers: bool [N]."""
    return np.asarray(np.isfinite(scores).all(axis=1), bool)
