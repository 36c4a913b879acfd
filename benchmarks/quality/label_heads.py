"""Prototypes, label propagation and trained heads on real CLIP vectors with a real model's names, photos at random.

    python -m benchmarks.quality.label_heads                    # half a minute per set, budget and seed
    python -m benchmarks.quality.label_heads --seeds 0 --budgets 3 --sets dtd

Data: `$FGVR_DATA/real-clip`, CLIP ViT-B/32 vectors of test photos of Flowers-102, DTD and Caltech-101 with the names
that GPT-4V gave to the same photos (first of five, closed list). Per set and seed, B = 3·C or 10·C photos are asked at
random; every row learns from the same first names and names the other photos, which are compared with their true
classes. f: centred vectors; z: whitened ones (`fgvr.selection.whitening`, fitted on all photos, without labels).
Differences are paired with the row `cosine head, GCE, f`. Nothing is chosen by these numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks import harness
from benchmarks.quality import real_clip
from fgvr.arrays import NONE, Floats, Ids
from fgvr.heads.calibration import calibration_error, fit_temperature
from fgvr.heads.networks import SCALE
from fgvr.heads.propagation import NEIGHBOURS, graph, propagate, propagated_scores
from fgvr.heads.prototypes import left_out_cosines, prototypes
from fgvr.heads.training import HeadExamples, HeadRecipe, train_head
from fgvr.neighbours import nearest
from fgvr.selection.whitening import centre, fit_whitening

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
    """A data set of `real_clip`."""
    found = real_clip.read(name, seed)
    raw = found.vectors.astype(np.float32)
    whitening = fit_whitening(raw, threads=THREADS)
    vectors = {"f": centre(raw, whitening.mean), "z": whitening.apply(raw)}
    return Space(vectors, found.truth, found.answers[:, 0], len(found.names), found.classes)


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
    return found


def softmax(logits: Floats) -> Floats:
    """Over columns, float32 [n, C]."""
    return np.asarray(torch.from_numpy(logits).softmax(dim=1).numpy(), np.float32)


def summary(title: str, each: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """A Markdown table: mean ± standard deviation over seeds per row, the paired difference to the base, the ECE."""
    lines = []
    for row in each[0]:
        values = [one[row]["accuracy"] for one in each]
        gaps = [one[row]["accuracy"] - one[BASE]["accuracy"] for one in each]
        cells = (harness.mean_and_deviation(values), harness.mean_and_deviation(gaps))
        lines.append(harness.Line(row, (*cells, f"{np.mean([one[row]['ece'] for one in each]):.1f}")))
    return harness.markdown(title, ["accuracy", f"− {BASE}", "ECE"], lines)


def main() -> None:
    """Print a table per set and budget."""
    sets = list(real_clip.SETS.values())
    parser = harness.parser(__doc__, seeds=range(5))
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets)
    parser.add_argument("--budgets", nargs="+", type=int, default=[3, 10], help="answers per class")
    asked = parser.parse_args()
    real_clip.check_folder()
    with harness.reporting(asked) as report:
        for name in asked.sets:
            for budget in asked.budgets:
                each = [rows_of(read_space(name, seed), budget, seed) for seed in asked.seeds]
                report.facts[f"{name}-{budget}"] = each
                report.say(summary(f"{name}, {budget} answers per class", each))


if __name__ == "__main__":
    main()
