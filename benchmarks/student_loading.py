"""A student's training images alone: our store of decoded images beside ways that decode in every epoch.

    OMP_NUM_THREADS=1 python benchmarks/student_loading.py --photos ~/grocery/dataset/train --images 256

Every way gives shuffled batches of random crops as normalised float32 tensors, to nobody. They take turns, an epoch
each; medians of `--rounds` epochs, CPU milliseconds an image of all threads and processes, and wall milliseconds.

- `stored`: `fgvr.training.batches.Loader` over its memory-mapped file; `first` holds the decoding.
- `decoded`: the same with `makd.cache_gb` 0: scaled JPEG decoding in every epoch.
- `plain`: Pillow and torchvision's transforms in a DataLoader (`student_plain.py`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from student_plain import plain_batches
from student_training import job_of, measure
from turns import Turn

from fgvr.training.student_data import StudentJob, open_student_data


def ours(job: StudentJob, reporter: Turn) -> None:
    """Crops from the store, or decoded anew where its bound leaves images out."""
    data = open_student_data(job, reporter)
    settings, preprocess = job.settings, job.spec.preprocess
    for epoch in range(settings.epochs):
        batches = data.loader.training(data.training, settings.batch_size, settings.seed, epoch)
        reporter.report({"images": seen(preprocess.normalise(batch.pixels) for batch in batches)})


def plain(job: StudentJob, workers: int, reporter: Turn) -> None:
    """The DataLoader of the plain loop."""
    batches = plain_batches(job, workers)
    for _ in range(job.settings.epochs):
        reporter.report({"images": seen(images for images, _, _ in batches)})


def seen(batches: Iterator[torch.Tensor]) -> float:
    """Images in batches that are looked at as little as a copy to a device would."""
    return float(sum(len(batch.contiguous(memory_format=torch.channels_last)) for batch in batches))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder with a folder a class; default: drawn birds of 64 px")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.set_defaults(backbone="resnet18", questions=50, min_crop=0.08, precision="fp32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        job = job_of(args, Path(scratch))
        nothing_stored = job.settings.model_copy(update={"cache_gb": 1e-9})
        unstored = replace(job, settings=nothing_stored, cache=str(Path(scratch) / "empty"))
        ways: dict[str, Callable[[Turn], None]] = {
            "stored": partial(ours, job),
            "decoded": partial(ours, unstored),
            "plain, no worker": partial(plain, job, 0),
            "plain, 1 worker": partial(plain, job, 1),
        }
        costs = measure(ways, args.rounds, Path(scratch))
        size = sum(file.stat().st_size for file in (Path(scratch) / "cache").rglob("pixels.bin"))
    print(f"{args.images} images to {args.size} px, batches of {args.batch}, {args.rounds} rounds")
    print(f"{'':<18}{'first: CPU ms/image':>21}{'CPU ms/image':>14}{'wall ms/image':>15}")
    for name, epochs in costs.items():
        first = epochs[0].cpu / args.images * 1000
        cpu, wall = (statistics.median(getattr(c, k) for c in epochs[1:]) / args.images * 1000 for k in ("cpu", "wall"))
        print(f"{name:<18}{first:>21.2f}{cpu:>14.2f}{wall:>15.2f}")
    print(f"stored: {size / args.images / 1e3:.0f} kB an image")


if __name__ == "__main__":
    main()
