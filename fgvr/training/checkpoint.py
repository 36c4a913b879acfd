"""What every checkpoint holds besides weights: the history of metrics, and the images that cannot be read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from fgvr.failures import Example, Failures, allowed_failures
from fgvr.schemas import Failure, Reason

LAST, BEST, STATE_FILE, HISTORY_FILE = "last", "best", "state.pt", "history.json"
LEFT_OUT_FILE, LOST_FILE = "left_out.json", "lost.json"

History = list[dict[str, float]]
"""Reported metrics by name, oldest first; undefined ones are left out."""
LeftOut = dict[int, Failure]
"""Failures of images that cannot be read, by position in the examples."""


def write_history(folder: Path, history: History) -> None:
    """Write the history as JSON into a checkpoint's folder."""
    (folder / HISTORY_FILE).write_text(json.dumps(history, indent=1))


def read_history(folder: Path) -> History:
    """The metrics of all reports up to a checkpoint; earlier versions wrote null for undefined ones."""
    rows = json.loads((folder / HISTORY_FILE).read_text())
    return [{name: float(value) for name, value in row.items() if value is not None} for row in rows]


class TrainingImages(Protocol):
    """Training images by position."""

    @property
    def image_ids(self) -> npt.NDArray[np.int64]:
        """Image ids of the samples table, int64 [N]."""

    @property
    def uris(self) -> Sequence[str]:
        """URIs of the images."""


def write_left_out(folder: Path, left_out: LeftOut, file: str = LEFT_OUT_FILE) -> None:
    """Write the failures into a checkpoint's folder."""
    rows = {position: [failure.reason, failure.detail] for position, failure in left_out.items()}
    (folder / file).write_text(json.dumps(rows))


def read_left_out(folder: Path, file: str = LEFT_OUT_FILE) -> LeftOut:
    """Read what `write_left_out` wrote."""
    rows = json.loads((folder / file).read_text())
    return {int(position): Failure(Reason(reason), detail) for position, (reason, detail) in rows.items()}


def read_lost(folder: Path) -> LeftOut:
    """Images that became unreadable during a student's training, from a checkpoint; empty for earlier versions."""
    return read_left_out(folder, LOST_FILE) if (folder / LOST_FILE).exists() else {}


def over_workers(found: LeftOut, world_size: int) -> LeftOut:
    """The failures that any worker found, the same on every worker, by ascending position; all workers must call it."""
    parts = [found]
    if world_size > 1:
        gathered: list[LeftOut] = [{}] * world_size
        torch.distributed.all_gather_object(gathered, found)
        parts = gathered
    return dict(sorted((position, failure) for part in parts for position, failure in part.items()))


def reasons(left_out: LeftOut) -> dict[str, int]:
    """How many images failed, by reason."""
    return dict(Counter(failure.reason.value for failure in left_out.values()))


def failures_of(left_out: LeftOut, images: TrainingImages | None = None) -> Failures:
    """Failures by reason, with one example each; its image id is the position if `images` is not given."""
    found = Failures(Counter(reasons(left_out)))
    for position, failure in sorted(left_out.items(), reverse=True):  # the first of a reason is written last
        image_id, uri = (position, "") if images is None else (images.image_ids[position], images.uris[position])
        found.examples[failure.reason.value] = Example.of(int(image_id), failure, uri)
    return found


def too_many(
    left_out: LeftOut, images: int, max_error_share: float, examples: TrainingImages | None = None
) -> str | None:
    """The message, with examples, if more images cannot be read than the share allows; see `allowed_failures`."""
    if len(left_out) <= allowed_failures(max_error_share, images):
        return None
    return (
        f"{len(left_out)} of {images} training images cannot be read ({failures_of(left_out, examples).in_words()}), "
        f"more than run.max_error_share = {max_error_share} allows"
    )
