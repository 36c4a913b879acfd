"""Decisions in a tree of kinds on real photos: species by the last word of their names, groceries by coarse class.

    python -m benchmarks.quality.hierarchy                 # ten minutes, most of it for vectors, which are kept
    python -m benchmarks.quality.hierarchy --seeds 0 --sets birds

Data: `$FGVR_DATA/birds`, 100 species, whose kind is the last word of the name, and `$FGVR_DATA/grocery-store`,
81 products in coarse classes. Vectors: EfficientNet-Lite0, trained on ImageNet (`--weights`). Per seed a cosine head
learns from B photos per class of the training split, drawn at random, with their true names, and names the test split.
Its temperature is fitted to labels held out of these (three folds); `raw` has none. Rows differ in the decision alone.
Differences of the mean distance (edges between the answer and the true name, per image) are paired by seed with
`calibrated, most probable`; in brackets the 95% interval of their mean, resampled over seeds. Nothing is chosen by
these numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from benchmarks import harness
from benchmarks.quality.photo_tables import find_weights
from fgvr.arrays import Floats, Ids
from fgvr.config.vectors import TimmVectors
from fgvr.encoders.encoder import encode_images, load_encoder
from fgvr.heads.calibration import fit_temperature, held_out_folds
from fgvr.heads.training import HeadExamples, HeadRecipe, train_head
from fgvr.hierarchy.decisions import TreeRule
from fgvr.hierarchy.kinds import Kinds
from fgvr.hierarchy.levels import hierarchy_scores
from fgvr.names.spelling import fold_name
from fgvr.selection.whitening import fit_whitening

SETS: Final = ("birds", "grocery-store")
BASE: Final = "calibrated, most probable"
METRICS: Final = ("name", "kind", "height of mistakes", "answers that are names", "not wrong", "distance")
RULES: Final[Mapping[str, Mapping[str, object]]] = {
    "least distance": {},
    "least height": {"cost": "height"},
    "any level, t = 0.5": {"any_level": True},
    "any level, t = 0.8": {"any_level": True, "specific_above": 0.8},
    "any level, t = 0.95": {"any_level": True, "specific_above": 0.95},
}
PER_BATCH: Final = 32


@dataclass(frozen=True)
class Photos:
    """A data set: raw vectors float32 [N, d], classes int64 [N], which photos may be learned from, and the tree."""

    vectors: Floats
    classes: Ids
    training: np.ndarray
    names: tuple[str, ...]
    kinds: Kinds


def listed(data: str) -> tuple[list[tuple[Path, bool, str]], dict[str, str]]:
    """(file, of the training split, name) per photo, and name → kind."""
    folder = harness.DATA / data
    if data == "birds":
        with (folder / "birds.csv").open(newline="") as file:
            rows = [(folder / row["uri"], row["split"] == "train", row["class_name"]) for row in csv.DictReader(file)]
        rows = [(path, training, name.replace("_", " ")) for path, training, name in rows]
        return rows, {name: name.split()[-1] + " (kind)" for _, _, name in rows}
    folder = folder / "dataset"
    with (folder / "classes.csv").open(newline="") as file:
        classes = list(csv.DictReader(file))
    names = {row["Class ID (int)"]: row["Class Name (str)"] for row in classes}
    rows = []
    for split in ("train", "val", "test"):
        for line in (folder / f"{split}.txt").read_text().splitlines():
            path, number, _ = (cell.strip() for cell in line.split(","))
            rows.append((folder / path, split != "test", names[number]))
    # "(kind)": a coarse class may be called as its only product.
    return rows, {row["Class Name (str)"]: row["Coarse Class Name (str)"] + " (kind)" for row in classes}


def read(data: str, weights: Path, out: Path) -> Photos:
    """The data set, its vectors from a file in `out` where they are there."""
    rows, above = listed(data)
    kept = out / f"{data}.npy"
    if not kept.is_file():
        torch.set_num_threads(1)
        encoder = load_encoder(TimmVectors(model="tf_efficientnet_lite0", weights=str(weights)))
        batches = [rows[at : at + PER_BATCH] for at in range(0, len(rows), PER_BATCH)]
        parts = [encode_images(encoder, [Image.open(row[0]).convert("RGB") for row in batch]) for batch in batches]
        out.mkdir(parents=True, exist_ok=True)
        np.save(kept, np.concatenate(parts))
    names = tuple(sorted(above))
    place = {name: number for number, name in enumerate(names)}
    written = {fold_name(name): name for pair in above.items() for name in pair}
    parents = {fold_name(name): fold_name(kind) for name, kind in above.items()}
    spans = dict.fromkeys(parents.values(), (0, 0)) | dict.fromkeys(parents, (1, 1))
    return Photos(
        np.load(kept),
        np.array([place[name] for _, _, name in rows]),
        np.array([training for _, training, _ in rows]),
        names,
        Kinds(parents, written, ("kind", "name"), spans),
    )


def rows_of(photos: Photos, budget: int, seed: int) -> dict[str, dict[str, float]]:
    """Every decision on the test photos."""
    rng = np.random.default_rng(seed)
    pool, test = np.flatnonzero(photos.training), np.flatnonzero(~photos.training)
    by_class = [rng.permutation(pool[photos.classes[pool] == name])[:budget] for name in range(len(photos.names))]
    asked = np.sort(np.concatenate(by_class))
    z = fit_whitening(photos.vectors[pool], threads=1).apply(photos.vectors)
    labels = photos.classes[asked]

    def logits_of(learned: Ids, others: Ids) -> Floats:
        examples = HeadExamples.of_labels(z[asked][learned], labels[learned], len(photos.names))
        network, _ = train_head(examples, HeadRecipe(loss="ce"), seed=seed, threads=1)
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(z[others])).numpy(), np.float32)

    everyone = np.arange(len(asked))
    held, found = [], np.zeros((1, len(asked), len(photos.names)), np.float32)
    for fold in held_out_folds(len(asked), seed):
        found[0, fold] = logits_of(np.setdiff1d(everyone, fold), asked[fold])
        held.append(fold)
    heat = fit_temperature(found[:, np.concatenate(held)], labels[np.concatenate(held)])
    logits = logits_of(everyone, test)
    true = [photos.names[label] for label in photos.classes[test]]
    scored: dict[str, dict[str, float]] = {}
    for how, temperature in (("raw", 1.0), ("calibrated", heat)):
        p = np.asarray(torch.from_numpy(logits / temperature).softmax(dim=1).numpy(), np.float32)
        said = {"most probable": [photos.names[label] for label in p.argmax(axis=1)]}
        for rule, facts in RULES.items():
            costs = TreeRule(photos.kinds, **facts).of(photos.names)  # type: ignore[arg-type]
            said[rule] = [costs.tree.names[node] for node in costs.answers(p).nodes]
        scored |= {f"{how}, {rule}": numbers(names, true, photos.kinds) for rule, names in said.items()}
    return scored


def numbers(said: Sequence[str], true: Sequence[str], kinds: Kinds) -> dict[str, float]:
    """The metrics of a row; an image without an answer is as far away as the root."""
    scores = hierarchy_scores(said, true, kinds, resamples=0)
    if scores is None:
        raise ValueError("the tree has none of the names")
    tree = kinds.tree(())
    far = tree.distance(np.maximum(tree.nodes(said), 0), tree.nodes(true))
    kind, name = scores.levels
    values = (name.accuracy, kind.accuracy, scores.mistake_height or 0.0, name.answered, scores.not_wrong or 0.0)
    return dict(zip(METRICS, (*values, float(far.mean())), strict=True))


def table(title: str, each: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """A Markdown table: means over seeds, and the distance against `BASE`."""
    lines = []
    for row in each[0]:
        cells = [
            f"{np.mean([one[row][metric] for one in each]):.{2 if metric in METRICS[2::3] else 1}f}"
            for metric in METRICS
        ]
        gaps = [one[row]["distance"] - one[BASE]["distance"] for one in each]
        low, high = harness.bootstrap(gaps)
        cells.append("" if row == BASE else f"{np.mean(gaps):+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append(harness.Line(row, tuple(cells)))
    return harness.markdown(title, [*METRICS, f"distance − {BASE}"], lines)


def main(arguments: list[str] | None = None) -> None:
    """Print a table per set and budget."""
    parser = harness.parser(__doc__, seeds=range(5))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--budgets", nargs="+", type=int, default=[3, 10], help="photos per class to learn from")
    parser.add_argument("--weights", type=Path, help="file of EfficientNet-Lite0's weights")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/hierarchy"), help="folder of vectors; default: %(default)s"
    )
    args = parser.parse_args(arguments)
    with harness.reporting(args) as report:
        for data in args.sets:
            photos = read(data, find_weights(args.weights), args.out)
            for budget in args.budgets:
                each = [rows_of(photos, budget, seed) for seed in args.seeds]
                report.facts[f"{data}-{budget}"] = each
                report.say(table(f"{data}, {budget} photos per class", each))


if __name__ == "__main__":
    main()
