"""Scenes with several birds of the field guide and a box around each, written as COCO files.

    python -m fgvr.demo.bird_scenes OUT --train 240 --test 100 --classes 6

OUT gets `annotations/train.json`, `annotations/test.json` (COCO's format) and `train/`, `test/` with JPEG files.
Categories are species; one scene in twenty shows no bird. As in `fgvr.demo.samples`, scene `index` of a split does
not depend on how many are drawn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
import simplejpeg

from fgvr import storage
from fgvr.demo.drawing import background, lit, paint
from fgvr.demo.drawn_files import first_entry
from fgvr.demo.questions import QUESTIONS, truths
from fgvr.demo.samples import JPEG_QUALITY
from fgvr.demo.scene import Scene, sample_scene
from fgvr.demo.species import SPECIES, Attributes, Species

Box = tuple[int, int, int, int]

LENGTH: Final = (0.3, 0.55)
"""A bird's two units of length, as a share of the scene's side."""
MAX_OVERLAP: Final = 0.15
"""Largest intersection over union of two birds' boxes, so that all birds are visible."""
NO_BIRD: Final = 0.05
_KEY: Final = (255, 0, 255)  # a colour that no bird has


@dataclass(frozen=True)
class SceneSettings:
    """What determines the drawings: side in pixels, most birds per scene, number of species, difficulty, seed."""

    size: int = 96
    birds: int = 4
    classes: int = 6
    difficulty: float = 1.0
    seed: int = 0

    @property
    def species(self) -> tuple[Species, ...]:
        """The categories: this many species, evenly spread over the guide (6: one per genus)."""
        return SPECIES[:: len(SPECIES) // self.classes][: self.classes]


@dataclass(frozen=True)
class BirdScene:
    """An image (uint8 [S, S, 3]), its birds, and the box of each: (left, top, right, bottom) in pixels."""

    image: np.ndarray
    birds: tuple[Species, ...]
    boxes: tuple[Box, ...]


def draw_scene(settings: SceneSettings, split: str, index: int) -> BirdScene:
    """Scene `index` of a split."""
    word = int.from_bytes(hashlib.sha256(f"scenes/{split}".encode()).digest()[:4], "big")
    seeds = np.random.SeedSequence(settings.seed, spawn_key=(word, index))
    rng = np.random.Generator(np.random.SFC64(seeds))
    place = sample_scene(rng, settings.difficulty)
    canvas = cv2.resize(background(place), (settings.size, settings.size), interpolation=cv2.INTER_LINEAR)
    wanted = 0 if rng.uniform() < NO_BIRD else int(rng.integers(1, settings.birds + 1))
    birds: list[Species] = []
    boxes: list[Box] = []
    for _ in range(20 * wanted):  # a crowded scene may have no room for further birds
        if len(birds) == wanted:
            break
        species = settings.species[int(rng.integers(settings.classes))]
        unit = settings.size * rng.uniform(*LENGTH) / 2
        centre = rng.uniform(0.15, 0.85, 2) * settings.size
        pose = replace(sample_scene(rng, settings.difficulty), centre=tuple(centre.tolist()), scale=unit)
        box = bird_box(species.attributes, pose, settings.size)
        if box is not None and all(_overlap(box, other) <= MAX_OVERLAP for other in boxes):
            paint(canvas, species.attributes, pose)
            birds.append(species)
            boxes.append(box)
    return BirdScene(lit(canvas, place, rng), tuple(birds), tuple(boxes))


def scene_aspects(names: list[str]) -> np.ndarray:
    """True p(yes) of a scene with birds of these names, float32 [Q]: the share of birds for which the answer is yes.

    nan if there is no bird, since then there is nothing to ask about.
    """
    if not names:
        return np.full(len(QUESTIONS), np.nan, dtype=np.float32)
    attributes = {species.name: species.attributes for species in SPECIES}
    answers = np.stack([truths(attributes[name]) for name in names]).astype(np.float32)
    shares: np.ndarray = answers.mean(axis=0)
    return shares


def write_scenes(folder: str, settings: SceneSettings, counts: dict[str, int]) -> None:
    """Draw this many scenes per split; a split's annotations are written after its images."""
    for split, count in counts.items():
        scenes = []
        for index in range(count):
            scene = draw_scene(settings, split, index)
            jpeg = simplejpeg.encode_jpeg(scene.image, quality=JPEG_QUALITY)
            storage.write_bytes(storage.join(folder, split, file_name(index)), jpeg)
            scenes.append(replace(scene, image=scene.image[:0]))
        content = json.dumps(coco_content(settings, scenes))
        storage.write_bytes(storage.join(folder, "annotations", f"{split}.json"), content.encode())


def file_name(index: int) -> str:
    """File name of a scene's image in its split's folder."""
    return f"{index:06d}.jpg"


def coco_content(settings: SceneSettings, scenes: list[BirdScene]) -> dict[str, Any]:
    """Scenes as a COCO annotations file; category ids are the species' class ids + 1, so they have gaps as COCO's."""
    annotations = [
        {
            "image_id": number,
            "category_id": bird.class_id + 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        for number, scene in enumerate(scenes)
        for bird, (left, top, right, bottom) in zip(scene.birds, scene.boxes, strict=True)
    ]
    side = {"width": settings.size, "height": settings.size}
    return {
        "images": [{"id": number, "file_name": file_name(number), **side} for number in range(len(scenes))],
        "annotations": [{"id": number, **fields} for number, fields in enumerate(annotations, start=1)],
        "categories": [{"id": species.class_id + 1, "name": species.name} for species in settings.species],
    }


def bird_box(attributes: Attributes, pose: Scene, size: int) -> Box | None:
    """The box of all pixels that a bird covers on a canvas of this side; None if it is outside."""
    alone = np.full((size, size, 3), _KEY, dtype=np.uint8)
    paint(alone, attributes, pose)
    rows, columns = np.nonzero((alone != np.array(_KEY)).any(axis=2))
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (one, other)]
    return width * height / (sum(areas) - width * height)


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number in a range, which the error message states."""

    def read(text: str) -> int:
        allowed = f"{low} or more" if high is None else f"{low} to {high}"
        if not text.lstrip("-").isdecimal() or int(text) < low or (high is not None and int(text) > high):
            raise argparse.ArgumentTypeError(f"{text}: a whole number, {allowed}")
        return int(text)

    return read


def _strength(text: str) -> float:
    """An argparse type: a non-negative number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: a number, 0 or more")
    return value


# The same ranges as for `ingest.source` of kind bird_scenes.
RANGES: Final[dict[str, Callable[[str], Any]]] = {
    "size": _whole(32, 1024),
    "birds": _whole(1, 20),
    "classes": _whole(1, len(SPECIES)),
    "difficulty": _strength,
    "seed": _whole(0),
}


def _are_scenes(folder: str) -> bool:
    """Whether the annotations in a folder are those of drawn scenes: all of their categories are species."""
    try:
        drawn = json.loads(storage.read_bytes(storage.join(folder, "annotations", "train.json")))
        names = {category["name"] for category in drawn["categories"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(names) and names <= {species.name for species in SPECIES}


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("out", help="folder or fsspec address")
    parser.add_argument("--train", type=_whole(0), default=240, help="training scenes (default: %(default)s)")
    parser.add_argument("--test", type=_whole(0), default=100, help="test scenes (default: %(default)s)")
    for name, kind in RANGES.items():
        value = getattr(SceneSettings(), name)
        parser.add_argument(f"--{name}", type=kind, default=value, help="default: %(default)s")
    args = parser.parse_args(arguments)
    if first_entry(args.out) is not None and not _are_scenes(args.out):
        parser.error(f"{args.out}: neither empty nor a folder of drawn scenes; name another one")
    settings = SceneSettings(args.size, args.birds, args.classes, args.difficulty, args.seed)
    write_scenes(os.fspath(args.out), settings, {"train": args.train, "test": args.test})
    print(f"{args.out}: {args.train} + {args.test} scenes of {args.classes} species")


if __name__ == "__main__":
    main()
