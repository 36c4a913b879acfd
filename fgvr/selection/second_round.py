"""The second round of questions: where the names of the first one are missing or disputed.

After the first answers each name has a prototype, the mean direction of the images that got it. How well the best name
of an image is ahead of the second says how much an answer would tell: p_j = softmax_j(20 z·c_j), and an image's *doubt*
is 1 − (largest p − second largest p). Between two names it is near 1 (disputed), and so it is far from all names
(uncovered). Of the images with most doubt, ten for each question, one per cluster is asked about, clusters being
weighted by doubt (Zhdanov, arXiv 1901.05954): the images with most doubt alone would be one confusion, many times over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fgvr.arrays import NONE, Floats, Ids
from fgvr.neighbours import nearest
from fgvr.neighbours.exact import tensor, torch_threads
from fgvr.selection.choose import Chosen, How, Space, choose
from fgvr.selection.kmeans import assign, blocks
from fgvr.selection.whitening import unit

RULES = 1
"""Increase it when the same vectors and names would make other images be asked about."""
SHARPNESS = 20.0
CONSIDERED = 10
"""Images per question, those with most doubt."""


@dataclass(frozen=True)
class SecondRound:
    """The images of the second round.

    Attributes:
        chosen: the images.
        uncovered: bool [n], further from each image of the first round than those mostly are from each other. The
            others are disputed.
    """

    chosen: Chosen
    uncovered: npt.NDArray[np.bool_]


def second_round(
    space: Space,
    asked: Ids,
    labels: Ids,
    count: int,
    how: How = "medoids",
    *,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
) -> SecondRound:
    """The images to ask about after a first round.

    Args:
        space: all images.
        asked: rows of those of the first round, int64 [a], at least one.
        labels: their label ids, int64 [a]; `NONE` where an answer failed.
        count: how many more are asked about, at least 1.
        how: which image of a cluster.
        seed: of all random draws.
        threads: number of cores that may be used.
        device: where products are computed, "cpu" or "cuda".
    """
    first = np.asarray(space.whitened[asked], np.float32)
    near = assign(space.whitened, first, threads=threads, device=device).similarity
    named = labels != NONE
    with torch_threads(threads):
        weights = doubt(space, prototypes(first[named], labels[named]), near, device)
    weights[asked] = 0
    if (weights > 0).sum() > CONSIDERED * count:
        least = np.partition(weights, -CONSIDERED * count)[-CONSIDERED * count]
        weights[weights < least] = 0
    more = choose(space, count, how, asked=asked, weights=weights, seed=seed + 1, threads=threads, device=device)
    others = nearest(first, first, 2, own=np.arange(len(asked)), threads=threads).scores[:, 1]
    return SecondRound(more, near[more.rows] < np.median(others))


def prototypes(vectors: Floats, labels: Ids) -> Floats:
    """The mean direction of the images of each name, float32 [names, d]."""
    names, places = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(names), vectors.shape[1]), np.float32)
    np.add.at(sums, places, vectors)
    return unit(sums)


def doubt(space: Space, names: Floats, near: Floats, device: str) -> Floats:
    """How much an answer about each image would tell, float32 [N], above 0.

    Args:
        space: all images.
        names: prototypes, float32 [V, d]; fewer than two cannot be disputed, and distance alone counts.
        near: cosine to the nearest image of the first round, float32 [N].
        device: where products are computed.
    """
    if len(names) < 2:
        return np.maximum(1 - near, 1e-6).astype(np.float32)
    result = np.zeros(len(space), np.float32)
    directions = tensor(names).to(device).T
    for here, rows in blocks(space.whitened, len(names), device):
        best = torch.softmax(SHARPNESS * (rows @ directions), dim=1).topk(2, dim=1).values
        result[here] = (1 - (best[:, 0] - best[:, 1])).clamp(min=1e-6).cpu().numpy()
    return result
