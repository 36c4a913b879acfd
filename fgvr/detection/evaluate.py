"""COCO's average precision of detections, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgvr.detection.coco import Category, CocoImage

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
"""COCO's names: the mean over IoU 0.50 … 0.95, at 0.50, at 0.75, and by object size (32², 96² pixels)."""


@dataclass(frozen=True)
class Detections:
    """The detections on one image.

    Attributes:
        boxes: float32 [n, 4], (left, top, right, bottom) in pixels.
        classes: int64 [n], indices into the list of categories.
        scores: float32 [n].
    """

    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


def coco_metrics(
    images: Sequence[CocoImage], categories: Sequence[Category], found: Sequence[Detections]
) -> dict[str, float]:
    """COCO's metrics in percent, without undefined ones (no object of that size).

    Args:
        images: the ground truth.
        categories: categories of the truth and of the detections.
        found: detections per image; empty for an image that could not be read, so that its objects count as missed.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = {
        "images": [{"id": image.id, "width": image.width, "height": image.height} for image in images],
        "categories": [{"id": category.id, "name": category.name} for category in categories],
        "annotations": _annotations(images, categories),
    }
    results = coco_results(images, categories, found)
    if all(image.objects.crowd.all() for image in images):
        return {}
    if not results:  # pycocotools fails on an empty list
        return _percent([0.0, 0.0, 0.0, *(0.0 if there else -1.0 for there in _sizes(images))])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress and a table
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return _percent([float(value) for value in evaluation.stats[: len(METRICS)]])


def coco_results(
    images: Sequence[CocoImage], categories: Sequence[Category], found: Sequence[Detections]
) -> list[dict[str, object]]:
    """Detections in COCO's results format, with the annotation file's own ids."""
    return [
        {
            "image_id": image.id,
            "category_id": categories[int(place)].id,
            "bbox": _sides(box),
            "score": float(score),
        }
        for image, of_image in zip(images, found, strict=True)
        for box, place, score in zip(of_image.boxes, of_image.classes, of_image.scores, strict=True)
    ]


def _annotations(images: Sequence[CocoImage], categories: Sequence[Category]) -> list[dict[str, object]]:
    rows = [
        (image.id, image.objects, number) for image in images for number in range(len(image.objects))
    ]  # numbered from 1: pycocotools treats id 0 as no match
    return [
        {
            "id": row,
            "image_id": image_id,
            "category_id": categories[int(objects.classes[number])].id,
            "bbox": _sides(objects.boxes[number]),
            "area": float(objects.areas[number]),
            "iscrowd": int(objects.crowd[number]),
        }
        for row, (image_id, objects, number) in enumerate(rows, start=1)
    ]


def _sides(box: npt.NDArray[np.float32]) -> list[float]:
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]


def _sizes(images: Sequence[CocoImage]) -> tuple[bool, bool, bool]:
    """Whether there are small, medium and large objects."""
    areas = np.concatenate([image.objects.areas[~image.objects.crowd] for image in images])
    # As in pycocotools, an area exactly on a limit counts on both sides of it.
    medium = (areas >= 32**2) & (areas <= 96**2)
    return bool((areas <= 32**2).any()), bool(medium.any()), bool((areas >= 96**2).any())


def _percent(values: list[float]) -> dict[str, float]:
    return {name: 100 * value for name, value in zip(METRICS, values, strict=True) if value >= 0}  # −1: not defined
