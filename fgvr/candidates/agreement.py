"""Estimates how noisy the labels and the neighbourhoods are, without any true label.

Method `adaptive` weighs votes by these estimates. They do not tell whether candidate sets help: real neighbours repeat
a labeller's mistakes, and "neighbourhoods purer than labels" had the right sign in 0 to 8% of the cells in which it
mattered. That is asked of held-out labels (`fgvr.beliefs.guard`).

An image's own label and those of its nearest neighbours are votes of unknown reliability: vote r names the true class t
with probability a_r, else another name, and two wrong votes on one image name the same class with probability c. Given
t, votes are independent. Then

    P(t = j | votes) ∝ exp Σ_{r: vote r says j} λ_r,    λ_r = log( a_r / ((1 − a_r) c) ),

a name without a vote having exp 0, of which there are about 1 + 1/c − (names with a vote). From the posterior, a is
re-estimated as the mean share of right votes at each rank, and c as the share of wrong pairs that agree; this is
repeated until they converge: the EM of Dawid & Skene (1979) with a neighbour's rank in place of the annotator. Since a
nearer image is at least as often of the same class as a farther one, a must not increase with the rank; otherwise EM
may end in a mirror image of the truth. a_0 is the label accuracy q; a neighbour's vote is right if it has the same
class and its label is right, so the neighbour precision is p_r = a_r / q.

Limits (simulated with errors within a genus, 3 to 30 images per class): q and p are within 0.05 of the truth if at
least nine of ten neighbours have the same class. If neighbourhoods mix classes, the estimate takes the mixture for the
truth: at p = 0.76, p came out up to 0.15 too high and q up to 0.06 too low, and worse below. If there are few images
per name, or names mostly occur on a single image, a model that gives the same name to everything that looks alike
cannot be distinguished from one that is right: then the numbers still steer `adaptive`, but are not shown
(`Agreement.unfounded`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr.arrays import NONE, Doubles

NEIGHBOURS = 10  # that vote, the image itself apart
MIN_IMAGES = 20  # on which some name has two votes; below, nothing is estimated
MOST_IMAGES = 20_000  # the estimate is made of; more would change its second decimal by nothing
ROUNDS = 100
SETTLED = 1e-4  # converged if no reliability changes by more than this
IMAGES_A_NAME = 10  # minimum average for the estimate to be shown
CLOSE = 0.02  # a difference of two shares that is no reason to call a verdict right or wrong
WRONG = 0.2  # if either share is off by more, the estimate was wrong
CERTAIN = 0.98  # upper bound for the reliability of a vote; 1 − this is the lower bound


@dataclass(frozen=True)
class Agreement:
    """Estimates from label agreement; None, and no reliabilities, if too few images have votes that agree.

    Attributes:
        agreement: share of the nearest neighbours with the image's label (observed, not estimated).
        label_accuracy: q, the share of right labels.
        neighbour_precision: share of the k − 1 nearest neighbours that have the same true class.
        reliability: a_r, the share of right votes: for the image's own label, then for its neighbours', nearest first.
        collision: c, the probability that two wrong votes on an image agree.
        images: number of images in the estimate; this and the next two are None if an earlier version made it.
        names: number of distinct labels of these images.
        once: how many of these occur on a single image.
    """

    agreement: float | None = None
    label_accuracy: float | None = None
    neighbour_precision: float | None = None
    reliability: tuple[float, ...] = ()
    collision: float | None = None
    images: int | None = None
    names: int | None = None
    once: int | None = None

    @property
    def unfounded(self) -> str:
        """Why the estimate should not be trusted, as a phrase without a verb; "" if nothing speaks against it."""
        if not self.images or not self.names or self.once is None:
            return ""
        if self.images < IMAGES_A_NAME * self.names:
            return f"{self.images / self.names:.1f} images per name on average, at least {IMAGES_A_NAME} are needed"
        if self.names == 1:
            return "all images have one name, right or wrong"
        return self.singular

    @property
    def singular(self) -> str:
        """That most names have a single image, in words; "" otherwise.

        Then held-out labels say nothing either: no image teaches the name of such a label while it is held out.
        """
        if self.names and self.once is not None and 2 * self.once > self.names:
            return f"{self.once:,} of {self.names:,} names have a single image"
        return ""

    @property
    def purer(self) -> bool | None:
        """Whether neighbourhoods are estimated to be purer than labels are accurate, as `adaptive` asks."""
        if self.label_accuracy is None or self.neighbour_precision is None:
            return None
        return self.neighbour_precision > self.label_accuracy

    def in_words(self) -> str:
        """The two estimates as a sentence, or why there are none."""
        if self.label_accuracy is None or self.neighbour_precision is None:
            return "too few labels agree to tell how noisy labels and neighbourhoods are"
        if self.unfounded:
            return f"no estimate of how noisy labels and neighbourhoods are: {self.unfounded}"
        return f"estimated: labels {self.label_accuracy:.2f} right, neighbourhoods {self.neighbour_precision:.2f} pure"

    @property
    def evidence(self) -> Doubles:
        """λ_r of each vote, nats, float64 [V]; 0 for votes that are wrong so often that they would speak against."""
        return _evidence(np.array(self.reliability), self.collision or 0.0)


def truth_in_words(estimated: Agreement, label_accuracy: float, neighbour_precision: float) -> str:
    """The true shares, if known, and whether an estimate was far off."""
    if not (math.isfinite(label_accuracy) and math.isfinite(neighbour_precision)):
        return "true: no image has a known class"
    words = f"true: labels {label_accuracy:.2f} right, neighbourhoods {neighbour_precision:.2f} pure"
    if estimated.label_accuracy is None or estimated.neighbour_precision is None or estimated.unfounded:
        return words
    off = max(abs(estimated.label_accuracy - label_accuracy), abs(estimated.neighbour_precision - neighbour_precision))
    return f"{words}: the estimate was wrong" if off > WRONG + 1e-9 else words


def verdict_in_words(helps: bool | None, label_accuracy: float | None, settled_accuracy: float | None) -> str:
    """Whether a verdict on candidate sets was right, where the truth is known; "" where it is not, or by too little.

    Args:
        helps: the verdict: whether they were expected to help; None: unknown.
        label_accuracy: share of own labels that are right.
        settled_accuracy: the same of the names that were learned from the sets, of the same images.
    """
    if helps is None or label_accuracy is None or settled_accuracy is None:
        return ""
    gain = settled_accuracy - label_accuracy
    if abs(gain) < CLOSE:
        return f"sets changed next to nothing: {settled_accuracy:.2f} of the names right after training on them"
    verdict = "the verdict was right" if helps == (gain > 0) else "the verdict was wrong"
    return f"{settled_accuracy:.2f} of the names right after training on sets: {verdict}"


def estimate(labels: npt.NDArray[np.int32], k: int) -> Agreement:
    """Estimate label accuracy and neighbour precision.

    Args:
        labels: int32 [N, 1 + n]: an image's own label, then those of its n nearest neighbours; −1 if missing.
        k: size of the candidate sets, including the image: the precision is that of the k − 1 nearest neighbours.
    """
    labels = labels[labels[:, 0] != NONE]
    near = labels[:, 1 : max(k, 2)]
    observed = (near == labels[:, :1])[near != NONE]
    if not observed.size:
        return Agreement()
    agreement = float(observed.mean())
    images_of_names = np.unique(labels[:, 0], return_counts=True)[1]
    labels = labels[np.linspace(0, len(labels) - 1, min(len(labels), MOST_IMAGES)).astype(int)]
    same = _same(labels)
    if (same.sum(axis=2) > 1).any(axis=1).sum() < MIN_IMAGES:
        return Agreement(agreement)
    reliability, collision = _fit(labels != NONE, same)
    q = float(reliability[0])
    precision = float(np.clip(reliability[1 : max(k, 2)] / q, 0.0, 1.0).mean()) if q > 0 else 0.0
    return Agreement(
        agreement,
        q,
        precision,
        tuple(reliability.tolist()),
        collision,
        images=int(images_of_names.sum()),
        names=len(images_of_names),
        once=int((images_of_names == 1).sum()),
    )


def _same(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """[i, r, s]: votes r and s on image i both exist and agree, bool [N, V, V]."""
    known = labels != NONE
    return np.asarray((labels[:, :, None] == labels[:, None, :]) & known[:, :, None] & known[:, None, :])


def _fit(known: npt.NDArray[np.bool_], same: npt.NDArray[np.bool_]) -> tuple[Doubles, float]:
    """a, float64 [V], and c by EM; `known` bool [N, V]: the vote is there."""
    from sklearn.isotonic import isotonic_regression

    places = same.shape[1]
    others = same & ~np.eye(places, dtype=bool)
    pairs = known[:, :, None] & known[:, None, :] & ~np.eye(places, dtype=bool)
    voters = known.sum(axis=0)
    reliability, collision = np.linspace(0.7, 0.4, places), 0.3
    for _ in range(ROUNDS):
        right = _posterior(known, same, _evidence(reliability, collision), collision)
        before = reliability
        mean = np.where(known, right, 0.0).sum(axis=0) / np.maximum(voters, 1)
        reliability = isotonic_regression(mean, sample_weight=np.maximum(voters, 1e-9), increasing=False)
        # Votes that agree are right or wrong together; of two that disagree, at most one is right.
        agreeing = np.where(others, 1.0 - right[:, :, None], 0.0).sum()
        differing = np.where(pairs & ~others, np.clip(1.0 - right[:, :, None] - right[:, None, :], 0.0, 1.0), 0.0).sum()
        collision = float(np.clip(agreeing / max(agreeing + differing, 1e-9), 0.01, 0.9))
        if np.abs(reliability - before).max() < SETTLED:
            break
    return np.asarray(reliability, dtype=np.float64), collision


def _evidence(reliability: Doubles, collision: float) -> Doubles:
    a = np.clip(reliability, 1.0 - CERTAIN, CERTAIN)
    return np.asarray(np.maximum(np.log(a / ((1.0 - a) * collision)), 0.0))


def _posterior(
    known: npt.NDArray[np.bool_], same: npt.NDArray[np.bool_], evidence: Doubles, collision: float
) -> Doubles:
    """Probability that each vote is right, float64 [N, V]; 0 where there is no vote."""
    total = np.where(known, same @ evidence, -np.inf)
    first = known & ~np.tril(same, k=-1).any(axis=2)
    most = np.maximum(total.max(axis=1, keepdims=True), 0.0)
    likely = np.exp(total - most)
    unnamed = np.maximum(1.0 + 1.0 / collision - first.sum(axis=1, keepdims=True), 0.0) * np.exp(-most)
    return np.asarray(likely / (np.where(first, likely, 0.0).sum(axis=1, keepdims=True) + unnamed))
