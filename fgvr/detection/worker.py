"""The worker that runs a trained detector: one row of detections per image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fgvr import schemas
from fgvr.config.data import ImageLimits
from fgvr.detection.batches import read_pixels
from fgvr.detection.evaluate import Detections
from fgvr.detection.model import load_detector
from fgvr.images.read import ImageError
from fgvr.prefetch import read_ahead
from fgvr.schemas import Failure
from fgvr.storage import fetch_folder

FINDING = 1
"""Increase it when the same detector would find other objects in the same photo."""


@dataclass(frozen=True)
class DetectSettings:
    """What the workers need; picklable.

    Attributes:
        model: URI of a model folder.
        limits: limits on reading an image.
        score_threshold: detections with a lower score are left out.
        max_detections: most detections kept per image.
        batch_images: images per forward pass.
        device: where the model runs.
        threads: threads that read images.
    """

    model: str
    limits: ImageLimits
    score_threshold: float = 0.05
    max_detections: int = 100
    batch_images: int = 8
    device: str = "cpu"
    threads: int = 2


class DetectWorker:
    """The PartWorker of detections; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: DetectSettings) -> None:
        self.settings = settings
        self.spec, self.rcnn = load_detector(fetch_folder(settings.model), settings.device)
        self.rcnn.roi_heads.score_thresh = settings.score_threshold
        self.rcnn.roi_heads.detections_per_img = settings.max_detections

    def process(self, rows: pa.Table) -> pa.Table:
        """Detections for rows with `image_id`, `uri` and `metadata` of a source with boxes.

        Images that cannot be read, or whose size differs from the source's, become rows with `error`.
        """
        ids, files = rows["image_id"].to_pylist(), rows.select(["uri", "metadata"]).to_pylist()
        found: dict[int, dict[str, Any]] = {}
        waiting: list[tuple[int, torch.Tensor]] = []
        images = read_ahead(self._read, files, threads=self.settings.threads, ahead=2 * self.settings.batch_images)
        for image_id, image in zip(ids, images, strict=True):
            if isinstance(image, Failure):
                found[image_id] = {"error": image.as_row()}
                continue
            waiting.append((image_id, image))
            if len(waiting) == self.settings.batch_images:
                found |= self._detect(waiting)
                waiting = []
        found |= self._detect(waiting)
        return pa.Table.from_pylist([{"image_id": n, **found[n]} for n in ids], schema=schemas.DETECTIONS)

    def _read(self, file: dict[str, str]) -> torch.Tensor | Failure:
        facts = json.loads(file["metadata"])
        try:
            pixels = read_pixels(file["uri"], (facts["width"], facts["height"]), self.settings.limits)
        except ImageError as error:
            return error.failure
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    @torch.inference_mode()
    def _detect(self, images: list[tuple[int, torch.Tensor]]) -> dict[int, dict[str, Any]]:
        if not images:
            return {}
        outputs = self.rcnn([pixels.to(self.settings.device).float() / 255 for _, pixels in images])
        rows = {}
        for (image_id, _), output in zip(images, outputs, strict=True):
            classes = (output["labels"] - 1).tolist()  # torchvision's label 0 is the background
            rows[image_id] = {
                "boxes": output["boxes"].tolist(),
                "label_ids": classes,
                "labels": [self.spec.categories[place].name for place in classes],
                "scores": output["scores"].tolist(),
            }
        return rows


def detections_of(row: dict[str, Any]) -> Detections:
    """The detections in a row of the detections table; empty if the row failed."""
    if row["error"] is not None:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return Detections(
        np.array(row["boxes"], np.float32).reshape(-1, 4),
        np.array(row["label_ids"], np.int64),
        np.array(row["scores"], np.float32),
    )
