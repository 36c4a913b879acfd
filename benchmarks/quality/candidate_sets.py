"""Candidate sets by method in both regimes: noisy labels in pure neighbourhoods, and clean labels in impure ones.

    python -m benchmarks.quality.candidate_sets              # the sets alone: half a minute
    python -m benchmarks.quality.candidate_sets --train      # also train prompts: half a minute per row and seed

Drawn field guides with the shipped models, no Ray and no vLLM. `noisy`: the tiny MLLM's labels and CLIP's vectors as
they are. `clean`: the true names, of which one in twenty is replaced by another of its genus, and vectors with noise
that mixes classes up. Truth is used to print the table, never to make the sets.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from benchmarks import harness
from benchmarks.demo_models.drawings import draw_many
from benchmarks.demo_models.mllm_language import LABEL_PROMPT
from benchmarks.demo_models.reference import ReferenceMllm
from fgvr import schemas, storage, tables
from fgvr.arrays import NONE
from fgvr.candidates.agreement import NEIGHBOURS, Agreement, estimate
from fgvr.candidates.methods import candidate_sets, most_neighbours, used_neighbours
from fgvr.candidates.sets import CandidateSets, candidate_rows, coverage, read_sets, single_sets
from fgvr.clip.model import load_clip
from fgvr.clip.vectors import embedding_rows
from fgvr.config import Candidates, Clip, Near
from fgvr.demo.paths import MLLM_PATH
from fgvr.demo.samples import DEMO_DIFFICULTY
from fgvr.demo.species import SPECIES
from fgvr.models.near import load_classes
from fgvr.names.label_space import true_label_ids
from fgvr.neighbours import Neighbours
from fgvr.neighbours.discovery import labelled_neighbours
from fgvr.tables import Table
from fgvr.training.prompt import train_near
from fgvr.training.prompt_data import MODEL_FOLDER, NearJob
from fgvr.training.reporter import LocalReporter

NAMES = [species.name for species in SPECIES]
MIXED = 0.18  # standard deviation of the noise on each of CLIP's 128 numbers in the regime `clean`
DEMO = {"batch_size": 512, "epochs": 250, "lr": 0.02, "warmup_epochs": 0}
FROZEN = DEMO | {"frozen_epochs": 250}
TEN = {"k": 10, "weights": "multiplicity"}
ROWS: list[tuple[str, Candidates, dict[str, Any]]] = [
    ("own label, cross entropy", Candidates(method="single"), DEMO | {"loss": "ce"}),
    ("neighbours, k = 3", Candidates(), DEMO),
    ("neighbours, k = 10 by multiplicity", Candidates.model_validate(TEN), DEMO),
    ("the same, frozen weights", Candidates.model_validate(TEN), FROZEN),
    ("adaptive", Candidates(method="adaptive"), DEMO),
    ("adaptive, frozen weights", Candidates(method="adaptive"), FROZEN),
    ("random", Candidates(method="random"), DEMO),
]


@dataclass(frozen=True)
class Guide:
    """A field guide: label space, vectors and labels of n discovery drawings, vectors and truth of m test drawings."""

    space: list[str]
    vectors: np.ndarray
    own: np.ndarray
    truth: np.ndarray
    test_vectors: np.ndarray
    test_truth: np.ndarray

    def nearest(self, k: int) -> Neighbours:
        """The k nearest drawings of each, itself first."""
        there = np.ones(len(self.own), bool)
        return labelled_neighbours(self.vectors, there, self.own != NONE, k)

    def sets(self, config: Candidates, agreement: Agreement) -> tuple[CandidateSets, np.ndarray, np.ndarray]:
        """The sets with the neighbours that they are made of, and their similarities."""
        found = self.nearest(most_neighbours(config))
        there = np.ones(len(self.own), bool)
        names = single_sets(self.own)
        sets = candidate_sets(config, found, names, embedded=there, space=len(self.space), agreement=agreement)
        k = used_neighbours(config, agreement)
        return sets, found.ids[:, :k], found.scores[:, :k]


def guide(seed: int, regime: str) -> Guide:
    """A field guide with ten drawings per species for training and fifteen for testing."""
    level = (DEMO_DIFFICULTY, DEMO_DIFFICULTY)
    parts = [
        draw_many(seed, split, count * len(SPECIES), difficulty=level, random_share=0.0)
        for split, count in (("sets-train", 10), ("sets-test", 15))
    ]
    clip = load_clip(Clip())
    vectors: list[np.ndarray] = [
        clip.encode_images([Image.fromarray(image) for image in part.images]) for part in parts
    ]
    random = np.random.default_rng(seed)
    if regime == "clean":
        vectors = [part + MIXED * random.standard_normal(part.shape) for part in vectors]
        vectors = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in vectors]
        labels = [
            _sibling(species, random) if random.random() < 0.05 else NAMES[species] for species in parts[0].species
        ]
    else:
        labels = ReferenceMllm(MLLM_PATH).label(parts[0].images, LABEL_PROMPT)
    space = sorted(set(labels))
    truths = [true_label_ids([NAMES[species] for species in part.species], space) for part in parts]
    own = np.array([space.index(label) for label in labels], np.int32)
    train, test = (part.astype(np.float16) for part in vectors)
    return Guide(space, train, own, truths[0], test, truths[1])


def _sibling(species: int, random: np.random.Generator) -> str:
    genus = [other.name for other in SPECIES if other.genus == SPECIES[species].genus]
    return str(random.choice([name for name in genus if name != NAMES[species]]))


def quality(sets: CandidateSets, truth: np.ndarray) -> list[float]:
    """Names in a set, sets with the truth, weight on the truth, heaviest candidates that are right."""
    right = sets.label_ids == truth[:, None]
    heaviest = sets.label_ids[np.arange(len(sets)), sets.weights.argmax(axis=1)] == truth
    return [sets.sizes.mean(), coverage(sets, truth), (sets.weights * right).sum(axis=1).mean(), heaviest.mean()]


def learned(data: Guide, rows: pa.Table, recipe: dict[str, Any], folder: Path) -> list[float]:
    """Top-1 on the test drawings, and right labels of the discovery drawings by the learned prompt's own candidates."""
    ids = np.arange(len(data.own))
    _write(folder / "candidates", rows)
    named = [{"image_id": int(i), "label": data.space[own], "label_id": int(own)} for i, own in enumerate(data.own)]
    _write(folder / "labels", pa.Table.from_pylist(named, schema=schemas.LABELS))
    space = {"labels": data.space, "counts": [1] * len(data.space)}
    storage.write_bytes(str(folder / "labels" / "label_space.json"), json.dumps(space).encode())
    _write(folder / "embeddings", embedding_rows(ids, data.vectors.astype(np.float32), [None] * len(ids)))
    paths = {name: str(folder / name) for name in ("labels", "embeddings", "candidates")}
    reporter = LocalReporter(folder)
    train_near(NearJob(settings=Near.model_validate(recipe), clip=Clip(), **paths), reporter)
    classes = load_classes(reporter.checkpoint / MODEL_FOLDER)
    top1 = (classes.scores(data.test_vectors).argmax(axis=1) == data.test_truth).mean()
    scores, sets = classes.scores(data.vectors), read_sets(rows)
    among = np.where(sets.label_ids == NONE, -1.0, np.take_along_axis(scores, np.maximum(sets.label_ids, 0), axis=1))
    settled = sets.label_ids[ids, among.argmax(axis=1)] == data.truth
    return [float(top1), float(settled.mean())]


def _write(folder: Path, rows: pa.Table) -> None:
    tables.write_part(str(folder), 0, rows)
    Table(str(folder), folder.name, "f", rows.num_rows, 0, 1, rows.num_rows, 0.0).commit()


def measured(data: Guide, agreement: Agreement, train: bool) -> Iterator[list[float]]:
    """A row of numbers for each of ROWS."""
    for _, config, recipe in ROWS:
        sets, near, scores = data.sets(config, agreement)
        row = quality(sets, data.truth)
        if train:
            with tempfile.TemporaryDirectory() as folder:
                rows = candidate_rows(np.arange(len(data.own)), near, scores, sets)
                row += learned(data, rows, recipe, Path(folder))
        yield row


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=(201, 202, 203))
    parser.add_argument("--regimes", nargs="+", default=["noisy", "clean"], choices=["noisy", "clean"])
    parser.add_argument("--train", action="store_true", help="also learn prompts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with harness.reporting(args) as report:
        for regime in args.regimes:
            compare(regime, args.seeds, args.train, report)


def compare(regime: str, seeds: Sequence[int], train: bool, report: harness.Report) -> None:
    """The table of one regime: means over the guides of some seeds, in percent but for the number of names."""
    results = []
    for seed in seeds:
        data = guide(seed, regime)
        near = data.nearest(1 + NEIGHBOURS).ids
        agreement = estimate(np.where(near == NONE, NONE, data.own[near]), k=3)
        precision = (data.truth[near[:, 1:3]] == data.truth[:, None]).mean()
        report.say(f"{regime}, seed {seed}: {agreement.in_words()}")
        report.say(f"  true: neighbourhoods {precision:.2f}, labels {(data.own == data.truth).mean():.2f}")
        results.append(list(measured(data, agreement, train)))
    lines = []
    for (title, _, _), rows in zip(ROWS, zip(*results, strict=True), strict=True):
        names, *shares = zip(*rows, strict=True)
        cells = [f"{np.mean(names):.2f}", *(harness.mean_and_deviation([100 * one for one in of]) for of in shares)]
        lines.append(harness.Line(title, tuple(cells)))
    heads = ["names", "coverage", "weight", "heaviest", *(["top-1", "settled"] if train else [])]
    report.say("\n" + harness.markdown(regime, heads, lines))


if __name__ == "__main__":
    main()
