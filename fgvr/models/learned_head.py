"""From the labels of images to a classifier of their vectors, with a temperature from images held out in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fgvr.arrays import NONE, Floats, Ids
from fgvr.candidates.sets import CandidateSets
from fgvr.heads.beside import Beside, joined
from fgvr.heads.calibration import HELD_OUT, fit_temperature, held_out_folds
from fgvr.heads.networks import SCALE
from fgvr.heads.prototypes import left_out_cosines, prototypes
from fgvr.heads.training import HeadError, HeadExamples, HeadRecipe, train_head
from fgvr.models.head import VectorClasses
from fgvr.neighbours.found import Vectors
from fgvr.selection.whitening import Whitening

RULES = 1
"""Increase it when the same labels and vectors would give another model."""


@dataclass(frozen=True)
class Learned:
    """A classifier of vectors, and what is known of it.

    Attributes:
        classes: the classifier.
        metrics: temperature, and the share of held-out images whose own label it says (`held_out_agreement`).
        remarks: what a reader of the results must know.
        history: the loss of every step of the first member.
        extra: further metadata of the table.
    """

    classes: VectorClasses
    metrics: dict[str, float]
    remarks: list[str] = field(default_factory=list)
    history: list[float] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


def learn_prototypes(
    vectors: Vectors, labels: Ids, names: Sequence[str], whitening: Whitening | None, *, seed: int = 0
) -> Learned:
    """Prototypes of the names that some image has as its own label.

    Args:
        vectors: the encoder's, [N, d]; zeros if missing.
        labels: own labels, int64 [N]; `NONE` if an image has none.
        names: the label space, V names.
        whitening: the map to the vectors that are compared; None: they are compared as they are.
        seed: of the sample of images that are left out for the temperature.

    Raises:
        HeadError: no name has a prototype.
    """
    seen = np.asarray(vectors, np.float32) if whitening is None else whitening.apply(vectors)
    made = prototypes(seen, labels, len(names))
    if not len(made.label_ids):
        raise HeadError("label_prototypes: no image has both a label and a vector, so there is nothing to learn from")
    known = np.flatnonzero((labels != NONE) & seen.any(axis=1))
    rows = np.sort(np.random.default_rng(seed).permutation(known)[:HELD_OUT])
    cosines, own = left_out_cosines(seen, labels, len(names), rows)
    temperature = fit_temperature(SCALE * cosines[None], own)
    agreement = float((cosines.argmax(axis=1) == own).mean())
    labels_of = tuple(names[label] for label in made.label_ids)
    remarks = []
    if len(made.without):
        remarks.append(
            f"{len(made.without)} names have no prototype, as their images' vectors cancel each other "
            f"({', '.join(names[label] for label in made.without[:3])} …)"
        )
    classes = VectorClasses.of_directions(labels_of, made.directions, whitening, temperature)
    return Learned(classes, {"temperature": temperature, "held_out_agreement": agreement}, remarks)


def sets_of_labels(labels: Ids) -> CandidateSets:
    """One candidate per image, its own label; none where it has none."""
    one = labels.astype(np.int32)[:, None]
    return CandidateSets(one, (one != NONE).astype(np.float32))


def learn_heads(
    vectors: Vectors,
    labels: Ids,
    sets: CandidateSets,
    names: Sequence[str],
    whitening: Whitening | None,
    *,
    recipe: HeadRecipe,
    members: int = 1,
    seed: int = 0,
    start: tuple[Floats, float] | None = None,
    beside: Beside | None = None,
    threads: int = 1,
) -> Learned:
    """Heads over the names that are some image's candidate.

    Args:
        vectors: as in `learn_prototypes`.
        labels: own labels, int64 [N]; with them held-out images are compared.
        sets: what is learned: candidate sets, or `sets_of_labels`.
        names: the label space, V names.
        whitening: as in `learn_prototypes`.
        recipe: how each member is trained.
        members: number of heads, trained with the seeds `seed`, `seed` + 1 …
        seed: also of the images held out.
        start: directions of all names, float32 [V, d], and the factor of their cosines.
        beside: metadata of the images, which the heads see, too.
        threads: number of cores that may be used.

    Raises:
        HeadError: there is nothing to learn from, or training diverged.
    """
    seen = np.asarray(vectors, np.float32) if whitening is None else whitening.apply(vectors)
    there = np.flatnonzero(seen.any(axis=1) & (sets.sizes > 0))
    given = np.unique(sets.label_ids[there])
    given = given[given != NONE].astype(np.int64)
    if not len(given):
        raise HeadError("heads: no image has both a label and a vector, so there is nothing to learn from")
    columns = np.full(len(names) + 1, NONE, np.int32)  # the last one is that of `NONE`
    columns[given] = np.arange(len(given))
    mine = CandidateSets(columns[sets.label_ids[there]], sets.weights[there])
    inputs_of = seen[there] if beside is None else joined(seen[there], beside.features[there])
    hiding = None if beside is None else beside.hiding(seen.shape[1])
    examples, own = HeadExamples(inputs_of, mine, len(given), hiding), columns[labels[there]].astype(np.int64)
    begins = None
    if start is not None:
        begins, recipe = start[0][given], replace(recipe, scale=start[1])

    def trained(of: HeadExamples) -> list[tuple[torch.nn.Module, list[float]]]:
        return [train_head(of, recipe, seed=seed + n, start=begins, threads=threads) for n in range(members)]

    logits, held_out = [np.zeros((members, 0, len(given)))], [np.zeros(0, np.int64)]
    for fold in held_out_folds(len(there), seed):
        rest = np.setdiff1d(np.arange(len(there)), fold)
        if not len(rest):
            continue  # a single image
        inputs, networks = torch.from_numpy(examples.vectors[fold]), trained(examples.only(rest))
        with torch.inference_mode():
            logits.append(np.stack([network(inputs).numpy() for network, _ in networks]))
        held_out.append(own[fold])
    answers = np.concatenate(held_out)
    outside = np.concatenate(logits, axis=1)
    temperature = fit_temperature(outside, answers)
    told = answers != NONE
    agreement = float((outside.mean(axis=0).argmax(axis=1) == answers)[told].mean()) if told.any() else 0.0
    networks = trained(examples)
    classes = VectorClasses(
        tuple(names[label] for label in given),
        tuple(network for network, _ in networks),
        recipe.kind,
        whitening,
        temperature,
        hidden=recipe.hidden,
        scale=recipe.scale,
        metadata=None if beside is None else beside.fitted,
    )
    return Learned(classes, {"temperature": temperature, "held_out_agreement": agreement}, history=networks[0][1])
