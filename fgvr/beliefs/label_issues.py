"""Labels in the order in which they are most probably wrong, and the names that they might be instead.

Two orders, each from what the other does not see: the margin of label propagation, by which an image's neighbourhood
prefers another name to the own one, and the doubt of the confusion posterior, which knows the labeller's lists and what
it takes for what. The score is the mean of an image's two ranks.

The neighbourhood judges out of fold: the labels are divided into five parts, and each part is judged by what spreads
from the other four along the graph of nearest neighbours. Labels that a person has checked are never left out and never
judged.

**An order, not a probability.** Real answers (GPT-4V, CLIP vectors, 10 photos per class) gave an area under the ROC
curve of .81 to .90 (docs/label-issues.md). How many of the first hundred are wrong depends on the data: look at them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fgvr.arrays import NONE, Doubles, Floats, Ids, Labels
from fgvr.beliefs.confusion import confusion_posterior
from fgvr.beliefs.names_near import joined
from fgvr.heads.propagation import NEIGHBOURS, graph, propagate

RULES = 2
"""Increase it when the same labels and vectors would give another order or other names."""
FOLDS = 5
SUGGESTED = 3  # names per image


@dataclass(frozen=True)
class LabelIssues:
    """N images in the order in which they were given.

    Attributes:
        score: mean rank of margin and doubt, divided by the number of judged images: (0, 1], 1 is the most suspicious;
            NaN where there is no label, or a person has checked it. float64 [N].
        suggested: other names, best first, int32 [N, ≤ 3]: the neighbourhood's, the posterior's, the list's second;
            `NONE` in unused positions.
        own_share: the own name's share of what reaches the image from its neighbours, float64 [N].
        other: the name with the largest share of the others, int32 [N]; `NONE` if none reaches it.
        other_share: its share, float64 [N].
    """

    score: Doubles
    suggested: Labels
    own_share: Doubles
    other: Labels
    other_share: Doubles

    def worst(self, most: int) -> Ids:
        """Rows of the most suspicious labels, worst first, int64 [≤ most]; equal scores in the order of the rows."""
        judged = np.flatnonzero(np.isfinite(self.score))
        order = np.argsort(-self.score[judged], kind="stable")
        return np.asarray(judged[order[:most]], dtype=np.int64)


def label_issues(
    own: Labels,
    vectors: Floats,
    names: int,
    indices: Ids,
    similarities: Floats,
    *,
    listed: Labels | None = None,
    checked: Labels | None = None,
    seed: int = 0,
) -> LabelIssues:
    """How suspicious each label is.

    Args:
        own: the labeller's name of each image, int32 [N]; `NONE` where there is none: such an image is not judged, but
            labels spread by way of it.
        vectors: whitened, of length 1, float32 [N, d].
        names: size of the label space, V.
        indices: nearest other images, row numbers int64 [N, k]; −1 if missing.
        similarities: their cosines, float32 [N, k].
        listed: all names that the labeller gave, best first, int32 [N, L]; `NONE` in unused positions.
        checked: the name that a person gave, int32 [N]; `NONE` where nobody has looked.
        seed: of the division into folds.

    Raises:
        ValueError: arrays of different lengths.
    """
    checked = np.full(len(own), NONE, np.int32) if checked is None else checked
    listed = own[:, None] if listed is None else listed
    if not len(own) == len(vectors) == len(indices) == len(listed) == len(checked):
        lengths = [len(part) for part in (own, vectors, indices, listed, checked)]
        raise ValueError(f"labels, vectors, neighbours, lists and checks of {lengths} images: one row for each")
    own_share, other, other_share = out_of_fold(own, names, indices, similarities, checked=checked, seed=seed)
    rows = np.flatnonzero(own != NONE)
    belief = confusion_posterior(own[rows], vectors[rows], names, listed=listed[rows], checked=checked[rows])
    doubt, believed = np.full(len(own), np.nan), np.full(len(own), NONE, np.int32)
    doubt[rows], believed[rows] = belief.doubt, belief.other
    judged = np.flatnonzero((own != NONE) & (checked == NONE))
    score = np.full(len(own), np.nan)
    ranks = _ranks((other_share - own_share)[judged]) + _ranks(doubt[judged])
    score[judged] = ranks / (2 * max(1, len(judged)))
    suggested = joined(own[:, None], other[:, None], believed[:, None], listed)[:, 1 : 1 + SUGGESTED]
    return LabelIssues(score, suggested, own_share, other, other_share)


def out_of_fold(
    own: Labels, names: int, indices: Ids, similarities: Floats, *, checked: Labels, seed: int = 0
) -> tuple[Doubles, Labels, Doubles]:
    """Shares of the own and of the best other name in what reaches each image from the labels of the other folds.

    Arguments as in `label_issues`. An image that nothing reaches has no other name, and shares of 0.

    Returns:
        The own name's share float64 [N], the best other name int32 [N], and its share float64 [N].
    """
    links = graph(indices[:, :NEIGHBOURS], similarities[:, :NEIGHBOURS])
    known = np.where(checked == NONE, own, checked).astype(np.int64)
    # Checked labels are in no fold, so that they are never left out; nor is what has no label.
    folds = np.full(len(own), FOLDS)
    judged = np.flatnonzero((own != NONE) & (checked == NONE))
    folds[judged] = np.random.default_rng(seed).permutation(len(judged)) % FOLDS
    own_share, other_share = np.zeros(len(own)), np.zeros(len(own))
    other = np.full(len(own), NONE, np.int32)
    for fold in range(FOLDS):
        rows = np.flatnonzero(folds == fold)
        spread = propagate(links, np.where(folds == fold, NONE, known), names)
        ids, mass = spread.label_ids[rows], spread.mass[rows].astype(np.float64)
        shares = mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-300)
        mine = ids == own[rows, None]
        own_share[rows] = np.where(mine, shares, 0.0).sum(axis=1)
        rest = np.where(mine | (ids == NONE), 0.0, shares)
        if rest.shape[1]:
            best = rest.argmax(axis=1)
            other_share[rows] = rest[np.arange(len(rows)), best]
            other[rows] = np.where(other_share[rows] > 0, ids[np.arange(len(rows)), best], NONE)
    return own_share, other, other_share


def _ranks(values: Doubles) -> Doubles:
    """Ranks from 1, equal values with their mean rank."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)
