"""Check that the disk has space for the coming tables, from the counts of photos and the bytes per row."""

from __future__ import annotations

import shutil
from pathlib import Path

from fgvr import storage
from fgvr.config import Config
from fgvr.disk_cache import GIB
from pipelines.asks import embedded
from pipelines.photo_counts import Photos

ROW = 60
"""Bytes of text and numbers per row: 41 to 47 were measured for labels and predictions (docs/scaling.md)."""
DIM = 512
"""Assumed length of a CLIP vector, two bytes per number."""
ANSWER = 8
"""Bytes per question for p(yes) and label mass."""


def bytes_to_come(config: Config, photos: Photos, *, questions: int) -> int:
    """Bytes of all tables of a whole job that starts from nothing: an upper bound.

    Args:
        config: the config of the run.
        photos: the counts of its photos.
        questions: yes/no questions per training image of the student.
    """
    images = config.label.images
    pooled = photos.bounded(images.drawn_from, images.pool) if images.chosen else 0
    asked = photos.bounded(config.aspects.split, config.aspects.max_images)
    predicted = photos.total if config.infer.split is None else photos.splits.get(config.infer.split, 0)
    scratch = 2 * pooled * 2 * DIM  # the pool's vectors and the whitened ones, in files while images are chosen
    vectors = embedded(config, photos) * (2 * DIM + 10)
    return scratch + vectors + asked * (questions * ANSWER + ROW) + (photos.total + predicted) * ROW


def warning(folder: str, needed: int) -> str | None:
    """A warning where the run's disk has less space than the tables need; None where it has enough or is unknown.

    Args:
        folder: the run folder, local or not; it need not exist.
        needed: bytes to be written.
    """
    if not storage.is_local(folder):
        return None
    place = Path(storage.absolute(folder))
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed <= free:
        return None
    return (
        f"run.folder: the tables of this run will take about {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free"
        f" in {place}: --embed.images needed leaves out photos that need no vector, or take another disk (--run.folder)"
    )
