"""Drawings of aspects: both t-SNE maps, and p(yes) of MLLM and student for single images; and thumbnails."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgvr.config.data import ImageLimits
from fgvr.images.read import ImageError, read_image
from fgvr.report.aspects import AspectLine

COLOURS = 10
"""Number of classes with a colour of their own on a map; the others are grey."""
MAP_SIDE = 300
"""Side of a map, in SVG units."""

Points = npt.NDArray[np.float64]
Answers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Dots:
    """Images of one class on both maps; `name` is "" for all classes without a colour, which have `colour` 0.

    `mllm` and `student` are SVG paths of zero-length lines, which round line caps turn into dots.
    """

    name: str
    colour: int
    mllm: str
    student: str


@dataclass(frozen=True)
class AnswerPair:
    """p(yes) of MLLM and student for one question about one image; None if missing."""

    question: str
    mllm: float | None
    student: float | None


@dataclass(frozen=True)
class AspectCard:
    """An image with the answers of both; `thumbnail`, `problem` and `title` as in ImageCard."""

    title: str
    thumbnail: str
    problem: str
    class_name: str
    pairs: list[AnswerPair]


@dataclass(frozen=True)
class AspectPictures:
    """The drawings on the page.

    Attributes:
        images: number of images on the maps.
        held_out: how many of these were held out of the student's training.
        dots: empty if there are too few images for a map.
        cards: cards of single images.
    """

    images: int = 0
    held_out: int = 0
    dots: list[Dots] = field(default_factory=list)
    cards: list[AspectCard] = field(default_factory=list)


def class_dots(names: Sequence[str], mllm: Points, student: Points) -> list[Dots]:
    """The points [N, 2] (unit square) of both maps by class; classes without a colour first, below the others."""
    coloured = [name for name, _ in sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))[:COLOURS]]
    found = []
    for colour, name in enumerate(["", *coloured]):
        rows = [row for row, of in enumerate(names) if (of == name if colour else of not in coloured)]
        if rows:
            found.append(Dots(name, colour, _path(mllm[rows]), _path(student[rows])))
    return found


def _path(points: Points) -> str:
    inside = 6 + (MAP_SIDE - 12) * points
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in inside)


def answer_pairs(lines: Sequence[AspectLine], mllm: Answers, student: Answers) -> list[AnswerPair]:
    """Answers [Q] of both (in rank order) to some questions about one image."""
    return [AnswerPair(line.question, _given(mllm[line.rank - 1]), _given(student[line.rank - 1])) for line in lines]


def choose_cards(classes: npt.NDArray[np.int64], count: int, seed: int) -> list[int]:
    """Rows of `count` images drawn at random, from different classes as long as possible."""
    rng = np.random.default_rng(seed)
    seen: Counter[int] = Counter()
    ordered = []
    for row in rng.permutation(len(classes)).tolist():
        ordered.append((seen[int(classes[row])], row))
        seen[int(classes[row])] += 1
    # A stable sort: the first image of every class in the order of the draw, then the second ones.
    return [row for _, row in sorted(ordered, key=lambda pair: pair[0])[:count]]


def _given(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# Thumbnails inside the page, so that it needs no other file.

SIDE = 176
"""Side in pixels; twice the displayed size, for high-resolution screens."""


PHOTO_SIDE = 352
"""Longest side in pixels of a photo that the page can enlarge; the page first shows a square of it."""


def photo(uri: str, limits: ImageLimits) -> tuple[str, str]:
    """The whole photo, PHOTO_SIDE pixels long at most, as `thumbnail` gives it; a panorama is cut to 2:1."""
    try:
        image = read_image(uri, limits, short_side=PHOTO_SIDE)
    except ImageError as error:
        return "", str(error)
    width, height = min(image.width, 2 * image.height), min(image.height, 2 * image.width)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    part = image.crop((left, top, left + width, top + height))
    part.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    return _jpeg(part), ""


def thumbnail(uri: str, limits: ImageLimits) -> tuple[str, str]:
    """(data: URI of a JPEG, "") or ("", why the image cannot be read)."""
    try:
        image = read_image(uri, limits, short_side=SIDE)
    except ImageError as error:
        return "", str(error)
    # The page shows squares: crop here, so that a panorama does not inflate the page.
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if side > SIDE:
        square = square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _jpeg(square), ""


def _jpeg(image: Image.Image) -> str:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
