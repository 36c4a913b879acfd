"""Student training on a CPU: our loop with and without aspects against a plain PyTorch loop of the same student.

    export OMP_NUM_THREADS=1
    python -m benchmarks.speed.student_training --photos ~/grocery/dataset/train          # ResNet18 at 224 px
    python -m benchmarks.speed.student_training --photos ~/grocery/dataset/train --demo   # the demo's student at 64 px
    python -m benchmarks.speed.student_training --demo                                    # the same on drawn birds

All ways run in one process, one epoch each, in random order; the first epoch of each (weights, decoded images, kernels)
is shown separately. Ratios are medians over the rounds of the ratio within a round, so that other load on the machine
matters little. `plain` decodes in each epoch (`student_plain.py`), in the training process or in a second one: the
faster of the two is compared. CPU seconds are summed over all threads and processes.

`--steps` compares single training steps with and without aspects: for a small network, memory placement makes a larger
difference between two epochs than aspects do. `student_loading.py` measures only the data, `student_device.py` the
students on a GPU.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
from benchmarks.demo_models.drawings import write_birds
from benchmarks.harness import Cost
from benchmarks.speed.student_plain import PlainLoop
from benchmarks.speed.turns import Turn
from fgvr.config import ImageLimits, Makd
from fgvr.demo.samples import class_of
from fgvr.models.student import StudentSpec, build_student, timm_preprocess
from fgvr.training.examples import Examples
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import StudentTrainer, train_student
from fgvr.training.student_data import StudentJob

WARM_UP = 10
OURS, BASE, PLAIN = "ours, aspects", "ours, no aspects", ("plain, no worker", "plain, 1 worker")


@dataclass(frozen=True)
class Photos:
    """Files with their class names."""

    uris: list[str]
    classes: list[str]


def photos(source: Path | None, count: int, folder: Path) -> Photos:
    """`count` photos spread over the files below `source`, of the class of their folder; else drawn birds."""
    if source is None:
        classes = [str(class_of(0, "train", number)) for number in range(count)]
        return Photos(write_birds(folder, count), classes)
    files = sorted(source.rglob("*.jp*g"))
    if len(files) < count:
        raise SystemExit(f"{source} holds {len(files)} JPEG files, --images asks for {count}")
    chosen = [files[number * len(files) // count] for number in range(count)]
    return Photos([str(file) for file in chosen], [file.parent.name for file in chosen])


def job_of(args: argparse.Namespace, folder: Path) -> StudentJob:
    """A training on photos with made-up answers to `args.questions` questions."""
    found = photos(args.photos, args.images, folder)
    labels = tuple(sorted(set(found.classes)))
    p_yes = np.random.default_rng(0).random((args.images, args.questions), dtype=np.float32)
    classes = np.array([labels.index(name) for name in found.classes])
    examples = Examples(np.arange(args.images), found.uris, classes, p_yes, np.zeros(args.images, dtype=bool), "v1")
    examples.write(str(folder / "examples.parquet"))
    recipe = Makd(
        backbone=args.backbone,
        image_size=args.size,
        min_crop=args.min_crop,
        batch_size=args.batch,
        epochs=args.rounds + 1,
        precision=args.precision,
    )
    questions = tuple(f"Question {number}?" for number in range(args.questions))
    spec = StudentSpec(args.backbone, labels, questions, timm_preprocess(args.backbone, args.size))
    return StudentJob(str(folder / "examples.parquet"), spec, recipe, ImageLimits(), cache=str(folder / "cache"))


def without_aspects(job: StudentJob) -> StudentJob:
    """The base student."""
    settings = job.settings.model_copy(update={"alpha": 0.0})
    return replace(job, spec=replace(job.spec, questions=()), settings=settings)


def parameters(job: StudentJob) -> int:
    """Numbers that the student learns."""
    return sum(weight.numel() for weight in build_student(job.spec).parameters())


def measure(ways: dict[str, Callable[[Turn], object]], rounds: int, folder: Path) -> dict[str, list[Cost]]:
    """Each way's epochs, the first included; in another order each round, since who was before leaves its traces."""
    turns = {name: Turn(loop, folder / str(number)) for number, (name, loop) in enumerate(ways.items())}
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in random.Random(number).sample(list(ways), len(ways)):
            costs[name].append(turns[name].epoch())
    for turn in turns.values():
        turn.finish()
    return costs


def epochs(costs: dict[str, list[Cost]], images: int, table: harness.Table) -> None:
    """A row for each way."""
    for name, of_way in costs.items():
        cpu = statistics.median(cost.cpu for cost in of_way[1:]) / images
        wall = statistics.median(cost.wall for cost in of_way[1:]) / images
        table.row(name, of_way[0].cpu, cpu * 1000, 1 / cpu, wall * 1000)


def ratio(costs: dict[str, list[Cost]], one: str, other: str, clock: str) -> tuple[float, float, float]:
    """Cost of one way over that of another: median over the rounds, and the quartiles."""
    ours, theirs = ([getattr(cost, clock) for cost in costs[name][1:]] for name in (one, other))
    return harness.paired_ratio(ours, theirs)


def step_ratio(job: StudentJob, base: StudentJob, steps: int, folder: Path) -> tuple[float, float, float]:
    """Cost of a training step with aspects over one without: the two take turns, each on one batch of its own."""
    trainings = [StudentTrainer(each, LocalReporter(folder / str(number))) for number, each in enumerate((job, base))]
    batches = [
        next(iter(each.data.loader.training(each.data.training, job.settings.batch_size, 0, 0))) for each in trainings
    ]
    costs: list[list[float]] = [[], []]
    for number in range(steps + WARM_UP):
        for which in (0, 1) if number % 2 else (1, 0):
            before = time.thread_time()
            trainings[which].learn(batches[which])  # what is compared, without loading
            costs[which].append(time.thread_time() - before)
    return harness.paired_ratio(*(of_one[WARM_UP:] for of_one in costs))


def arguments() -> argparse.Namespace:
    """The command line; `--demo` sets the demo's student."""
    parser = harness.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder with one folder per class; default: drawn birds of 64 px")
    parser.add_argument("--demo", action="store_true", help="the demo's student: test_byobnet, 64 px, batches of 32")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=32, help="per epoch; at least two of each batch")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--min-crop", type=float, default=0.08)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=0, help="compare this many single steps with aspects and without")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of our loop")
    args = parser.parse_args()
    if args.demo:
        args.backbone, args.size, args.batch, args.min_crop = "test_byobnet", 64, 32, 0.5
    return args


def main() -> None:
    """Command line: see the module's docstring."""
    args = arguments()
    torch.set_num_threads(1)
    with harness.reporting(args) as report, tempfile.TemporaryDirectory() as scratch:
        job = job_of(args, Path(scratch))
        base = without_aspects(job)
        if args.steps:
            found = step_ratio(job, base, args.steps, Path(scratch))
            report.say("CPU of a step, aspects / none {:.3f} ({:.3f}-{:.3f})".format(*found))
            return
        compare(job, base, args, Path(scratch), report)


def compare(job: StudentJob, base: StudentJob, args: argparse.Namespace, folder: Path, report: harness.Report) -> None:
    """Epochs of all ways, and their ratios."""
    ways: dict[str, Callable[[Turn], object]] = {
        OURS: partial(train_student, job),
        BASE: partial(train_student, base),
        **{name: PlainLoop(job, workers) for workers, name in enumerate(PLAIN)},
    }
    costs = measure(ways, args.rounds, folder)
    source = "drawn birds" if args.photos is None else str(args.photos.name)
    report.say(
        f"{args.backbone} at {args.size} px, batches of {args.batch}, {args.images} images per epoch ({source}),"
    )
    report.say(f"{args.rounds} rounds, ours in {args.precision}, Q = {args.questions}, one thread for the network")
    heads = {
        "": "<18",
        "first: CPU s": ">14.1f",
        "CPU ms/image": ">14.2f",
        "images/CPU s": ">14.1f",
        "wall ms/image": ">15.2f",
    }
    epochs(costs, args.images, report.table(heads))
    more, of = parameters(job) - parameters(base), parameters(base)
    report.say(f"aspect outputs: {more:,} parameters beside {of:,} ({more / of:.2%})")
    for clock in ("cpu", "wall"):
        quicker = min(PLAIN, key=lambda name: statistics.median(getattr(cost, clock) for cost in costs[name][1:]))
        report.say(
            f"{clock:<5}"
            + "aspects / none {:.3f} ({:.3f}-{:.3f})".format(*ratio(costs, OURS, BASE, clock))
            + "   {} / ours {:.2f} ({:.2f}-{:.2f})".format(quicker, *ratio(costs, quicker, OURS, clock))
        )


if __name__ == "__main__":
    main()
