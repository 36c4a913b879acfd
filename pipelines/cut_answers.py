"""How many answers the limit of tokens cut off: on the console, in the manifest, and so in status and report."""

from __future__ import annotations

import logging

from cluster.stage import StageSummary
from fgvr.tables import CUT_ANSWERS, CUT_OFF

log = logging.getLogger(__name__)


def note_cut_answers(name: str, summary: StageSummary, limit: str) -> None:
    """Say it of the answers table `name`, and leave the words in the facts of its manifest.

    Args:
        name: of the table.
        summary: of its stage, with the count among its metrics.
        limit: what cut them off, as "label.max_tokens = 32".
    """
    count = int(summary.metrics.get(CUT_ANSWERS, 0))
    if count:
        words = f"{count:,} answer{' was' if count == 1 else 's were'} cut off at {limit}"
        summary.extra = {**summary.extra, CUT_OFF: words}
        log.warning("%s: %s; those that had not said a whole name have none", name, words)
