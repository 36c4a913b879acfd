"""A student over JPEG files on one core: our worker, plain loops with Pillow and a DataLoader, a naive Ray Data job.

    python -m benchmarks.speed.batch_inference --images 384 --rounds 3
    python -m benchmarks.speed.batch_inference --student demo --size 640 480 --ways ours "Pillow, draft"
    python -m benchmarks.speed.batch_inference --student demo --size 3000 2000 --images 160 --ways ours "Pillow, draft"
    python -m benchmarks.speed.batch_inference --photos ~/grocery/dataset/test

Each way runs in a process of its own that is pinned to one core with all its children, and the ways take turns.
Measured are images per second between the first and the last batch, and CPU milliseconds per image over all processes
in that time; ratios are medians over the rounds of the ratio within a round.

- `ours`: the worker of pipelines/infer.py, with its threads.
- `Pillow, draft`: a loop over the files in which Pillow decodes at the smallest scale that holds the model's input
  (`Image.draft`) and resizes; the model as below. No limits, no EXIF, no reasons; other pixels than in training.
- `DataLoader`: Pillow, torchvision's transforms, timm's model in PyTorch's own memory order, `inference_mode`; with no
  worker process, and with one: the better is compared.
- `read_images`: `ray.data.read_images(size=…).map_batches(model)`, an actor that holds the model; CPU seconds of Ray's
  own processes are counted only as far as they are the job's children.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from benchmarks import harness
from fgvr.config import ImageLimits
from fgvr.demo.samples import DEMO_DIFFICULTY, sample
from fgvr.models.infer import InferSettings, InferWorker
from fgvr.models.student import StudentSpec, build_student, load_student, save_student, timm_preprocess

BATCH, WAYS = 32, ("ours", "Pillow, draft", "DataLoader, no worker", "DataLoader, 1 worker", "read_images")
PART = 4 * BATCH  # of our worker, which makes its own batches in it, by its own defaults
STUDENTS = {"resnet18": ("resnet18", 224), "demo": ("test_byobnet", 64), "lite0": ("tf_efficientnet_lite0", 160)}


def draw(folder: Path, count: int, width: int, height: int) -> None:
    """Photos: drawn birds, enlarged, with a camera's noise."""
    for number in range(count):
        bird = Image.fromarray(sample(0, "train", number, difficulty=DEMO_DIFFICULTY).image).resize((width, height))
        noise = np.random.default_rng(number).normal(0, 6, (height, width, 3))
        pixels = np.clip(np.asarray(bird) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.jpg", quality=90)


def ours(model: Path, files: list[str]) -> Iterator[int]:
    """Images of each part, by our worker."""
    worker = InferWorker(InferSettings(str(model), ImageLimits(), device="cpu", threads=1))
    for start in range(0, len(files), PART):
        some = files[start : start + PART]
        rows = worker.process(pa.table({"image_id": range(start, start + len(some)), "uri": some}))
        yield rows.num_rows


class Plain:
    """A plain loop, as in most scripts."""

    def __init__(self, model: str) -> None:
        spec, network = load_student(Path(model))
        self.network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (spec.preprocess.mean, spec.preprocess.std))

    @torch.inference_mode()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Labels of a batch of pixels, uint8 [N, S, S, 3]."""
        pixels = torch.from_numpy(np.ascontiguousarray(batch["image"])).permute(0, 3, 1, 2).float() / 255
        scores = self.network(((pixels - self.mean) / self.std).contiguous()).softmax(dim=1)
        return {"label": scores.argmax(dim=1).numpy()}


def drafts(model: Path, files: list[str]) -> Iterator[int]:
    """Images of each batch, decoded by Pillow at a small scale."""
    side, network = load_student(model)[0].preprocess.input_size, Plain(str(model))
    for start in range(0, len(files), BATCH):
        pixels = []
        for file in files[start : start + BATCH]:
            with Image.open(file) as image:
                image.draft("RGB", (side, side))
                pixels.append(np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)))
        yield len(network({"image": np.stack(pixels)})["label"])


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """Photos through torchvision's transforms."""

    def __init__(self, files: list[str], spec: StudentSpec) -> None:
        from torchvision import transforms

        self.files = files
        side = spec.preprocess.input_size
        steps = [transforms.Resize(side), transforms.CenterCrop(side), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize(spec.preprocess.mean, spec.preprocess.std)])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> torch.Tensor:
        with Image.open(self.files[place]) as image:
            pixels: torch.Tensor = self.transform(image.convert("RGB"))
        return pixels


def loader(model: Path, files: list[str], workers: int) -> Iterator[int]:
    """Images of each batch of a DataLoader."""
    network = Plain(str(model)).network
    spec, _ = load_student(model)
    for batch in torch.utils.data.DataLoader(Files(files, spec), batch_size=BATCH, num_workers=workers):
        with torch.inference_mode():
            network(batch).softmax(dim=1).argmax(dim=1).numpy()
        yield len(batch)


def read_images(model: Path, files: list[str]) -> Iterator[int]:
    """Images of each batch of a Ray Data job."""
    import ray.data

    from cluster.session import ray_session
    from fgvr.config.run import Cluster

    # Two of Ray's CPUs, so that reading and the model's actor can run at the same time, on the one core.
    with ray_session(Cluster(num_cpus=2)):
        side = load_student(model)[0].preprocess.input_size
        images = ray.data.read_images(files, size=(side, side), mode="RGB", override_num_blocks=len(files) // BATCH)
        answers = images.map_batches(
            Plain, fn_constructor_args=(str(model),), batch_size=BATCH, compute=ray.data.ActorPoolStrategy(size=1)
        )
        for batch in answers.iter_batches(batch_size=BATCH):
            yield len(batch["label"])


def measure(way: str, model: Path, files: list[str]) -> tuple[float, float]:
    """Images per second and CPU ms per image, from the end of the first batch to that of the last."""
    ways: dict[str, Callable[[], Iterator[int]]] = {
        "ours": lambda: ours(model, files),
        "Pillow, draft": lambda: drafts(model, files),
        "DataLoader, no worker": lambda: loader(model, files, 0),
        "DataLoader, 1 worker": lambda: loader(model, files, 1),
        "read_images": lambda: read_images(model, files),
    }
    batches = ways[way]()
    next(batches)
    wall, cpu, images = time.monotonic(), harness.cpu_seconds(), 0
    for count in batches:
        images += count
        end, spent = time.monotonic(), harness.cpu_seconds()
    return images / (end - wall), (spent - cpu) / images * 1000


def in_own_process(way: str, folder: Path, photos: Path) -> tuple[float, float]:
    """What `measure` gives in a process of its own on one core."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    rate, cpu = harness.again("--measure", way, "--folder", folder, "--photos", photos, environment=threads)
    return rate, cpu


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files; default: drawn ones")
    parser.add_argument("--student", choices=STUDENTS, default="resnet18", help="architecture and input size")
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), help="width and height of the drawn photos")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--measure", choices=WAYS, help=harness.HIDDEN)
    parser.add_argument("--folder", type=Path, help=harness.HIDDEN)
    args = parser.parse_args()
    if args.images <= PART:
        parser.error(f"--images: more than {PART}, the images per part, since the first part is not counted")
    if args.measure:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
        files = sorted(str(file) for file in args.photos.rglob("*.jpg"))
        harness.answer(measure(args.measure, args.folder / "student", files))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "photos").mkdir()
        if args.photos is None:
            draw(folder / "photos", args.images, *args.size)
        else:
            for place, file in enumerate(sorted(args.photos.rglob("*.jpg"))[: args.images]):
                (folder / "photos" / f"{place:05d}.jpg").symlink_to(file.absolute())
        backbone, side = STUDENTS[args.student]
        spec = StudentSpec(backbone, tuple(str(n) for n in range(100)), (), timm_preprocess(backbone, side))
        save_student(folder / "student", spec, build_student(spec).state_dict(), {})
        ways = {way: partial(in_own_process, way, folder, folder / "photos") for way in args.ways}
        found = harness.take_turns(ways, args.rounds)
    with harness.reporting(args) as report:
        report.say(
            f"{args.images} photos, {backbone} at {side} px, plain loops in batches of {BATCH}, one core, "
            f"medians of {args.rounds}"
        )
        table = report.table(
            {"": "<24", "images/s": ">10.1f", "first is": ">9.2f", "CPU ms": ">9.1f", "first costs": ">13.2f"}
        )
        rates, costs = ({way: [one[place] for one in rows] for way, rows in found.items()} for place in (0, 1))
        for way in args.ways:
            faster = harness.paired_ratio(rates[args.ways[0]], rates[way])[0]
            cheaper = harness.paired_ratio(costs[way], costs[args.ways[0]])[0]
            table.row(way, statistics.median(rates[way]), faster, statistics.median(costs[way]), cheaper)


if __name__ == "__main__":
    main()
