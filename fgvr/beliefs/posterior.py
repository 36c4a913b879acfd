"""The posterior of every image's name where there is a text tower: what was said, what it looks like, what is near.

For image i with the labeller's own name t_i, CLIP vector x_i, whitened vector z_i, and the vectors τ_j of the names,
with x̄ the mean over all images and T the model's own logit scale (100 for OpenAI's models):

    R_i(j) ∝ π_j^(−i) · exp(T (x_i − x̄)·τ_j) · (q 1[j = t_i] + (1 − q) b_{t_i})
                      · exp(10 z_i·S_j^(−i) / (‖S_j^(−i)‖ + 1))

- **class prior** π: how many images show each name;
- **zero-shot**, with each name's mean similarity removed (that is what x − x̄ does): names that are similar to
  everything are not favoured;
- **own answer**: right with probability q, else a name with its share b of the wrong answers;
- **neighbours**: S_j = Σ_l R_lj z_l (`fgvr.beliefs.names_near`).

π, q, b and S follow from R and R from them, in twelve rounds of EM, each leaving image i out of what it is judged by.
Names that a person has checked are certain throughout, and teach the others: also how often the labeller is right.

Without a text tower this is worth nothing: neighbours repeat the labeller's mistakes, and EM confirms them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fgvr.arrays import NONE, Doubles, Floats, Labels
from fgvr.beliefs.names_near import joined, name_sums, nearest_names, nearest_rows, nearness
from fgvr.candidates.sets import CandidateSets, packed

RULES = 2
"""Increase it when the same answers and vectors would give another posterior."""
ROUNDS = 12
PULL = 10.0  # nats between a name all of whose images are here and one whose images are far away
START = 0.7  # of the own name before the first round; the rest as zero-shot has it
SURE = 0.99  # upper bound of q; 1 − this is the lower bound
NEAREST = 20  # names by text, and as many by prototypes, that an image may have besides its own
NEW_PULL = 20.0  # the same for a further image, which no sum holds
SHRINK = 0.3  # images that a name's direction is pulled to nothing by
MASS = 0.95  # of the probability that a candidate set holds


@dataclass(frozen=True)
class Posterior:
    """R of N images over their supports.

    Attributes:
        labels: the supports, int32 [N, M], the own name first; `NONE` in unused positions.
        shares: R, float64 [N, M]; rows sum to 1; 0 in unused positions.
        label_accuracy: q, how many of the labeller's own names are right by R; None if it gave none.
        prior: π, float64 [V]; sums to 1.
    """

    labels: Labels
    shares: Doubles
    label_accuracy: float | None
    prior: Doubles

    def sets(self) -> CandidateSets:
        """The fewest names that hold `MASS` of each image's probability, most probable first, weighted by it."""
        order = np.argsort(-self.shares, axis=1, kind="stable")
        labels = np.take_along_axis(self.labels, order, axis=1)
        shares = np.take_along_axis(self.shares, order, axis=1)
        needed = (np.cumsum(shares, axis=1) - shares < MASS) & (shares > 0)
        return packed(np.where(needed, labels, NONE), np.where(needed, shares, 0.0).astype(np.float32))


def text_posterior(
    own: Labels,
    images: Floats,
    texts: Floats,
    vectors: Floats,
    *,
    scale: float,
    listed: Labels | None = None,
    checked: Labels | None = None,
) -> Posterior:
    """R of all images, those without an answer included.

    The support of an image is its own name and list, and the names nearest to it by text and by prototypes.

    Args:
        own: the labeller's name of each image, int32 [N]; `NONE` where it gave none, which says nothing about it.
        images: the images' CLIP vectors, of length 1, float32 [N, d].
        texts: the vectors of the names in the same space, of length 1, float32 [V, d].
        vectors: the images' whitened vectors, of length 1, float32 [N, w].
        scale: T, the model's logit scale, as a factor.
        listed: further names that the labeller gave, int32 [N, L]; `NONE` in unused positions. They only widen the
            support.
        checked: the name that a person gave, int32 [N]; `NONE` where nobody has looked. R is certain there.

    Raises:
        ValueError: arrays of different lengths, vectors of different spaces, or no names.
    """
    checked = np.full(len(own), NONE, np.int32) if checked is None else checked
    listed = own[:, None] if listed is None else listed
    if not len(own) == len(images) == len(vectors) == len(listed) == len(checked):
        lengths = [len(part) for part in (own, images, vectors, listed, checked)]
        raise ValueError(f"answers, vectors, whitened vectors, lists and checks of {lengths} images: one row for each")
    _check_names(images, texts, max(int(part.max(initial=NONE)) for part in (own, listed, checked)))
    names = len(texts)
    centred = images - images.mean(axis=0) if len(images) else images
    near = nearest_names(vectors, np.where(checked == NONE, own, checked), names, NEAREST)
    labels = joined(own[:, None], listed, checked[:, None], nearest_rows(centred, texts, NEAREST), near)
    used, certain = labels != NONE, checked != NONE
    truth = (labels == checked[:, None]).astype(np.float64)
    text = np.where(used, scale * _products(centred, texts, labels), -np.inf)
    said = own != NONE
    zero_shot = _normalised(text)
    mine = (labels == own[:, None]) & used
    shares = np.where(said[:, None], START * mine + (1.0 - START) * zero_shot, zero_shot)
    shares = np.where(certain[:, None], truth, shares)
    for _ in range(ROUNDS):
        logits = text + PULL * nearness(vectors, labels, shares, names)
        logits += np.log(_prior_without(labels, shares, names))
        logits += np.where(said[:, None], np.log(_answered(own, mine, shares, names)), 0.0)
        shares = np.where(certain[:, None], truth, _normalised(np.where(used, logits, -np.inf)))
    right = float(shares[mine].sum() / said.sum()) if said.any() else None
    return Posterior(labels, shares, right, _counts(labels, shares, names) / max(1.0, float(shares.sum())))


def _check_names(images: Floats, texts: Floats, largest: int) -> None:
    if not len(texts):
        raise ValueError("there are no names that an image could have")
    if images.shape[1] != texts.shape[1]:
        raise ValueError(
            f"image vectors of {images.shape[1]} numbers and name vectors of {texts.shape[1]}: not of one model"
        )
    if largest >= len(texts):
        raise ValueError(f"name {largest} among {len(texts)} names")


def _products(images: Floats, texts: Floats, labels: Labels) -> Doubles:
    """x_i · τ_j for the names j of each image's support, float64 [N, M]."""
    found = np.empty(labels.shape)
    step = max(1, 2**24 // (labels.shape[1] * images.shape[1]))
    for at in range(0, len(images), step):
        rows = slice(at, at + step)
        found[rows] = np.einsum("id,imd->im", images[rows], texts[labels[rows]])
    return found


def _normalised(logits: Doubles) -> Doubles:
    return np.asarray(np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)))


def _counts(labels: Labels, shares: Doubles, names: int) -> Doubles:
    """Σ_i R_ij of every name, float64 [V]."""
    places = np.where(labels == NONE, names, labels)
    return np.bincount(places.ravel(), shares.ravel(), minlength=names + 1)[:names].astype(np.float64)


def _prior_without(labels: Labels, shares: Doubles, names: int) -> Doubles:
    """π_j^(−i), float64 [N, M], with one image per name beforehand, so that no name is ruled out."""
    others = np.maximum(_counts(labels, shares, names)[labels] - shares, 0.0)
    return np.asarray((others + 1.0) / (len(labels) - 1 + names))


def _answered(own: Labels, mine: Doubles, shares: Doubles, names: int) -> Doubles:
    """The answer's factor, float64 [N, M], with q and b of the other images; 1 where nothing was said."""
    said = own != NONE
    right = np.where(mine, shares, 0.0).sum(axis=1)
    wrong = np.where(said, 1.0 - right, 0.0)
    others = max(1, int(said.sum()) - 1)
    q = np.clip((right.sum() - right) / others, 1.0 - SURE, SURE)
    by_name = np.bincount(own[said], wrong[said], minlength=names)
    # One wrong answer beforehand, shared by all names, so that none is ruled out.
    b = (by_name[own] - wrong + 1.0 / names) / (wrong.sum() - wrong + 1.0)
    return np.where(said[:, None], q[:, None] * mine + ((1.0 - q) * b)[:, None], 1.0)


def new_image_scores(
    found: Posterior,
    vectors: Floats,
    images: Floats,
    whitened: Floats,
    texts: Floats,
    *,
    mean: Floats,
    scale: float,
) -> Doubles:
    """Scores of further images, nats, float64 [n, V]: T (x − x̄)·τ_j + 20 z·S_j / (‖S_j‖ + .3) + log Σ_i R_ij.

    Args:
        found: the posterior.
        vectors: the whitened vectors of its images, float32 [N, w].
        images: CLIP vectors of the further images, of length 1, float32 [n, d].
        whitened: their whitened vectors, float32 [n, w].
        texts: the vectors of the names, float32 [V, d].
        mean: x̄, the mean CLIP vector of as many photos of the kind as there are, float32 [d].
        scale: T.
    """
    sums = name_sums(vectors, found.labels, found.shares, len(texts)).astype(np.float64)
    directions = sums / (np.linalg.norm(sums, axis=1, keepdims=True) + SHRINK)
    seen = _counts(found.labels, found.shares, len(texts))
    return np.asarray(
        scale * ((images - mean) @ texts.T) + NEW_PULL * (whitened @ directions.T) + np.log(np.maximum(seen, 1e-12))
    )
