"""Is there disk for what is to come? From counts of photos and what a row of each table takes."""

from __future__ import annotations

import shutil
from pathlib import Path

from fgvr import storage
from fgvr.config import Config
from fgvr.disk_cache import GIB
from pipelines.asks import sampled
from pipelines.photo_counts import Photos

ROW = 60
"""Bytes of a row's words and numbers in a table: 41 to 47 were measured of labels and predictions (docs/scaling.md)."""
DIM = 512
"""Numbers of a CLIP vector assumed, two bytes each."""
ANSWER = 8
"""Bytes of a question's p(yes) and label mass."""


def bytes_to_come(config: Config, photos: Photos, *, questions: int) -> int:
    """Bytes of the tables of a whole job: an estimate from above, of a run of which nothing is there.

    Args:
        config: of the run.
        photos: counts of the samples.
        questions: yes/no questions about each image of the student's.
    """
    splits = config.embed.splits
    embedded = photos.total if splits is None else sum(photos.splits.get(split, 0) for split in splits)
    asked = photos.bounded(config.aspects.split, config.aspects.max_images)
    if config.embed.images == "needed":
        most = config.aspects.max_images if config.makd.images == "asked" else None
        learned = photos.bounded(config.makd.split, most)
        embedded = min(embedded, sampled(config, photos) + learned + photos.splits.get(config.evaluate.split, 0))
    predicted = photos.total if config.infer.split is None else photos.splits.get(config.infer.split, 0)
    return embedded * (2 * DIM + 10) + asked * (questions * ANSWER + ROW) + (photos.total + predicted) * ROW


def warning(folder: str, needed: int) -> str | None:
    """A sentence where the run's disk has less room than the tables need; None where it has, or nobody can know.

    Args:
        folder: of the run, local or not; it need not be there.
        needed: bytes.
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
