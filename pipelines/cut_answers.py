"""How many answers the limit of tokens cut off: a remark on the console, in the manifest, in status and report."""

from __future__ import annotations

from cluster.stage import StageSummary
from fgvr.token_counts import CUT_ANSWERS


def note_cut_answers(summary: StageSummary, limit: str) -> None:
    """Add it to the remarks of a stage that has answers.

    Args:
        summary: of the stage, with the count among its metrics.
        limit: what cut them off, as "label.max_tokens = 32".
    """
    count = int(summary.metrics.get(CUT_ANSWERS, 0))
    if count:
        words = f"{count:,} answer{' was' if count == 1 else 's were'} cut off at {limit}"
        summary.remarks = (*summary.remarks, f"{words}; those that had not said a whole name by then have none")
