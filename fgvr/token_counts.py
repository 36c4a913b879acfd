"""Tokens of a table: their sums, how many rows have none because the server did not state them, and cut answers."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

UNCOUNTED = "uncounted_rows"
"""Beside sums of tokens: rows that were answered and have no count. The sums are too low then."""
CUT_COLUMN = "cut"
"""Of answers: whether the limit of tokens ended each."""
CUT_ANSWERS = "cut_answers"
"""Beside sums of tokens: answers that the limit of tokens ended."""


def token_totals(rows: pa.Table) -> dict[str, int]:
    """Sums of the columns `*_tokens`; under `UNCOUNTED` the good rows without a count where there are any.

    Where answers were cut off, their number is there as `CUT_ANSWERS`.
    """
    names = [name for name in rows.schema.names if name.endswith("_tokens")]
    totals = {name: int(pc.sum(rows[name]).as_py() or 0) for name in names}
    if CUT_COLUMN in rows.schema.names and (cut := pc.sum(pc.list_flatten(rows[CUT_COLUMN])).as_py()):
        totals[CUT_ANSWERS] = int(cut)
    stated = [name for name in names if name != "cached_tokens"]  # a server need not have a cache
    if not stated or "error" not in rows.schema.names:
        return totals
    good = rows.filter(pc.is_null(rows["error"]))
    uncounted = max(good[name].null_count for name in stated)
    return totals | ({UNCOUNTED: uncounted} if uncounted else {})
