"""How good names are in a tree of kinds: accuracy by level, hierarchical precision and recall, severity of mistakes.

All of them need true names that the tree has. An image whose true name is unknown to it is left out, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fgvr.arrays import NONE, Doubles, Ids
from fgvr.hierarchy.kinds import Source
from fgvr.hierarchy.tree import Tree
from fgvr.metrics.bootstrap import interval

Interval = tuple[float, float]
_UNUSUAL = re.compile(r"[^\w.-]+", re.ASCII)


@dataclass(frozen=True)
class LevelScore:
    """Accuracy at a level.

    Attributes:
        level: its name.
        accuracy: share of the images with a true kind at this level for which the predicted name has the same one,
            0 … 100. A name that is coarser than the level, or none, is wrong.
        images: number of images with a true kind at this level.
        answered: share of these images whose predicted name is at this level or finer, 0 … 100.
        interval: 95% of the accuracy; None without resamples.
    """

    level: str
    accuracy: float
    images: int
    answered: float
    interval: Interval | None = None


@dataclass(frozen=True)
class HierarchyScores:
    """The names of one method in a tree.

    Attributes:
        levels: coarsest first; those at which the true names differ.
        precision: hierarchical precision, 0 … 100: Σ|P ∩ T| / Σ|P| over images, where T are the true name and all
            above it, P the predicted one and all above it, both without the root (Kiritchenko et al., "Learning and
            Evaluation in the Presence of Class Hierarchies", 2006; Silla and Freitas 2011). An image without a name
            has an empty P.
        recall: hierarchical recall, Σ|P ∩ T| / Σ|T|, 0 … 100.
        f1: their harmonic mean.
        mistake_height: mean height of the lowest common ancestor of both names over images with another name than the
            true one (Bertinetto et al., "Making Better Mistakes", CVPR 2020); None without a mistake. A name above the
            true one counts as a mistake of its own height; an image without a name does not count.
        not_wrong: share of the images with a name whose name is the true one or stands above it, 0 … 100; None where
            no image has a name.
        images: images whose true name the tree has.
        left_out: images with a true name that it does not have.
        unknown: share of the names given that it does not have, 0 … 1: these are wrong at every level.
        intervals: metric → 95% interval over images.
    """

    levels: tuple[LevelScore, ...]
    precision: float
    recall: float
    f1: float
    mistake_height: float | None
    not_wrong: float | None
    images: int
    left_out: int
    unknown: float
    intervals: dict[str, Interval] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """The metrics by names that MLflow accepts; a level counts as `accuracy.` and its name."""
        single = ("precision", "recall", "f1", "mistake_height", "not_wrong", "unknown")
        found = {name: getattr(self, name) for name in single}
        levels = {f"accuracy.{_UNUSUAL.sub('-', each.level)}": each.accuracy for each in self.levels}
        return {name: value for name, value in (found | levels).items() if value is not None}


def hierarchy_scores(
    said: Sequence[str], true: Sequence[str | None], source: Source, *, resamples: int = 1000, seed: int = 0
) -> HierarchyScores | None:
    """The scores of predicted names; None where the tree has no true name.

    Args:
        said: one name per image; "" where the method failed or abstained.
        true: one true name per image; None or "" if unknown: such images do not count.
        source: what stands above names.
        resamples: bootstrap resamples; 0: no intervals.
        seed: their seed.
    """
    pairs = [(name, truth) for name, truth in zip(said, true, strict=True) if truth]
    tree = source.tree(sorted({name for pair in pairs for name in pair if name}))
    strangers = set(tree.nodes(tree.unknown).tolist())
    spoken, truths = tree.nodes([name for name, _ in pairs]), tree.nodes([truth for _, truth in pairs])
    known = (truths != NONE) & ~np.isin(truths, list(strangers))
    if not known.any():
        return None
    spoken, truths = spoken[known], truths[known]
    named = spoken != NONE
    shared, mine = _overlap(tree, spoken, truths)
    depth = tree.depth[truths].astype(np.float64)
    common = tree.lowest_common(np.maximum(spoken, 0), truths)
    wrong = named & (spoken != truths)
    heights = tree.height[common].astype(np.float64)
    covered = 100.0 * (common == spoken)[named]
    precision, recall = _percent(shared, mine), _percent(shared, depth)
    found = {
        "precision": _ratio_interval(shared, mine, resamples, seed),
        "recall": _ratio_interval(shared, depth, resamples, seed),
        "f1": _ratio_interval(2 * shared, mine + depth, resamples, seed),
        "mistake_height": interval(heights[wrong], resamples=resamples, seed=seed),
        "not_wrong": interval(covered, resamples=resamples, seed=seed),
    }
    return HierarchyScores(
        levels=_levels(tree, spoken, truths, resamples, seed),
        precision=precision,
        recall=recall,
        f1=_percent(2 * shared, mine + depth),
        mistake_height=float(heights[wrong].mean()) if wrong.any() else None,
        not_wrong=float(covered.mean()) if named.any() else None,
        images=int(known.sum()),
        left_out=int((~known).sum()),
        unknown=float(np.isin(spoken[named], list(strangers)).mean()) if named.any() else 0.0,
        intervals={metric: bounds for metric, bounds in found.items() if bounds is not None},
    )


def _overlap(tree: Tree, spoken: Ids, truths: Ids) -> tuple[Doubles, Doubles]:
    """|P ∩ T| and |P| per image, float64 [n] each."""
    named = spoken != NONE
    safe = np.maximum(spoken, 0)
    shared = np.where(named, tree.depth[tree.lowest_common(safe, truths)], 0)
    return shared.astype(np.float64), np.where(named, tree.depth[safe], 0).astype(np.float64)


def _levels(tree: Tree, spoken: Ids, truths: Ids, resamples: int, seed: int) -> tuple[LevelScore, ...]:
    found = []
    for level, name in enumerate(tree.levels):
        wanted = tree.at_level[truths, level]
        there = wanted != NONE
        if len(np.unique(wanted[there])) < 2:
            continue  # all true names are of one kind: whoever names anything is right
        given = np.where(spoken == NONE, NONE, tree.at_level[np.maximum(spoken, 0), level])[there]
        hits = 100.0 * (given == wanted[there])
        bounds = interval(hits, resamples=resamples, seed=seed)
        answered = float(100.0 * (given != NONE).mean())
        found.append(LevelScore(name, float(hits.mean()), int(there.sum()), answered, bounds))
    return tuple(found)


def _percent(part: Doubles, whole: Doubles) -> float:
    return float(100.0 * part.sum() / whole.sum()) if whole.any() else 0.0


def _ratio_interval(part: Doubles, whole: Doubles, resamples: int, seed: int) -> Interval | None:
    """Bootstrap percentile interval, 95%, of a ratio of sums over images, in percent."""
    if resamples == 0 or len(part) < 2 or not whole.any():
        return None
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for number in range(resamples):
        rows = rng.integers(len(part), size=len(part))
        ratios[number] = _percent(part[rows], whole[rows])
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)
