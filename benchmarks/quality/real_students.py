"""Students on few real photos: aspects, pseudo-labels, names of a head and teachers, each beside the student without.

    python -m benchmarks.quality.real_students --tables makd            # five seeds
    python -m benchmarks.quality.real_students --tables scratch --seeds 0
    python -m benchmarks.quality.real_students --set grocery --tables makd

Data: `$FGVR_DATA/birds` (100 species; questions and noise: `bird_field_marks`) or `$FGVR_DATA/grocery-store` (81
products; `benchmarks/grocery/questions.csv`, with the same noise) or `$FGVR_DATA/clothing` (17 pieces, split by sender;
without questions, so only for `semi` and `pool`). Students start from EfficientNet-Lite0's ImageNet
weights (`lite0_weights`, or `--weights`) and learn from `--per-class` photos of each class of the training split; top-1
is that on `--tested` photos of the test split, the same for all. A seed draws the photos, the noise of the answers, the
classifier and the order of training. No MLLM is asked. Tables:

- `makd`: with aspects, with random numbers in their place, and where the classifier alone learns;
- `scratch`: the same for a small network from random weights on the whole training split;
- `semi`: a student of the labelled photos goes on with pseudo-labels of all photos of the training split whose class is
  not given, as in Semi-ViT, or without them, for as many views of labelled photos;
- `pool`: prototypes of whitened vectors name the whole training split, and a student learns these names;
- `teachers`: a student that knows all true classes teaches by KD or DKD, with aspects and without.

Differences are paired by seed with the first row (`pool`: the head; within KD and DKD read the rows beside each other);
in brackets the 95% interval of their mean, resampled over seeds. The recipe was chosen for classes alone, on photos of
the training split that no student learned from (docs/pretrained.md); those of `scratch` and of a trainer are defaults.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import harness
from benchmarks.grocery.questions import read_table
from benchmarks.papers.near_rows import Row
from benchmarks.papers.near_runs import Measured
from benchmarks.quality import clothing
from benchmarks.quality.bird_field_marks import noisy_answers, truth_of
from benchmarks.quality.photo_tables import find_weights, gap_table
from benchmarks.quality.student_runs import FINE, Photos, StudentRuns, drawn, lite0_options
from fgvr.arrays import NONE, Floats, Ids
from fgvr.config.data import LayoutSource
from fgvr.heads.calibration import fit_temperature
from fgvr.heads.networks import SCALE
from fgvr.heads.prototypes import left_out_cosines, prototypes
from fgvr.selection.whitening import fit_whitening
from fgvr.sources.source import read_source
from fgvr.training.assemble import random_p_yes

TABLES: Final = ("makd", "scratch", "semi", "pool", "teachers")
SMALL: Final = "test_byobnet"
"""The network of `scratch`: a step from random weights costs a tenth of EfficientNet-Lite0's."""
SMALL_SIZE: Final = 64
"""Its input in pixels."""
ADAMW: Final = {"optimizer": "adamw", "lr": 5e-3, "weight_decay": 0.05}
FROZEN: Final = {**ADAMW, "freeze_epochs": 10_000}
"""The classifier alone learns."""
FROZEN_SHARE: Final = 1 / 3
"""Share of the epochs in which the classifier alone learns, where the whole network learns afterwards."""
SCRATCH: Final = {"lr": 0.05, "schedule": "cosine", "warmup_epochs": 1, "min_crop": 0.35, "validation_share": 0}


@dataclass(frozen=True)
class RealSet:
    """Photos with the truth about them.

    Attributes:
        names: of the C classes.
        train: photos to learn from.
        test: photos to score on.
        truth: bool [C, Q], the right answers about each class.
    """

    names: tuple[str, ...]
    train: Photos
    test: Photos
    truth: np.ndarray


def read_birds() -> RealSet:
    """The birds, with their field marks."""
    folder = harness.DATA / "birds"
    with (folder / "birds.csv").open(newline="", encoding="utf-8") as listed:
        rows = [(row["split"], str(folder / row["uri"]), row["class_name"]) for row in csv.DictReader(listed)]
    return _parted(rows, truth_of)


def read_grocery() -> RealSet:
    """The groceries, with the questions of the Grocery benchmark."""
    source = LayoutSource(name="grocery", path=str(harness.DATA / "grocery-store"))
    rows = [(row["split"], row["uri"], row["class_name"]) for row in read_source(source, "").rows.to_pylist()]
    return _parted(rows, lambda names: read_table().about(tuple(names)))


def read_clothing() -> RealSet:
    """Clothes whose label names a piece of clothing, split by the people who sent the photos; without questions."""
    rows = [row for row in clothing.read_rows() if row["class_name"] not in clothing.NO_NAMES]
    tested = clothing.test_senders(rows, 0)
    listed = [("test" if row["sender_id"] in tested else "train", row["uri"], row["class_name"]) for row in rows]
    return _parted(listed, lambda names: np.zeros((len(names), 0), bool))


def _parted(rows: Sequence[tuple[str, str, str]], truth: Callable[[Sequence[str]], np.ndarray]) -> RealSet:
    """From split, URI and class name of every photo."""
    names = tuple(sorted({name for _, _, name in rows}))
    ids = {name: place for place, name in enumerate(names)}

    def of(split: str) -> Photos:
        found = [(uri, ids[name]) for each, uri, name in rows if each == split]
        return Photos(tuple(uri for uri, _ in found), np.array([label for _, label in found], np.int64))

    return RealSet(names, of("train"), of("test"), truth(names))


SETS: Final[Mapping[str, Callable[[], RealSet]]] = {
    "birds": read_birds,
    "grocery": read_grocery,
    "clothing": read_clothing,
}


@dataclass(frozen=True)
class Head:
    """What a head says.

    Attributes:
        top1: its accuracy on the test photos, in percent.
        names: class of each photo of the training split, int64 [N].
        confidence: probability of this class, float [N].
    """

    top1: float
    names: Ids
    confidence: Floats


def tested_on(data: RealSet, most: int, *, held_out: bool) -> RealSet:
    """With so many test photos, drawn at random; `held_out`: half of the training split in place of the test split."""
    if held_out:
        halves = np.array_split(np.random.default_rng(3).permutation(len(data.train)), 2)
        data = replace(data, train=data.train.take(halves[0]), test=data.train.take(halves[1]))
    return replace(data, test=data.test.take(np.random.default_rng(5).permutation(len(data.test))[:most]))


class Tables:
    """The rows of each table at one seed: label → top-1 in percent."""

    def __init__(
        self, data: RealSet, args: argparse.Namespace, folder: Path, say: Callable[[str], None] = print
    ) -> None:
        """`folder`: for teachers; `say` is told each result as it comes."""
        self.data, self._args, self._folder, self._say = data, args, folder, say
        self.runs = StudentRuns(data.names, data.test, find_weights(args.weights))
        self._vectors: tuple[Floats, Floats] | None = None

    def rows(self, table: str, seed: int) -> dict[str, float]:
        """Train and score all rows of a table."""
        found: dict[str, float] = {}
        shared = {**lite0_options(self._args.size), "epochs": self._args.epochs, "seed": seed}
        self._fine = {**shared, **FINE, "freeze_epochs": round(FROZEN_SHARE * self._args.epochs)}
        self._frozen = {**shared, **FROZEN}
        for label, measure in getattr(self, f"_{table}")(seed).items():
            if self._args.rows and label not in self._args.rows:
                continue
            began = time.monotonic()
            found[label] = measure()
            self._say(f"seed {seed}, {table}, {label}: {found[label]:.1f} ({time.monotonic() - began:.0f} s)")
        return found

    def _answered(self, seed: int) -> Photos:
        """The photos of the training split, with answers."""
        train = self.data.train
        return replace(train, p_yes=noisy_answers(self.data.truth, train.classes, seed))

    def _few(self, seed: int) -> Ids:
        return drawn(self.data.train.classes, self._args.per_class, seed)

    def _makd(self, seed: int) -> dict[str, Callable[[], float]]:
        learned = self._answered(seed).take(self._few(seed))
        return {
            **self._with_aspects(learned, self._fine, seed),
            "the classifier alone": lambda: self.runs.top1(self._frozen, learned),
        }

    def _scratch(self, seed: int) -> dict[str, Callable[[], float]]:
        options = {**SCRATCH, "backbone": SMALL, "image_size": SMALL_SIZE, "epochs": self._args.epochs, "seed": seed}
        return self._with_aspects(self._answered(seed), options, seed)

    def _with_aspects(self, learned: Photos, options: Mapping[str, Any], seed: int) -> dict[str, Callable[[], float]]:
        p_yes = random_p_yes(np.arange(len(learned)), self.data.truth.shape[1], seed)
        rows: dict[str, tuple[float, Photos]] = {
            "classes alone": (0, learned),
            "aspects, α = 4": (4, learned),
            "random aspects, α = 4": (4, replace(learned, p_yes=p_yes)),
            "aspects, α = 1": (1, learned),
        }

        def row(alpha: float, photos: Photos) -> Callable[[], float]:
            return lambda: self.runs.top1({**options, "alpha": alpha}, photos)

        return {label: row(alpha, photos) for label, (alpha, photos) in rows.items()}

    def _semi(self, seed: int) -> dict[str, Callable[[], float]]:
        train, few = self.data.train, self._few(seed)
        partly = replace(train, classes=np.where(np.isin(np.arange(len(train)), few), train.classes, NONE))
        # Half of a step has labels, so that all students see the labelled photos about equally often.
        epochs = max(1, round(2 * self._args.epochs * len(few) / len(train)))
        folder = self._folder / f"plain-{seed}"

        def plain() -> float:
            return self.runs.top1(self._fine, train.take(few), keep=folder)

        def further(photos: Photos, **options: Any) -> Callable[[], float]:
            def top1() -> float:
                if not folder.exists():  # its row was not asked for
                    plain()
                return self.runs.top1({**self._fine, "weights": str(folder), "freeze_epochs": 0, **options}, photos)

            return top1

        def semi(weight: float) -> Callable[[], float]:
            return further(partly, trainer="semi", semi={"ratio": 1, "weight": weight}, epochs=epochs)

        return {
            "plain": plain,
            "plain, trained further": further(train.take(few)),
            "semi from plain, weight 1": semi(1),
            "semi from plain, weight 5": semi(5),
        }

    def _pool(self, seed: int) -> dict[str, Callable[[], float]]:
        train, few = self.data.train, self._few(seed)
        labels = np.full(len(train), NONE)
        labels[few] = train.classes[few]
        head = self._head(labels)
        named = replace(train, classes=np.where(labels == NONE, head.names, labels))
        weighted = replace(named, weights=np.where(labels == NONE, head.confidence, 1).astype(np.float32))
        self._say(
            f"seed {seed}, pool: {100 * float((named.classes == train.classes).mean()):.1f} of 100 names are right"
        )
        whole, frozen = self._whole_split(), {**self._frozen, "epochs": self._args.pool_epochs}
        return {
            "head": lambda: head.top1,
            "student": lambda: self.runs.top1(whole, named),
            "student, by confidence": lambda: self.runs.top1(whole, weighted),
            "by confidence, the classifier alone": lambda: self.runs.top1(frozen, weighted),
        }

    def _whole_split(self) -> dict[str, Any]:
        """The recipe of the whole network for students of the whole training split."""
        epochs = self._args.pool_epochs
        return {**self._fine, "epochs": epochs, "freeze_epochs": round(FROZEN_SHARE * epochs)}

    def _head(self, labels: Ids) -> Head:
        """Prototypes of the labelled photos, and what they say of all photos; `labels`: int64 [N], or `NONE`."""
        if self._vectors is None:
            train, test = (self.runs.vectors(photos, self._args.size) for photos in (self.data.train, self.data.test))
            space = fit_whitening(train, threads=1)
            self._vectors = space.apply(train), space.apply(test)
        vectors, tested = self._vectors
        count = len(self.data.names)
        made = prototypes(vectors, labels, count)
        cosines, own = left_out_cosines(vectors, labels, count, np.flatnonzero(labels != NONE))
        heat = fit_temperature(SCALE * cosines[None], own)
        logits = SCALE / heat * (vectors @ made.directions.T)
        likely = np.exp(logits - logits.max(axis=1, keepdims=True))
        found = made.label_ids[(tested @ made.directions.T).argmax(axis=1)]
        right = 100 * float((found == self.data.test.classes).mean())
        return Head(right, made.label_ids[logits.argmax(axis=1)], 1 / likely.sum(axis=1))

    def _teachers(self, seed: int) -> dict[str, Callable[[], float]]:
        learned = self._answered(seed).take(self._few(seed))
        folder = self._folder / f"teacher-{seed}"
        options = {**self._whole_split(), "image_size": self._args.teacher_size}
        kinds: dict[str, dict[str, Any]] = {"KD": {"kind": "kd"}, "DKD": {"kind": "dkd", "warmup_epochs": 1}}

        def teacher() -> float:
            return self.runs.top1(options, self.data.train, keep=folder)

        def taught(kind: str, alpha: float) -> Callable[[], float]:
            distillation = {**kinds[kind], "teacher": str(folder)}

            def top1() -> float:
                if not folder.exists():  # its row was not asked for
                    teacher()
                return self.runs.top1({**self._fine, "distillation": distillation, "alpha": alpha}, learned)

            return top1

        return {
            "classes alone": lambda: self.runs.top1(self._fine, learned),
            "teacher": teacher,
            **{kind: taught(kind, 0) for kind in kinds},
            **{f"{kind}, aspects, α = 4": taught(kind, 4) for kind in kinds},
        }


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=range(5))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["makd"], help="default: %(default)s")
    parser.add_argument("--set", choices=SETS, default="birds", help="default: %(default)s")
    parser.add_argument("--weights", type=Path, help="the package's .pth file; default: of the installed package")
    parser.add_argument("--per-class", type=int, default=5, help="labelled photos of each class; default: %(default)s")
    parser.add_argument("--tested", type=int, default=1000, help="photos of the test split; default: %(default)s")
    parser.add_argument("--size", type=int, default=96, help="side of the input in pixels; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--pool-epochs", type=int, default=8, help="of the whole training split; default: %(default)s")
    parser.add_argument("--teacher-size", type=int, default=128, help="the teacher's input; default: %(default)s")
    parser.add_argument("--rows", nargs="+", metavar="LABEL", help="rows of exactly these labels; default: all")
    parser.add_argument(
        "--held-out", action="store_true", help="score on other photos of the training split: to choose"
    )
    args = parser.parse_args()
    unasked = {"makd", "scratch", "teachers"} & set(args.tables) if args.set == "clothing" else set()
    if unasked:
        parser.error(f"{', '.join(sorted(unasked))}: nobody wrote questions about clothing; its tables: semi, pool")
    data = tested_on(SETS[args.set](), args.tested, held_out=args.held_out)
    with harness.reporting(args) as report, tempfile.TemporaryDirectory() as place:
        tables = Tables(data, args, Path(place), report.say)
        for table in args.tables:
            each = [tables.rows(table, seed) for seed in args.seeds]
            report.facts[table] = each
            rows = [Row(label, "student") for label in each[0]]
            measured = [{label: Measured({"top1": value}) for label, value in of_seed.items()} for of_seed in each]
            report.say(gap_table(f"{args.set}, {table}", ("top1",), rows, measured, rows[0].label))


if __name__ == "__main__":
    main()
