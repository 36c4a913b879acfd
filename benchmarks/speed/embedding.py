"""Embedding: decoding and preprocessing against Pillow alone, and images per second through the towers.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.embedding                       # drawn photos of 1000 × 1000 pixels
    OMP_NUM_THREADS=1 python -m benchmarks.speed.embedding --photos ~/photos     # real ones, cut and resized to that
    python3.12 -m benchmarks.speed.embedding --towers --device cuda  # needs torch only

Preprocessing: JPEG files (quality 92) to a CLIP's input tensor, by `fgvr.images.read.read_image` as EmbedWorker calls
it, by Pillow's decoder in full size, and by Pillow's at the smallest scale that holds the input (`Image.draft`),
which is the least that a plain loop takes; the CLIP's own transform follows in all. CPU seconds of one thread, the
ways take turns, medians of `--repeat` rounds, ratios of Pillow's ways to ours. The cosines are those of a photo's
features by ours, and by draft, to those of full decoding, the least over all photos; next to them the mean one of
different photos, since a CLIP with random weights tells photos apart less than a trained one.

Towers: image features of random pixels with random weights, bf16 autocast on CUDA, fp32 on a CPU; images per second.
`benchmarks/speed/ray_overhead.py` measures the stage around all this.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.speed.coop_reference import ImageEncoder

SIDE, QUALITY = 1000, 92
TOWERS = {"ViT-B/16": (768, 12, 16, 512), "ViT-L/14": (1024, 24, 14, 768)}


def drawn_photo(seed: int) -> Any:
    """Fractal noise (amplitude 1/f, as in photos) with hard-edged discs on it."""
    from PIL import Image, ImageDraw

    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    frequency[0, 0] = 1.0
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(random.normal(size=(SIDE, SIDE))) / frequency
        plane = np.fft.irfft2(spectrum, s=(SIDE, SIDE))
        planes.append((plane - plane.mean()) / plane.std())
    grey = planes[0]
    pixels = np.stack([128 + 50 * grey + 18 * plane for plane in planes], axis=-1)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, r = random.integers(0, SIDE), random.integers(0, SIDE), random.integers(10, 160)
        draw.ellipse(
            tuple(float(edge) for edge in (x - r, y - r, x + r, y + r)),
            fill=tuple(int(c) for c in random.integers(0, 256, 3)),
        )
    return image


def write_photos(folder: Path, count: int, source: Path | None) -> list[str]:
    """JPEG files of 1000 × 1000 pixels, drawn or from the photos in `source`."""
    from PIL import Image, ImageOps

    originals = (
        sorted(source.rglob("*.jp*g"))[:: max(1, len(sorted(source.rglob("*.jp*g"))) // count)] if source else []
    )
    if source and len(originals) < count:
        raise SystemExit(f"{source} holds {len(originals)} JPEG files, --count asks for {count}")
    paths = []
    for number in range(count):
        image = drawn_photo(number)
        if source:
            image = ImageOps.fit(Image.open(originals[number]).convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
        paths.append(str(folder / f"{number}.jpg"))
        image.save(paths[-1], quality=QUALITY)
    return paths


def preprocessing(args: argparse.Namespace, report: harness.Report) -> None:
    """The table of decoding and preprocessing, a row per CLIP."""
    import open_clip
    from PIL import Image

    from fgvr.clip.model import ClipModel, load_clip
    from fgvr.clip.source import ClipSource
    from fgvr.config import Clip, ImageLimits
    from fgvr.images.read import read_image

    name = "ViT-B-16-quickgelu"
    network, _, transform = open_clip.create_model_and_transforms(name)
    network.eval().requires_grad_(False)
    cpu, tokenizer = torch.device("cpu"), open_clip.get_tokenizer(name)
    random_clip = ClipModel(network, tokenizer, transform, cpu, ClipSource(name, quick_gelu=True))
    limits = ImageLimits()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), args.count, args.photos)
        kind = args.photos.name if args.photos else "drawn"
        size = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1000
        report.say(f"{len(paths)} {kind} photos of {SIDE} × {SIDE} pixels, {size:.0f} kB on average")
        table = report.table(
            {
                "CLIP": "<24",
                "ours ms": ">9.2f",
                "Pillow ms": ">10.2f",
                "ratio": ">7.2f",
                "draft ms": ">9.2f",
                "its ratio": ">10.2f",
                "least cosine": ">14.5f",
                "of draft": ">14.5f",
                "of others": ">11.3f",
            }
        )
        for name, clip in (("ViT-B/16, random weights", random_clip), ("demo", load_clip(Clip()))):

            def ours(path: str, clip: ClipModel = clip) -> torch.Tensor:
                return clip.preprocess(read_image(path, limits, short_side=clip.short_side))

            def pillow(path: str, clip: ClipModel = clip) -> torch.Tensor:
                with Image.open(path) as image:
                    return clip.preprocess(image.convert("RGB"))

            def draft(path: str, clip: ClipModel = clip) -> torch.Tensor:
                with Image.open(path) as image:
                    image.draft("RGB", (clip.image_size, clip.image_size))
                    return clip.preprocess(image.convert("RGB"))

            ways = {"ours": ours, "Pillow": pillow, "draft": draft}
            turns = {name_of: partial(cpu_seconds, way, paths) for name_of, way in ways.items()}
            times = harness.take_turns(turns, args.repeat, log=False)
            mine, theirs, least = (statistics.median(times[way]) / len(paths) * 1000 for way in ways)
            ratios = [harness.paired_ratio(times[way], times["ours"])[0] for way in ("Pillow", "draft")]
            some = paths[: args.features]
            first, second, third = (
                clip.encode_pixels(torch.stack([way(path) for path in some])) for way in (ours, pillow, draft)
            )
            same, rough, others = (
                (first * second).sum(dim=1).min(),
                (third * second).sum(dim=1).min(),
                second @ second.T,
            )
            apart = (others.sum() - others.trace()) / (len(some) * (len(some) - 1))
            table.row(name, mine, theirs, ratios[0], least, ratios[1], same.item(), rough.item(), apart.item())


def cpu_seconds(way: Callable[[str], torch.Tensor], paths: list[str]) -> float:
    """CPU seconds of this process for all photos one way."""
    started = time.process_time()
    for path in paths:
        way(path)
    return time.process_time() - started


@torch.no_grad()
def towers(args: argparse.Namespace, report: harness.Report) -> None:
    """Images per second through image towers."""
    device = torch.device(args.device)
    batch, rounds = (256, 20) if device.type == "cuda" else (8, 2)
    for name, (width, layers, patch, dim) in TOWERS.items():
        tower = ImageEncoder(width, layers, patch, dim).to(device).eval()
        pixels = torch.randn(batch, 3, 224, 224, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            tower(pixels)
            seconds = []
            for _ in range(rounds):
                wait(device)
                started = time.perf_counter()
                tower(pixels)
                wait(device)
                seconds.append(time.perf_counter() - started)
        report.say(f"{name}: {batch / statistics.median(seconds):,.1f} images/s on {device}, batches of {batch}")


def wait(device: torch.device) -> None:
    """Wait until a device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of JPEG files instead of drawn ones")
    parser.add_argument("--count", type=int, default=60, help="photos")
    parser.add_argument("--features", type=int, default=20, help="of these, so many for the cosines")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of timing")
    parser.add_argument("--towers", action="store_true", help="time the image towers instead")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of the towers")
    args = parser.parse_args()
    with harness.reporting(args) as report:
        (towers if args.towers else preprocessing)(args, report)


if __name__ == "__main__":
    main()
