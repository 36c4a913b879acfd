"""Loading a student's training images: our store of decoded images against ways that decode in every epoch.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.student_loading --photos ~/grocery/dataset/train --images 256
    OMP_NUM_THREADS=1 python -m benchmarks.speed.student_loading --photos ~/grocery/dataset/train --images 256 --ray

Every way yields shuffled batches of random crops as normalised float32 tensors, which are not used. The ways take
turns, one epoch each; medians of `--rounds` epochs, CPU milliseconds per image over all threads and processes, and wall
milliseconds.

- `stored`: `fgvr.training.batches.Loader` over its memory-mapped file; `first` holds the decoding.
- `decoded`: the same with `makd.cache_gb` 0: scaled JPEG decoding in every epoch.
- `plain`: Pillow and torchvision's transforms in a DataLoader (`student_plain.py`).
- `--ray`: a Ray Data pipeline that decodes and crops in its tasks, and a session for it. Its workers outlive an epoch,
  and their seconds are counted as they pass.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.speed.student_plain import plain_batches
from benchmarks.speed.student_training import job_of, measure
from benchmarks.speed.turns import Turn
from fgvr.images.pixels import TRIES, crop_box
from fgvr.training.student_data import StudentJob, open_student_data

STREAM_BLOCK = 32


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


def ray_data(job: StudentJob, reporter: Turn) -> None:
    """Ray Data: files, decoded and cropped by tasks, in batches."""
    import ray.data

    data = open_student_data(job, reporter)
    settings, preprocess = job.settings, job.spec.preprocess
    for epoch in range(settings.epochs):
        order = np.random.default_rng(epoch).permutation(data.training)
        uris = [{"uri": data.examples.uris[position]} for position in order]
        stream = ray.data.from_items(uris, override_num_blocks=-(-len(uris) // STREAM_BLOCK))
        batches = stream.map_batches(
            Crops(job), batch_size=STREAM_BLOCK, compute=ray.data.TaskPoolStrategy(size=1)
        ).iter_torch_batches(batch_size=settings.batch_size)
        reporter.report({"images": seen(preprocess.normalise(batch["pixels"]) for batch in batches)})


@dataclass(frozen=True)
class Crops:
    """Reads and crops a block of photos, as the store and the loader do; pickles."""

    job: StudentJob

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Pixels of a block of URIs."""
        from fgvr.training.image_store import StoreSettings, read_shrunk

        preprocess, random = self.job.spec.preprocess, np.random.default_rng()
        settings = StoreSettings(preprocess, self.job.limits, 0)
        pixels = []
        for uri in rows["uri"]:
            image, draw = read_shrunk(uri, settings), random.random(2 * TRIES + 3)
            box = crop_box(image.shape[0], image.shape[1], self.job.settings.min_crop, draw[:-1])
            pixels.append(preprocess.crop(image, box, flip=bool(draw[-1] < 0.5)))
        return {"pixels": np.stack(pixels)}


def seen(batches: Iterator[torch.Tensor]) -> float:
    """Images in batches that are looked at as little as a copy to a device would."""
    return float(sum(len(batch.contiguous(memory_format=torch.channels_last)) for batch in batches))


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder with one folder per class; default: drawn birds of 64 px")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ray", action="store_true")
    parser.set_defaults(backbone="resnet18", questions=50, min_crop=0.08, precision="fp32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, session() if args.ray else nullcontext():
        job = job_of(args, Path(scratch))
        nothing_stored = job.settings.model_copy(update={"cache_gb": 1e-9})
        unstored = replace(job, settings=nothing_stored, cache=str(Path(scratch) / "empty"))
        ways: dict[str, Callable[[Turn], object]] = {
            "stored": partial(ours, job),
            "decoded": partial(ours, unstored),
            "plain, no worker": partial(plain, job, 0),
            "plain, 1 worker": partial(plain, job, 1),
        }
        if args.ray:
            ways["Ray Data"] = partial(ray_data, unstored)
        costs = measure(ways, args.rounds, Path(scratch))
        size = sum(file.stat().st_size for file in (Path(scratch) / "cache").rglob("pixels.bin"))
    with harness.reporting(args) as report:
        report.say(f"{args.images} images to {args.size} px, batches of {args.batch}, {args.rounds} rounds")
        table = report.table(
            {"": "<18", "first: CPU ms/image": ">21.2f", "CPU ms/image": ">14.2f", "wall ms/image": ">15.2f"}
        )
        for name, epochs in costs.items():
            first = epochs[0].cpu / args.images * 1000
            cpu, wall = (
                statistics.median(getattr(c, k) for c in epochs[1:]) / args.images * 1000 for k in ("cpu", "wall")
            )
            table.row(name, first, cpu, wall)
        report.say(f"stored: {size / args.images / 1e3:.0f} kB per image")


def session() -> Any:
    """Two CPUs of Ray's."""
    from cluster.session import ray_session
    from fgvr.config.run import Cluster

    return ray_session(Cluster(num_cpus=2))


if __name__ == "__main__":
    main()
