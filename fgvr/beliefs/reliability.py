"""How reliable each of several sources of labels is, and what they say together: Dawid and Skene's EM.

A. P. Dawid and A. M. Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm" (Applied
Statistics 28, 1979). Source s says a of an image of class j with probability θ^s_{j,a}; sources err independently. With
the labels t^s_i and the class shares π,

    R_i(j) ∝ π_j Π_s θ^s_{j,t^s_i}             (2.5)
    θ^s_{j,a} = Σ_i R_ij 1[t^s_i = a] / Σ_i R_ij 1[s labelled i]      (2.3)
    π_j = Σ_i R_ij / N                          (2.4)

starting from the shares of the votes. With thousands of names and a few answers each, counts alone would rule out every
confusion that was not seen yet. So θ^s_j is the mean of a Dirichlet posterior, `strength` images of prior for a source
that is right with probability q_s and otherwise names a as often as it names it at all, and image i is left out of what
it is judged by, as a name that only one image has would confirm itself. With `strength` 0 it is the paper's estimate.

R covers, for each image, the names that some source gave it or, of few images and names, all names. Sources that copy
each other's mistakes (two prompts of one model) are not independent: EM then believes their agreement too much. With
two sources their agreement alone decides; only the prior, or photos that a person has checked, tell which is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr.arrays import NONE, Doubles, Ids, Labels
from fgvr.beliefs.names_near import joined

Flags = npt.NDArray[np.bool_]

RULES = 1
"""Increase it when the same labels would give other reliabilities."""
STRENGTH = 5.0
ROUNDS = 50
SETTLED = 1e-6  # converged if no probability changes by more than this
SURE = 0.99
ALL_NAMES = 64  # names up to which each image may have any of them,
MOST_CELLS = 2_000_000  # with no more images × names than these: some 20 seconds and 400 MB


@dataclass(frozen=True)
class Reliabilities:
    """What several sources say together.

    Attributes:
        labels: the supports, int32 [N, M]; `NONE` in unused positions.
        shares: R, float64 [N, M]; rows sum to 1, or to 0 where an image has no label.
        right: for each source the share of its labels that are right by R, float64 [S]; NaN where it labelled nothing,
            or there is nothing to compare it with: a single source.
        agreement: share of the images labelled by both on which two sources agree, float64 [S, S]; NaN where none is.
        rounds: EM rounds until it settled.
    """

    labels: Labels
    shares: Doubles
    right: Doubles
    agreement: Doubles
    rounds: int

    @property
    def best(self) -> Labels:
        """The most probable name of each image, int32 [N]; the first source's where two are equal; `NONE`: no label."""
        found = self.labels[np.arange(len(self.labels)), self.shares.argmax(axis=1)]
        return np.where(self.shares.any(axis=1), found, NONE).astype(np.int32)


def reliabilities(
    labels: Labels, names: int, *, strength: float = STRENGTH, checked: Labels | None = None
) -> Reliabilities:
    """Estimate how reliable each source is, and the class of each image.

    With one source its labels are all that is known: R is certain of them, and `right` is NaN.

    Args:
        labels: int32 [N, S], a column per source; `NONE` where a source has not labelled an image.
        names: size of the label space, V.
        strength: images that the prior of each name's confusions is worth; 0: the paper's estimate.
        checked: the name that a person gave, int32 [N]; `NONE` where nobody has looked. R is certain there.

    Raises:
        ValueError: no source, a label outside the label space, or as many checks as there are not images.
    """
    count, sources = labels.shape
    checked = np.full(count, NONE, np.int32) if checked is None else checked
    if not sources:
        raise ValueError("no source has labelled anything")
    if len(checked) != count:
        raise ValueError(f"{count} labelled images and {len(checked)} checks")
    if count and (labels.max() >= names or labels.min() < NONE):
        raise ValueError(f"labels from {labels.min()} to {labels.max()} in a label space of {names} names")
    support = joined(labels, checked[:, None])
    if names <= ALL_NAMES and count * names <= MOST_CELLS:
        support = joined(support, np.broadcast_to(np.arange(names, dtype=np.int32), (count, names)))
    certain, truth = checked != NONE, ((support == checked[:, None]) & (support != NONE)).astype(np.float64)
    shares, rounds = np.where(certain[:, None], truth, _votes(labels, support)), 0
    witnesses = [_Witness.of(labels[:, source], support, names) for source in range(sources)]
    if sources > 1:
        shares, rounds = _settled(witnesses, support, shares, certain=certain, names=names, strength=strength)
        right = np.array([witness.right(shares) for witness in witnesses])
    else:  # nothing to compare it with but what a person has said
        right = np.array([witnesses[0].right(shares[certain], certain)])
    return Reliabilities(support, shares, right, _agreement(labels), rounds)


@dataclass(frozen=True)
class _Witness:
    """A source's labels, prepared for EM.

    Attributes:
        said: bool [N], has labelled the image.
        mine: bool [N, M], the supported name is its label.
        often: float64 [N], how often it says what it said of this image; 0 where it said nothing.
        places: int64 [N, M], the supported name; V in unused positions.
        cells: int64 [N, M], number of the cell of its confusion matrix, (supported name, label).
    """

    said: Flags
    mine: Flags
    often: Doubles
    places: Ids
    cells: Ids

    @classmethod
    def of(cls, label: Labels, support: Labels, names: int) -> _Witness:
        said = label != NONE
        places = np.where(support == NONE, names, support).astype(np.int64)
        cells = np.unique(places * (names + 1) + label[:, None] + 1, return_inverse=True)[1].reshape(support.shape)
        often = np.bincount(label[said], minlength=max(1, names)) / max(1, int(said.sum()))
        mine = (support == label[:, None]) & said[:, None]
        return cls(said, mine, np.where(said, often[label], 0.0), places, cells)

    def right(self, shares: Doubles, rows: Flags | None = None) -> float:
        """Share of its labels (of `rows`) that are right by R; NaN where there are none."""
        said, mine = (self.said, self.mine) if rows is None else (self.said[rows], self.mine[rows])
        return float(shares[mine].sum() / said.sum()) if said.any() else float("nan")

    def theta(self, shares: Doubles, strength: float) -> Doubles:
        """θ_{j,t_i}, float64 [N, M]; 1 where it has not labelled the image."""
        counted = np.where(self.said[:, None], shares, 0.0)
        together = np.bincount(self.cells.ravel(), counted.ravel())
        images = np.bincount(self.places.ravel(), counted.ravel())
        q = float(np.clip(counted[self.mine].sum() / max(1, int(self.said.sum())), 1.0 - SURE, SURE))
        prior = q * self.mine + (1.0 - q) * self.often[:, None]
        mine = counted if strength else 0.0  # an image does not vouch for itself; in the paper it does
        found = strength * prior + np.maximum(together[self.cells] - mine, 0.0)
        found /= np.maximum(strength + images[self.places] - mine, 1e-300)
        return np.where(self.said[:, None], found, 1.0)


def _settled(
    witnesses: Sequence[_Witness], support: Labels, shares: Doubles, *, certain: Flags, names: int, strength: float
) -> tuple[Doubles, int]:
    """R after EM, and the number of rounds."""
    used = (support != NONE) & np.any([witness.said for witness in witnesses], axis=0)[:, None]
    fixed, places, rounds = shares, witnesses[0].places, 0
    while rounds < ROUNDS:
        rounds += 1
        prior = np.bincount(places.ravel(), shares.ravel(), minlength=names + 1)
        with np.errstate(divide="ignore"):  # log 0: a confusion that was never seen, at strength 0
            others = np.maximum(prior[places] - shares, 0.0) + 1.0 if strength else prior[places]
            logits = np.log(others) + sum(np.log(witness.theta(shares, strength)) for witness in witnesses)
        logits = np.where(used, logits, -np.inf)
        most = logits.max(axis=1, keepdims=True)
        likely = np.exp(logits - np.where(np.isfinite(most), most, 0.0))
        new = likely / np.maximum(likely.sum(axis=1, keepdims=True), 1e-300)
        new = np.where(certain[:, None], fixed, new)
        change, shares = np.abs(new - shares).max(initial=0.0), new
        if change < SETTLED:
            break
    return shares, rounds


def _votes(labels: Labels, support: Labels) -> Doubles:
    """Share of the votes for each supported name, float64 [N, M]; 0 for an image without any."""
    votes = np.zeros(support.shape)
    for source in range(labels.shape[1]):
        votes += (support == labels[:, source, None]) & (support != NONE)
    return np.asarray(votes / np.maximum(votes.sum(axis=1, keepdims=True), 1.0))


def _agreement(labels: Labels) -> Doubles:
    sources = labels.shape[1]
    found = np.full((sources, sources), np.nan)
    for one in range(sources):
        both = (labels[:, one, None] != NONE) & (labels != NONE)
        same = (labels[:, one, None] == labels) & both
        counts = both.sum(axis=0)
        found[one, counts > 0] = same.sum(axis=0)[counts > 0] / counts[counts > 0]
    return found
