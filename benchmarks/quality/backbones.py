"""Small backbones as students on real photos: nine of three families on birds, and three on clothes of other people.

    python -m benchmarks.quality.backbones                    # both, on one core about 15 minutes
    python -m benchmarks.quality.backbones --only clothing

Data: `$FGVR_DATA/birds`, the first ten species by name with 30 training photos each, tested on all their test photos;
and `$FGVR_DATA/clothing` without the labels "Not sure", "Skip" and "Other", where the photos of two people, fixed
before anything was measured (the two who sent most), are learned from by nobody and are the test across sources. A
third of the others' photos are the test within. All nets start from random weights, with one recipe that no test photo
has chosen, at 64 pixels. So few photos and epochs rank nothing for anybody with more of them, or with pretrained
weights: what is shown is the stage `compare` at work, the costs, and how wide the intervals are.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import harness
from benchmarks.papers.data_sets import ending_in_words
from benchmarks.quality.clothing import NO_NAMES, read_rows
from cluster.console import show_progress
from cluster.run import open_run
from cluster.session import ray_session
from fgvr.config import build
from fgvr.report.comparison import COSTS, QUALITY, ComparisonPage
from pipelines.compare import comparison_page
from pipelines.run_tables import Run

BIRDS: Final = harness.DATA / "birds"
SPECIES, PER_SPECIES = 10, 30
PEOPLE: Final = 2
TEST_SHARE: Final = 1 / 3
NINE: Final = (
    *("mobilenetv3_small_100", "regnety_002", "resnet10t"),  # convolutional
    *("vit_tiny_patch16_224", "pit_ti_224"),  # attention over all patches
    *("convit_tiny", "coat_lite_tiny", "mobilevit_xxs", "edgenext_xx_small"),  # attention with locality
)
THREE: Final = ("mobilenetv3_small_100", "vit_tiny_patch16_224", "convit_tiny")
RECIPE: Final = {
    "target": "true",
    "images": "all",
    "image_size": 64,
    "resize": 64,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "min_crop": 0.35,
    "validation_share": 0,
    "alpha": 0,
    "workers": {"num_cpus": 1},
}
Listed = Sequence[Mapping[str, str]]


def bird_rows() -> Listed:
    """Photos of the first species by name: 30 to learn from, and all test photos."""
    with (BIRDS / "birds.csv").open(newline="") as listed:
        rows = [{**row, "uri": str(BIRDS / row["uri"])} for row in csv.DictReader(listed)]
    species = sorted({row["class_name"] for row in rows})[:SPECIES]
    taken, kept = Counter[str](), []
    for row in rows:
        name = row["class_name"]
        taken[name] += row["split"] == "train"
        if name in species and (row["split"] == "test" or taken[name] <= PER_SPECIES):
            kept.append({**row, "sender_id": ""})
    return kept


def clothing_rows() -> tuple[Listed, tuple[str, ...]]:
    """Photos with a name, two thirds to learn from; and the people whose photos are the test across sources."""
    rows = [row for row in read_rows() if row["class_name"] not in NO_NAMES]
    counts = Counter(row["sender_id"] for row in rows)
    people = tuple(sender for sender, _ in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:PEOPLE])
    tested = np.random.default_rng(0).random(len(rows)) < TEST_SHARE
    split = [{**row, "split": "test" if test else "train"} for row, test in zip(rows, tested.tolist(), strict=True)]
    return split, people


def compared(out: Path, name: str, rows: Listed, changes: Mapping[str, Any], makd: Mapping[str, Any]) -> ComparisonPage:
    """The stage's own result on these photos, in the run `name`."""
    file = out / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as listed:
        writer = csv.DictWriter(listed, ["uri", "split", "class_name", "sender_id"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    tree = {
        "run": {"name": name, "folder": str(out)},
        "tracking": {"log_models": False},
        "ingest": {"source": {"kind": "table", "path": str(file), "metadata_columns": ["sender_id"]}},
        "makd": {**RECIPE, **makd},
        "compare": dict(changes),
        "cluster": {"num_cpus": 1},
    }
    config = build(tree)
    with ray_session(config.cluster), open_run(config) as context:
        run = Run(context)
        return comparison_page(run, run.table("comparison"))


def tables(page: ComparisonPage) -> str:
    """The page's numbers in Markdown."""
    said = []
    for source in page.sources:
        lines = [
            harness.Line(line.model, tuple(line.quality[source][name].text(_digits(name)) for name in QUALITY))
            for line in page.lines
        ]
        said.append(harness.markdown(f"on {source}", list(QUALITY.values()), lines))
    costs = [harness.Line(line.model, tuple(line.costs[name].short() for name in COSTS)) for line in page.lines]
    said.append(harness.markdown("costs", list(COSTS.values()), costs))
    said.append(page.choice.words if page.choice is not None else "nothing is recommended")
    return "\n".join(said)


def _digits(metric: str) -> int:
    return 3 if metric == "silhouette" else 1


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--only", choices=("birds", "clothing"), help="one data set; default: both")
    parser.add_argument("--out", type=Path, default=Path("runs/backbones"), help="folder of runs; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=12, help="on birds, on clothing a third; default: %(default)s")
    args = parser.parse_args(arguments)
    show_progress()
    out = args.out.expanduser().absolute()
    with ending_in_words(), harness.reporting(args) as report:
        if args.only != "clothing":
            page = compared(out, "birds", bird_rows(), {"models": NINE, "seeds": 3}, {"epochs": args.epochs})
            report.say(tables(page))
        if args.only != "birds":
            rows, people = clothing_rows()
            test = {"models": THREE, "seeds": 3, "test_column": "sender_id", "test_values": people}
            makd = {"epochs": max(2, args.epochs // 3), "fraction": 0.5}
            report.say(tables(compared(out, "clothing", rows, test, makd)))


if __name__ == "__main__":
    main()
