"""Prototypes: a name's direction is that of the sum of the vectors of the images whose own label it is.

    c_j = unit(Σ_{i: t_i = j} z_i)   for names given to at least one image,   ŷ(x) = argmax_j z(x)·c_j

Nearest class mean by cosine, with nothing to train and nothing to tune. The labels are hard on purpose: a name that
gets 2% of an image's label would have a prototype of full length, and soft labels cost up to 35 points on real CLIP
vectors with real answers (Snell et al., "Prototypical Networks", NeurIPS 2017, use class means in the same way).

Other prototypes here: `fgvr.baselines.finer_findr` mixes text vectors with images that *vote* for a name by their
similarity to it, whatever the MLLM said of them; these are made of the labels and need no text tower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from fgvr.arrays import NONE, Doubles, Floats, Ids

BLOCK = 65_536
"""Images whose vectors are converted at a time."""
SCALE = 20.0
"""κ: probabilities are a softmax over κ z·c. Not tuned per data set; see `fgvr.heads.calibration`."""
CANCELLED = 1e-4
"""Mean vectors shorter than this have no direction: their images' vectors cancel up to the rounding of fp16."""


@dataclass(frozen=True)
class Prototypes:
    """The names that have a direction.

    Attributes:
        label_ids: int64 [C], ascending.
        directions: unit vectors, float32 [C, d].
        images: how many images each is made of, int64 [C].
        without: label ids that images have, but that have no direction: their images have no vectors, or these cancel
            each other; int64, ascending.
    """

    label_ids: Ids
    directions: Floats
    images: Ids
    without: Ids


def class_sums(vectors: Floats, labels: Ids, names: int) -> tuple[Doubles, Ids]:
    """The sum of the vectors of every label, float64 [V, d], and the number of images in it, int64 [V].

    Args:
        vectors: float32 or float16 [N, d]; may be memory-mapped. Rows of zeros have no direction and are not counted.
        labels: int64 [N]; `NONE` if an image has none.
        names: V, the size of the label space.

    Raises:
        ValueError: the arrays are of different lengths, a label is not in the label space, or a vector is not finite.
    """
    check(vectors, labels, names)
    sums, counts = np.zeros((names, vectors.shape[1])), np.zeros(names, np.int64)
    for at in range(0, len(labels), BLOCK):
        rows = np.asarray(vectors[at : at + BLOCK], np.float64)
        if not np.isfinite(rows).all():
            raise ValueError(f"images {at} to {at + len(rows) - 1}: a vector is not finite")
        here = np.flatnonzero((labels[at : at + BLOCK] != NONE) & rows.any(axis=1))
        given = labels[at + here]
        one_hot = sp.csr_array((np.ones(len(here)), (given, np.arange(len(here)))), shape=(names, len(here)))
        sums += one_hot @ rows[here]
        counts += np.bincount(given, minlength=names)
    return sums, counts


def prototypes(vectors: Floats, labels: Ids, names: int) -> Prototypes:
    """The prototypes of all names that some image with a vector has as its own label.

    Arguments and errors as in `class_sums`. The order of the images does not matter.
    """
    sums, counts = class_sums(vectors, labels, names)
    lengths = np.linalg.norm(sums, axis=1)
    pointing = lengths > CANCELLED * np.maximum(counts, 1)
    given = np.bincount(labels[labels != NONE], minlength=names) > 0
    ids = np.flatnonzero(pointing)
    directions = (sums[ids] / lengths[ids, None]).astype(np.float32)
    return Prototypes(ids, directions, counts[ids], np.flatnonzero(given & ~pointing))


def left_out_cosines(vectors: Floats, labels: Ids, names: int, rows: Ids) -> tuple[Floats, Ids]:
    """Cosines of some images with the prototypes of all *other* images: what a held-out image would get.

    Args:
        vectors: as in `class_sums`.
        labels: as there.
        names: as there.
        rows: the images, int64 [n]; each has a label.

    Returns:
        Cosines float32 [n, C] in the order of `prototypes(…).label_ids`, and the columns of the images' own labels,
        int64 [n]; `NONE` where no other image has the name (or their vectors cancel, or it has no prototype): no other
        image could have taught it. Its cosine then is −inf.
    """
    sums, counts = class_sums(vectors, labels, names)
    made = prototypes(vectors, labels, names)
    own = vectors[rows].astype(np.float64)
    cosines = (own.astype(np.float32) @ made.directions.T).astype(np.float32)
    places = np.searchsorted(made.label_ids, labels[rows])
    places = np.minimum(places, max(0, len(made.label_ids) - 1))
    has = (made.label_ids[places] == labels[rows]) if len(made.label_ids) else np.zeros(len(rows), bool)
    rest = sums[labels[rows]] - own
    lengths = np.linalg.norm(rest, axis=1)
    others = counts[labels[rows]] - 1
    taught = has & (lengths > CANCELLED * np.maximum(others, 1)) & (others > 0)
    values = np.einsum("nd,nd->n", own, rest) / np.where(taught, lengths, 1.0)
    here = np.flatnonzero(has)
    cosines[here, places[here]] = np.where(taught, values, -np.inf)[here]
    return cosines, np.where(taught, places, NONE)


def answers_per_name(labels: Ids) -> float:
    """Labelled images per distinct name; 0 without labels."""
    known = labels[labels != NONE]
    return len(known) / len(np.unique(known)) if len(known) else 0.0


def check(vectors: Floats, labels: Ids, names: int) -> None:
    """Raise ValueError where vectors and labels do not fit together."""
    if vectors.ndim != 2 or len(vectors) != len(labels):
        raise ValueError(f"vectors of the shape {vectors.shape} for {len(labels)} labels: one row per image is needed")
    if len(labels) and (labels.max() >= names or labels.min() < NONE):
        raise ValueError(f"labels from {labels.min()} to {labels.max()} in a label space of {names} names")
