"""What the report says of compared images that are copies of photos in another split (`evaluate.leaks`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.run_tables import Run

if TYPE_CHECKING:
    from fgvr.arrays import Ids

log = logging.getLogger(__name__)


def leaks_of(
    run: Run, ids: Ids, names: Mapping[str, Sequence[str]], true: list[str | None]
) -> tuple[str, list[str | None]]:
    """What is to be said of compared images that are copies of photos in another split, and the true names that count.

    With `evaluate.leaks: leave_out` such images count as images of no known class, so that nothing is scored on them.
    """
    from fgvr.checks.findings import Issue
    from fgvr.metrics.classification import top1_hits

    config = run.config.evaluate
    if config.leaks == "ignore":
        return "", true
    found = run.table("findings").read(["image_id", "issue"]).to_pylist()
    torn = [row["image_id"] for row in found if row["issue"] == Issue.ACROSS_SPLITS]
    leaked = np.isin(ids, np.array(torn, np.int64))
    count = int(leaked.sum())
    said = f"{count:,} of {len(ids):,} compared images are copies or near-duplicates of a photo in another split"
    if config.leaks == "leave_out":
        left: list[str | None] = [None if leak else name for name, leak in zip(true, leaked.tolist(), strict=True)]
        said = f"{said}: they are not scored" if count else said
        log.warning("%s", said)
        return said, left
    scores = []
    known = [place for place, name in enumerate(true) if name is not None]
    for method, given in names.items():
        hits = top1_hits([given[place] for place in known], [true[place] or "" for place in known])
        rest = hits[~leaked[known]]
        if count and len(rest):
            scores.append(f"{method} {100 * rest.mean():.1f} (all: {100 * hits.mean():.1f})")
    said = f"{said}; top-1 without them: {', '.join(scores)}" if scores else said
    log.warning("%s", said)
    return said, true
