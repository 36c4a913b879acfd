"""Parses and cleans untrusted COCO annotation files, counting everything that was left out.

A mistake in one annotation only costs that annotation; a mistake that makes annotations ambiguous (two images with one
id) is an error. Boxes are clipped at the image's border.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from fgvr import storage
from fgvr.errors import UserError
from fgvr.json_text import RepeatedKey, read_json
from fgvr.names.spelling import one_form
from fgvr.text_files import decoded


class CocoError(UserError, ValueError):
    """The file is not a COCO annotations file, or contradicts itself; the message says where."""


class LeftOut(StrEnum):
    """Why an entry of the file was left out; counted in `CocoSet.left_out`."""

    NO_BOX = "no_box"  # `bbox` is missing or is not four finite numbers (of float32)
    EMPTY_BOX = "empty_box"  # width or height is not positive
    OUTSIDE = "outside"  # no part of the box is inside the image
    UNKNOWN_IMAGE = "unknown_image"  # belongs to an image that the file does not list
    UNKNOWN_CATEGORY = "unknown_category"
    REPEATED_IMAGE = "repeated_image"  # an image listed twice with the same facts


@dataclass(frozen=True)
class Category:
    """A class: the file's own id (any integer) and its name."""

    id: int
    name: str


@dataclass(frozen=True)
class Objects:
    """The n objects of an image.

    Attributes:
        boxes: float32 [n, 4], (left, top, right, bottom) in pixels, inside the image, right > left, bottom > top.
        classes: int64 [n], indices into the list of categories.
        crowd: bool [n]: a crowd, in which detections count as neither right nor wrong; never trained on.
        areas: float32 [n], in pixels; they define COCO's small, medium and large.
    """

    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class CocoImage:
    """A listed image: the file's own id, file name, size in pixels, and its objects (maybe none)."""

    id: int
    file_name: str
    width: int
    height: int
    objects: Objects


@dataclass(frozen=True)
class CocoSet:
    """An annotations file: images in file order, categories by ascending id, and the number of left-out entries."""

    images: tuple[CocoImage, ...]
    categories: tuple[Category, ...]
    left_out: dict[LeftOut, int] = field(default_factory=dict)


def read_coco(uri: str) -> CocoSet:
    """Read and clean an annotations file.

    Raises:
        CocoError: the file does not exist or cannot be parsed.
    """
    try:
        content = read_json(decoded(storage.read_bytes(uri)))
    except FileNotFoundError:
        raise CocoError(f"{uri}: there is no such annotations file") from None
    except RepeatedKey as error:
        raise CocoError(f"{uri}: {error}") from None
    except (ValueError, RecursionError) as error:  # not JSON, not text, or nested too deeply
        raise CocoError(f"{uri}: not a JSON file: {error}") from None
    return parse_coco(content, uri)


def parse_coco(content: Any, where: str) -> CocoSet:
    """Clean the content of an annotations file; raises CocoError. `where` names the file in messages."""
    lists = isinstance(content, Mapping) and isinstance(content.get("images"), list)
    if not lists or not isinstance(content.get("annotations") or [], list):
        raise CocoError(f"{where}: expected COCO's annotations, an object with images, annotations and categories")
    left_out: Counter[LeftOut] = Counter()
    categories = _categories(content.get("categories"), where)
    images = _images(content["images"], where, left_out)
    places = {category.id: place for place, category in enumerate(categories)}
    found: dict[int, list[_Found]] = {image_id: [] for image_id in images}
    for entry in content.get("annotations") or []:
        of_entry = _found(entry, images, places)
        if isinstance(of_entry, LeftOut):
            left_out[of_entry] += 1
        else:
            found[entry["image_id"]].append(of_entry)
    return CocoSet(
        images=tuple(
            CocoImage(image_id, name, width, height, _objects(found[image_id]))
            for image_id, (name, width, height) in images.items()
        ),
        categories=categories,
        left_out=dict(left_out),
    )


_LARGEST = float(np.finfo(np.float32).max)
_Listed = tuple[str, int, int]
_Box = tuple[float, float, float, float]
_Found = tuple[_Box, int, bool, float]


def _categories(entries: Any, where: str) -> tuple[Category, ...]:
    if not isinstance(entries, list) or not entries:
        raise CocoError(f"{where}: it lists no categories")
    categories: dict[int, Category] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not _is_id(entry.get("id")):
            raise CocoError(f"{where}: categories[{number}] has no integer id")
        if entry["id"] in categories:
            raise CocoError(f"{where}: two categories have the id {entry['id']}")
        categories[entry["id"]] = Category(entry["id"], _name_of(entry))
    return tuple(categories[category_id] for category_id in sorted(categories))


def _name_of(entry: Mapping[str, Any]) -> str:
    """A category's name, or its id if it has none."""
    name = entry.get("name")
    return (one_form(str(name)) if name is not None else "") or str(entry["id"])


def _images(entries: list[Any], where: str, left_out: Counter[LeftOut]) -> dict[int, _Listed]:
    images: dict[int, _Listed] = {}
    ids: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not _is_id(entry.get("id")):
            raise CocoError(f"{where}: images[{number}] has no integer id")
        name, width, height = (entry.get(key) for key in ("file_name", "width", "height"))
        if not isinstance(name, str) or not name or not _is_side(width) or not _is_side(height):
            raise CocoError(f"{where}: images[{number}] needs a file_name and a positive width and height")
        listed = (name, width, height)
        if images.setdefault(entry["id"], listed) != listed:
            raise CocoError(f"{where}: two images have the id {entry['id']}: {images[entry['id']][0]} and {name}")
        if ids.setdefault(name, entry["id"]) != entry["id"]:
            raise CocoError(f"{where}: {name} is listed under two ids, {ids[name]} and {entry['id']}")
    left_out.update({LeftOut.REPEATED_IMAGE: len(entries) - len(images)} if len(entries) > len(images) else {})
    return images


def _found(entry: Any, images: dict[int, _Listed], places: dict[int, int]) -> _Found | LeftOut:
    """An annotation as (box, class, crowd, area), or why it is left out."""
    if not isinstance(entry, Mapping) or not _is_id(entry.get("image_id")) or entry["image_id"] not in images:
        return LeftOut.UNKNOWN_IMAGE
    if not _is_id(entry.get("category_id")) or entry["category_id"] not in places:
        return LeftOut.UNKNOWN_CATEGORY
    _, width, height = images[entry["image_id"]]
    box = _corners(entry.get("bbox"), width, height)
    if isinstance(box, LeftOut):
        return box
    area = entry.get("area")
    if not _is_number(area) or area <= 0:
        area = (box[2] - box[0]) * (box[3] - box[1])
    return box, places[entry["category_id"]], entry.get("iscrowd") == 1, float(area)


def _corners(box: Any, image_width: int, image_height: int) -> _Box | LeftOut:
    """(left, top, width, height) converted to corners inside the image, or why this is impossible."""
    if not isinstance(box, Sequence) or len(box) != 4 or not all(_is_number(value) for value in box):
        return LeftOut.NO_BOX
    left, top, width, height = (float(value) for value in box)
    if width <= 0 or height <= 0:
        return LeftOut.EMPTY_BOX
    corners = (max(left, 0.0), max(top, 0.0), min(left + width, image_width), min(top + height, image_height))
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return LeftOut.OUTSIDE
    rounded = np.asarray(corners, dtype=np.float32)
    if rounded[2] <= rounded[0] or rounded[3] <= rounded[1]:  # too thin for float32
        return LeftOut.EMPTY_BOX
    return corners


def _objects(found: list[_Found]) -> Objects:
    return Objects(
        boxes=np.array([box for box, _, _, _ in found], dtype=np.float32).reshape(-1, 4),
        classes=np.array([place for _, place, _, _ in found], dtype=np.int64),
        crowd=np.array([crowd for _, _, crowd, _ in found], dtype=bool),
        areas=np.array([area for _, _, _, area in found], dtype=np.float32),
    )


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_side(value: Any) -> TypeGuard[int]:
    return _is_id(value) and 1 <= value < 2**31


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
