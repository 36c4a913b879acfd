"""How many failed rows a stage puts up with."""

from __future__ import annotations

FEW = 5


def allowed_failures(max_error_share: float, rows: int) -> int:
    """The most rows out of `rows` that may fail under `run.max_error_share`.

    Of a hundred photos the default share is one photo: a second damaged one would stop the job. So up to a tenth of a
    small table may fail, five rows at most, unless the share is 0 and nothing may.
    """
    share = int(max_error_share * rows + 1e-9)
    return share if max_error_share == 0 else max(share, min(FEW, rows // 10))
