"""Prototypes, label propagation and trained heads on real CLIP vectors with a real model's names, photos at random.

    python -m benchmarks.quality.label_heads                    # half a minute per set, budget and seed
    python -m benchmarks.quality.label_heads --seeds 1 --budgets 3 --sets dtd

Data: `$FGVR_DATA/real-clip`, CLIP ViT-B/32 vectors of test photos of Flowers-102, DTD and Caltech-101 with the names
that GPT-4V gave to the same photos (first of five, closed list). Per set and seed, B = 3·C or 10·C photos are asked at
random; every row learns from the same first names and names the other photos, which are compared with their true
classes. f: centred vectors; z: whitened ones (`fgvr.selection.whitening`, fitted on all photos, without labels).
Differences are paired with the row `cosine head, GCE, f`. Nothing is chosen by these numbers.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks import harness
from fgvr.arrays import NONE, Floats, Ids
from fgvr.heads.calibration import calibration_error, fit_temperature
from fgvr.heads.networks import SCALE
from fgvr.heads.propagation import NEIGHBOURS, graph, propagate, propagated_scores
from fgvr.heads.prototypes import answers_per_name, left_out_cosines, prototypes
from fgvr.heads.training import HeadExamples, HeadRecipe, train_head
from fgvr.neighbours import nearest
from fgvr.selection.whitening import centre, fit_whitening

SETS = ("oxford_flowers", "dtd", "caltech101")
BASE = "cosine head, GCE, f"
THREADS = len(os.sched_getaffinity(0))
HEADS = {
    BASE: ("f", HeadRecipe()),
    "cosine head, CE, f": ("f", HeadRecipe(loss="ce")),
    "cosine head, GCE, z": ("z", HeadRecipe()),
    "cosine head, CE, z": ("z", HeadRecipe(loss="ce")),
    "linear head, GCE, z": ("z", HeadRecipe(kind="linear")),
    "MLP, GCE, z": ("z", HeadRecipe(kind="mlp")),
}


@dataclass(frozen=True)
class Space:
    """A data set, its photos in random order.

    Attributes:
        vectors: by the name of their form, float32 [N, d].
        truth: class of each photo, int64 [N].
        own: its first name, int64 [N]; `NONE` without one. The first `classes` names are the classes.
        names: size of the label space.
        classes: number of true classes.
    """

    vectors: Mapping[str, Floats]
    truth: Ids
    own: Ids
    names: int
    classes: int


def read_space(name: str, seed: int) -> Space:
    """A set of `real-clip`; its files are sorted by class, so photos are shuffled first."""
    stored = np.load(harness.DATA / "real-clip" / f"{name}.npz")
    order = np.random.default_rng(seed).permutation(len(stored["vectors"]))
    raw = stored["vectors"][order].astype(np.float32)
    whitening = fit_whitening(raw, threads=THREADS)
    vectors = {"f": centre(raw, whitening.mean), "z": whitening.apply(raw)}
    own = stored["answers"][order, 0].astype(np.int64)
    return Space(vectors, stored["class_id"][order].astype(np.int64), own, len(stored["names"]), int(stored["classes"]))


def rows_of(space: Space, budget: int, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy of every row on the photos that were not asked, in percent, and what else is known of it."""
    asked = np.random.default_rng(seed).permutation(len(space.truth))[: budget * space.classes]
    labels = np.full(len(space.truth), NONE)
    labels[asked] = space.own[asked]
    others = np.setdiff1d(np.arange(len(labels)), asked)
    found: dict[str, dict[str, float]] = {}

    def scored(row: str, scores: Floats, label_ids: Ids) -> None:
        right = label_ids[scores.argmax(axis=1)] == space.truth[others]
        found[row] = {"accuracy": 100 * float(right.mean()), "ece": 100 * calibration_error(scores.max(axis=1), right)}

    for form in ("f", "z"):
        vectors = space.vectors[form]
        made = prototypes(vectors[asked], labels[asked], space.names)
        cosines, own = left_out_cosines(vectors, labels, space.names, asked[labels[asked] != NONE])
        heat = fit_temperature(SCALE * cosines[None], own)
        scored(f"prototypes, {form}", softmax(SCALE / heat * (vectors[others] @ made.directions.T)), made.label_ids)
    z = space.vectors["z"]
    near = nearest(z, z, NEIGHBOURS + 1, own=np.arange(len(z)), threads=THREADS)
    spread = propagate(graph(near.ids, near.scores), labels, space.names)
    mass = type(spread)(spread.label_ids[others], spread.mass[others])
    scored("prototypes, z, propagation", propagated_scores(z[others], made, mass), made.label_ids)
    given = np.unique(labels[labels != NONE])
    columns = np.where(labels == NONE, NONE, np.searchsorted(given, labels))
    for row, (form, recipe) in HEADS.items():
        vectors = space.vectors[form]
        examples = HeadExamples.of_labels(vectors[asked], columns[asked], len(given))
        network, history = train_head(examples, recipe, seed=seed, threads=THREADS)
        with torch.no_grad():
            scored(row, network(torch.from_numpy(vectors[others])).softmax(dim=1).numpy(), given)
        found[row]["last loss"] = history[-1]
    found["answers per name"] = {"accuracy": answers_per_name(labels)}
    return found


def softmax(logits: Floats) -> Floats:
    """Over columns, float32 [n, C]."""
    return np.asarray(torch.from_numpy(logits).softmax(dim=1).numpy(), np.float32)


def table(name: str, budget: int, seeds: int, rows: Callable[[Space, int, int], dict[str, dict[str, float]]]) -> str:
    """Mean ± standard deviation over seeds per row, and the paired difference to the base."""
    each = [rows(read_space(name, seed), budget, seed) for seed in range(seeds)]
    lines = [f"{name}, {budget} answers per class, {seeds} seeds"]
    for row in each[0]:
        values = np.array([one[row]["accuracy"] for one in each])
        gaps = values - [one[BASE]["accuracy"] for one in each]
        ece = np.mean([one[row].get("ece", np.nan) for one in each])
        lines.append(
            f"  {row:28} {values.mean():5.1f} ±{values.std(ddof=min(1, seeds - 1)):4.1f}"
            f"   {gaps.mean():+5.1f} ±{gaps.std(ddof=min(1, seeds - 1)):4.1f}   ECE {ece:4.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Print a table per set and budget."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--budgets", nargs="+", type=int, default=[3, 10], help="answers per class")
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    if not (harness.DATA / "real-clip").is_dir():
        raise SystemExit(f"no real CLIP vectors at {harness.DATA / 'real-clip'} (set FGVR_DATA)")
    print(json.dumps(harness.machine()) if hasattr(harness, "machine") else "")
    for name in asked.sets:
        for budget in asked.budgets:
            print(table(name, budget, asked.seeds, rows_of), flush=True)


if __name__ == "__main__":
    main()
