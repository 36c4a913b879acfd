"""Tokens of a table: their sums, and how many rows have none because the server did not state them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

UNCOUNTED = "uncounted_rows"
"""Beside sums of tokens: rows that were answered and have no count. The sums are too low then."""


def token_totals(rows: pa.Table) -> dict[str, int]:
    """Sums of the columns `*_tokens`, and under `UNCOUNTED` the good rows without a count where there are any."""
    names = [name for name in rows.schema.names if name.endswith("_tokens")]
    totals = {name: int(pc.sum(rows[name]).as_py() or 0) for name in names}
    stated = [name for name in names if name != "cached_tokens"]  # a server need not have a cache
    if not stated or "error" not in rows.schema.names:
        return totals
    good = rows.filter(pc.is_null(rows["error"]))
    uncounted = max(good[name].null_count for name in stated)
    return totals | ({UNCOUNTED: uncounted} if uncounted else {})
