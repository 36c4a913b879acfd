"""ingest: where photos are listed. In: `ingest.source`. Out: the samples table (image_id, uri, split, class, metadata).

    python pipelines/ingest.py --ingest.source.kind folder --ingest.source.path ~/photos

Ids are dense, in the order of the sorted URIs. Images are not opened here: one that cannot be read fails in the stage
that reads it.
"""

from __future__ import annotations

import logging

from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr.datasets import read_source, source_state
from fgvr.tables import Table
from pipelines.flow import stage_main

log = logging.getLogger(__name__)


def run(context: RunContext) -> Table:
    """The samples table; raises SourceError for a source that cannot be listed."""
    config = context.config.ingest

    def compute(folder: StageFolder) -> StageSummary:
        listed = read_source(config.source, context.folder)
        parts = 0
        for parts, rows in enumerate(listed.parts(config.rows_per_part), start=1):
            folder.write_part(parts - 1, rows)
        summary = StageSummary(listed.kept.rows, parts=parts, rows_per_part=config.rows_per_part)
        left_out = {"duplicates": listed.duplicates, "conflicts": listed.conflicts, "without_uri": listed.without_uri}
        for what, count in left_out.items():
            if count:
                log.warning("ingest: %s %s rows; see the manifest", f"{count:,}", what.replace("_", " "))
        for remark in listed.remarks:
            log.warning("ingest: %s", remark)
        summary.metrics = {"classes": float(listed.classes), **{name: float(count) for name, count in left_out.items()}}
        summary.extra = {
            "splits": listed.splits,
            "classes": listed.classes,
            "source": config.source.kind,
            **left_out,
            "remarks": list(listed.remarks),
        }
        return summary

    decides = {"source": config.source, "state": source_state(config.source), "rows_per_part": config.rows_per_part}
    return context.stage("samples", decides=decides, inputs=[], compute=compute)


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.samples)
