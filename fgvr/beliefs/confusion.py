"""Which of a labeller's names are probably wrong: a posterior with the confusions of every name.

For image i with the labeller's own name t_i, its ranked further names, and a vector z_i of length 1:

    R_i(j) ∝ θ_{j,t_i}^(−i) · ρ(rank of j in i's list)^{1[j ≠ t_i]} · exp(10 · z_i · S_j^(−i) / (‖S_j^(−i)‖ + 1))

θ_{j,a} is the probability that the labeller says a where j is true: the mean of a Dirichlet posterior whose prior is a
labeller that is right with probability q, and otherwise says a as often as it says a at all (b_a):

    θ_{j,a}^(−i) = (5 (q 1[a = j] + (1 − q) b_a) + Σ_{l≠i} R_lj 1[t_l = a]) / (5 + n_j^(−i)),   n_j = Σ_l R_lj

ρ_r is how often the true name, where it is not the own one, stands at rank r of the list, or on none of its ranks; then
all remaining names share the probability. q, θ, ρ and S (`fgvr.beliefs.names_near`) are re-estimated from R in eight
rounds: the EM of Dawid & Skene (1979) with one labeller, and the image's neighbourhood as the second witness.

**An order, not a probability.** On real answers P(own name) was 1.000 on average where .66 of the names were right,
since EM believes a first name too much. As an order it finds wrong labels better than disagreement with neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr.arrays import NONE, Doubles, Floats, Ids, Labels
from fgvr.beliefs.names_near import joined, nearest_names, nearness

ROUNDS = 8
STRENGTH = 5.0  # images that the prior of a name's confusions is worth
PULL = 10.0  # nats between a name all of whose images are here and one whose images are far away
START = 0.7  # R of the own name before the first round
SURE = 0.99  # upper bound of q; 1 − this is the lower bound


@dataclass(frozen=True)
class Confusion:
    """The posterior of N images over their supports.

    Attributes:
        labels: the supports, int32 [N, M], the own name first; `NONE` in unused positions.
        shares: R, float64 [N, M]; rows sum to 1; 0 in unused positions.
        doubt: −log odds of the own name, nats, float64 [N]: the larger, the more suspicious. −inf where the image has
            no other name, or a person has confirmed the own one; inf where a person has given another.
        label_accuracy: q, the mean of R at the own name; too high on real answers.
    """

    labels: Labels
    shares: Doubles
    doubt: Doubles
    label_accuracy: float

    @property
    def other(self) -> Labels:
        """The most probable other name of each image, int32 [N]; `NONE` if there is none."""
        if self.labels.shape[1] == 1:
            return np.full(len(self.labels), NONE, np.int32)
        best = 1 + self.shares[:, 1:].argmax(axis=1)
        return np.asarray(self.labels[np.arange(len(self.labels)), best])


def confusion_posterior(
    own: Labels, vectors: Floats, names: int, *, listed: Labels | None = None, checked: Labels | None = None
) -> Confusion:
    """R of labelled images.

    The support of an image is its own name, its list, and the names with the nearest prototypes.

    Args:
        own: the labeller's name of each image, int32 [N]; every image has one.
        vectors: whitened, of length 1, float32 [N, d].
        names: size of the label space, V.
        listed: all names that the labeller gave each image, best first, int32 [N, L], of which the first is the own
            one; `NONE` in unused positions. None: it gave only that.
        checked: the name that a person gave, int32 [N]; `NONE` where nobody has looked. R is certain there.

    Raises:
        ValueError: arrays of different lengths, or an image without a name.
    """
    listed = own[:, None] if listed is None else listed
    checked = np.full(len(own), NONE, np.int32) if checked is None else checked
    if not len(own) == len(vectors) == len(listed) == len(checked):
        raise ValueError(f"{len(own)} names, {len(vectors)} vectors, {len(listed)} lists and {len(checked)} checks")
    if (own == NONE).any():
        raise ValueError(f"{(own == NONE).sum()} of {len(own)} images have no name that could be wrong")
    if not len(own):
        return Confusion(own[:, None], np.zeros((0, 1)), np.zeros(0), 0.0)
    labels = joined(own[:, None], listed, checked[:, None], nearest_names(vectors, own, names))
    used, ranks = labels != NONE, _ranks(labels, listed)
    # An image's pair (supported name, own name) is a cell of the confusion matrix; only the cells in use are counted.
    cells = np.where(used, labels.astype(np.int64) * names + own[:, None], -1)
    cells = np.unique(cells, return_inverse=True)[1].reshape(labels.shape)
    certain, truth = checked != NONE, (labels == checked[:, None]).astype(np.float64)
    shares, logits = np.where(certain[:, None], truth, _started(used)), np.zeros(labels.shape)
    for _ in range(ROUNDS):
        logits = np.log(_said(labels, own, shares, cells, names)) + np.log(_ranked(ranks, shares, names))
        logits += PULL * nearness(vectors, labels, shares, names)
        logits = np.where(used, logits, -np.inf)
        shares = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        shares = np.where(certain[:, None], truth, shares)
    doubt = np.logaddexp.reduce(logits[:, 1:], axis=1, initial=-np.inf) - logits[:, 0]
    doubt = np.where(certain, np.where(checked == own, -np.inf, np.inf), doubt)
    return Confusion(labels, shares, doubt, float(shares[:, 0].mean()))


def _started(used: npt.NDArray[np.bool_]) -> Doubles:
    """`START` on the own name, the rest evenly on the others."""
    others = used[:, 1:].sum(axis=1, keepdims=True)
    shares = np.where(used, (1.0 - START) / np.maximum(others, 1), 0.0)
    shares[:, 0] = np.where(others[:, 0] > 0, START, 1.0)
    return np.asarray(shares, dtype=np.float64)


def _ranks(labels: Labels, listed: Labels) -> Ids:
    """Position of each supported name in the image's list, int64 [N, M]; L for names that are not on it."""
    ranks = np.full(labels.shape, listed.shape[1], np.int64)
    for place in reversed(range(listed.shape[1])):
        ranks[(labels == listed[:, place, None]) & (labels != NONE)] = place
    return ranks


def _said(labels: Labels, own: Labels, shares: Doubles, cells: Ids, names: int) -> Doubles:
    """θ_{j,t_i}^(−i), float64 [N, M]."""
    images = np.bincount(np.where(labels == NONE, names, labels).ravel(), shares.ravel(), minlength=names + 1)
    together = np.bincount(cells.ravel(), shares.ravel())
    q = float(np.clip(shares[:, 0].mean(), 1.0 - SURE, SURE))
    often = np.bincount(own, minlength=names) / len(own)
    prior = (1.0 - q) * often[own, None] + q * (labels == own[:, None])
    said = STRENGTH * prior + np.maximum(together[cells] - shares, 0.0)
    return np.asarray(said / (STRENGTH + np.maximum(images[labels] - shares, 0.0)))


def _ranked(ranks: Ids, shares: Doubles, names: int) -> Doubles:
    """ρ of each supported name, float64 [N, M]; 1 for the own one, which θ has weighed already."""
    width = int(ranks.max(initial=0)) + 1
    rho = np.ones(width)
    # One image at every rank beforehand, so that no rank is ruled out.
    seen = np.bincount(ranks[:, 1:].ravel(), shares[:, 1:].ravel(), minlength=width)[1:] + 1.0
    rho[1:] = seen / seen.sum()
    rho[-1] /= max(1, names - (width - 1))
    rho[0] = 1.0
    return np.asarray(rho[ranks])
