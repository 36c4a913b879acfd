"""All metrics of one method on one set of images with known truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fgvr.metrics.bootstrap import NORMAL_FROM, interval, normal_interval
from fgvr.metrics.classification import inclusion_hits, mapped_share, top1_hits
from fgvr.metrics.clustering import match_clusters
from fgvr.metrics.semantic import sacc_scores, siou_scores
from fgvr.names.merging import NameEncoder

METRICS = ("sacc", "cacc", "siou", "top1")
"""In the order in which tables show them; all range from 0 to 100."""


@dataclass(frozen=True)
class MethodScores:
    """How good a method's names are.

    Attributes:
        sacc: Sentence-BERT similarity to the true name (report the encoder with it).
        cacc: accuracy after the best one-to-one match of predicted to true names.
        siou: words shared with the true name.
        top1: accuracy, where the predicted name is a class's name after folding.
        images: images evaluated, failed and abstained ones included.
        unnamed: how many of these have no predicted name; each scores 0.
        names: distinct predicted names.
        mapped: share (0–1) of predictions that name any true class.
        inclusion: share of images whose predicted name contains the true one (0–100).
        intervals: metric → (low, high), 95% bootstrap interval; empty without resamples.
    """

    sacc: float
    cacc: float
    siou: float
    top1: float
    images: int
    unnamed: int
    names: int
    mapped: float
    inclusion: float = 0.0
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def score(
    predicted: Sequence[str],
    true: Sequence[str],
    encoder: NameEncoder,
    *,
    hyphen_to_space: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> MethodScores:
    """Score one predicted name per image ("" if there is none) against one true name per image.

    Raises:
        ValueError: the lists differ in length, or a true name is empty (do not pass such images).
    """
    if not all(true):
        raise ValueError("an image without a true name cannot be scored: leave it out first")
    pairs = Counter(zip(predicted, true, strict=True))
    # With this many images their order does not matter (no resampling): each pair of names is scored once, with a
    # weight.
    weighed = len(true) >= NORMAL_FROM
    guesses, truths = ([guess for guess, _ in pairs], [truth for _, truth in pairs]) if weighed else (predicted, true)
    weights = np.fromiter(pairs.values(), np.int64) if weighed else np.ones(len(true), dtype=np.int64)
    values = {
        "sacc": sacc_scores(guesses, truths, encoder),
        "cacc": 100 * match_clusters(guesses, truths, weights).hits.astype(np.float64),
        "siou": siou_scores(guesses, truths, hyphen_to_space=hyphen_to_space),
        "top1": 100 * top1_hits(guesses, truths).astype(np.float64),
    }
    intervals = {
        name: normal_interval(each, weights)
        if weighed and resamples
        else interval(each, resamples=resamples, seed=seed)
        for name, each in values.items()
    }

    def mean(each: npt.NDArray[np.float64]) -> float:
        return float(np.average(each, weights=weights) if weighed else np.mean(each)) if len(each) else 0.0

    return MethodScores(
        **{name: mean(each) for name, each in values.items()},
        images=len(true),
        unnamed=sum(count for (guess, _), count in pairs.items() if not guess),
        names=len(set(guesses) - {""}),
        mapped=mapped_share(guesses, set(truths), weights),
        inclusion=100 * mean(inclusion_hits(guesses, truths).astype(np.float64)),
        intervals={name: found for name, found in intervals.items() if found is not None},
    )
