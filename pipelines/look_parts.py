"""The tables of label and aspects, taken from the common pass of `pipelines/looks.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.stage import StageFolder, StageSummary, token_metrics
from fgvr import tables
from fgvr.failures import Failures
from fgvr.mllm.look_worker import part_rows
from fgvr.part_worker import token_totals
from fgvr.tables import Table
from pipelines.run_tables import Run


def take_part(
    run: Run, folder: StageFolder, *, column: str, ids: npt.NDArray[np.int64], schema: pa.Schema
) -> StageSummary:
    """Write one column of `looks` for the images `ids` (int64, ascending) as a table of its own, with `schema`."""
    looks = run.table("looks")
    size = folder.rows_per_part(run.config.aspects.workers.rows_per_part)
    failures = Failures()
    totals: Counter[str] = Counter()
    parts = 0
    for parts, rows in enumerate(_parts(looks, column, ids, schema, size), start=1):
        tables.write_part(folder.uri, parts - 1, rows)
        failures.add(Failures.in_rows(rows))
        totals.update(token_totals(rows))
    facts = {"looks": looks.uri} | ({"questions": looks.extra["questions"]} if column == "aspects" else {})
    metrics = token_metrics(totals)
    return StageSummary.of(len(ids), failures, parts=parts, rows_per_part=size, metrics=metrics, extra=facts)


def _parts(looks: Table, column: str, ids: npt.NDArray[np.int64], schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """The rows of `ids` in order, `size` rows at a time; reads the table once."""
    kept = schema.empty_table()
    for batch in looks.batches(["image_id", column]):
        kept = pa.concat_tables([kept, part_rows(tables.rows_among(batch, ids), column, schema)])
        while kept.num_rows >= size:
            yield kept.slice(0, size)
            kept = kept.slice(size)
    if kept.num_rows:
        yield kept
