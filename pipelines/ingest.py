"""ingest: where photos are listed. In: `ingest.source`. Out: the samples table (image_id, uri, split, class, metadata).

    python pipelines/ingest.py --ingest.source.kind folder --ingest.source.path ~/photos

Ids are dense, in the order of the sorted URIs. Images are not opened here: one that cannot be read fails in the stage
that reads it.
"""

from __future__ import annotations

import logging
from typing import Any

from cluster.parts import TooManyFailures
from cluster.stage import RunContext, StageFolder, StageSummary, plain
from fgvr.config.data import (
    FIRST_ENDINGS,
    FolderSource,
    ParquetSource,
    Source,
    TableSource,
    WebDatasetSource,
)
from fgvr.datasets import SampleRows, check_place, read_source, source_state
from fgvr.failure_limit import allowed_failures
from fgvr.failures import one_line
from fgvr.omissions import PICTURES, Why, sentences
from fgvr.tables import Table
from pipelines.flow import stage_main

log = logging.getLogger(__name__)


def run(context: RunContext) -> Table:
    """The samples table.

    Raises:
        SourceError: a source that cannot be listed.
        TooManyFailures: more of its tars or Parquet files are damaged than run.max_error_share allows.
    """
    config = context.config.ingest

    def compute(folder: StageFolder) -> StageSummary:
        listed = read_source(config.source, context.folder, config.limits.allowed_roots)
        _check_files(listed, context.config.run.max_error_share)
        parts, size = 0, folder.rows_per_part(config.rows_per_part)
        for parts, rows in enumerate(listed.parts(size), start=1):
            folder.write_part(parts - 1, rows)
        summary = StageSummary(listed.kept.rows, parts=parts, rows_per_part=size)
        left_out = {"duplicates": listed.duplicates, "conflicts": listed.conflicts, "without_uri": listed.without_uri}
        for what, count in left_out.items():
            if count:
                log.warning("ingest: %s %s rows; see the manifest", f"{count:,}", what.replace("_", " "))
        for why, sentence in sentences(listed.left_out).items():
            photos = why in {Why.ENDING, Why.LINK} or not PICTURES.isdisjoint(listed.left_out[why])
            log.log(logging.WARNING if photos else logging.INFO, "ingest: %s", sentence)
        for remark in listed.remarks:
            log.warning("ingest: %s", remark)
        summary.metrics = {
            "classes": float(listed.classes),
            **{name: float(count) for name, count in left_out.items()},
            **{f"left_out_{why}": float(sum(counts.values())) for why, counts in listed.left_out.items()},
        }
        summary.extra = {
            "splits": listed.splits,
            "classes": listed.classes,
            "source": config.source.kind,
            "files": listed.files,
            "bad_files": len(listed.bad_files),
            **left_out,
            "left_out": {why: dict(counts) for why, counts in listed.left_out.items()},
            "remarks": list(listed.remarks),
        }
        return summary

    decides: dict[str, object] = {"source": deciding(config.source), "state": source_state(config.source)}
    if config.limits.allowed_roots:  # only here: what the other stages read was decided by the listing
        decides["allowed_roots"] = list(config.limits.allowed_roots)
    table = context.stage("samples", decides=decides, inputs=[], compute=compute)
    if "left_out" not in table.extra and (otherwise := _listed_otherwise(config.source)):
        log.warning("ingest: the photos were listed by an earlier version, %s", otherwise)
    return table


def _listed_otherwise(source: Source) -> str | None:
    """What an earlier version, whose listing is kept, did otherwise, and how photos are listed again."""
    match source:
        case FolderSource() | WebDatasetSource():
            did, remedy = "which read fewer endings and did not count what it left out", "ingest.source.snapshot"
        case ParquetSource():
            did, remedy = "for which names that differ by blanks or marks were others", "ingest.source.snapshot"
        case TableSource():
            did, remedy = (
                "for which NA, null and nan were empty cells, and names that differ by blanks others",
                "run.name",
            )
        case _:
            return None
    return f"{did}; another {remedy} lists them again"


def deciding(source: Source) -> dict[str, Any]:
    """What of a source stands in the samples' fingerprint.

    A listing is kept until `snapshot` changes, so also when a later version lists more by default: `extensions` and
    `exclude` count where they are not the defaults, and the defaults stand as the first version had them.
    """
    facts: dict[str, Any] = plain(source)
    defaults = type(source).model_fields
    if "exclude" in facts and source.exclude == defaults["exclude"].default:
        del facts["exclude"]
    if "extensions" in facts and source.extensions == defaults["extensions"].default:
        facts["extensions"] = list(FIRST_ENDINGS)
    elif "extensions" in facts and source.extensions == FIRST_ENDINGS:
        facts["extensions"] = {"only": facts["extensions"]}
    return facts


def _check_files(listed: SampleRows, max_error_share: float) -> None:
    """Of a tar or Parquet file that cannot be read one row says so; how many images it held is not known."""
    if len(listed.bad_files) > allowed_failures(max_error_share, listed.files):
        first = one_line(listed.bad_files[0])
        raise TooManyFailures(
            f"ingest: {len(listed.bad_files)} of {listed.files} files cannot be read to their end, more than "
            f"run.max_error_share = {max_error_share} allows: {first}. Mend or remove them, or raise "
            "run.max_error_share"
        )


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.samples, check=lambda config: check_place(config.ingest.source))
