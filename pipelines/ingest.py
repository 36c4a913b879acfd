"""ingest: list the photos. In: `ingest.source`. Out: the samples table (image_id, uri, split, class, metadata).

    python pipelines/ingest.py --ingest.source.kind folder --ingest.source.path ~/photos

Ids are dense and follow the order of the sorted URIs. Images are not opened here: one that cannot be read fails in the
stage that reads it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fgvr import storage
from fgvr.config.data import (
    BirdScenesSource,
    CocoSource,
    FieldGuideSource,
    FolderSource,
    LayoutSource,
    ParquetSource,
    Source,
    TableSource,
    WebDatasetSource,
)
from fgvr.failures import allowed_failures
from fgvr.redact import masked_value
from fgvr.sources.omissions import PICTURES, Why, sentences
from fgvr.tables import GROWN
from pipelines.command import stage_main
from pipelines.growth import Added, Growth
from pipelines.run_tables import Run, per_run
from pipelines.stage import Stage

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.config import Config
    from fgvr.sources.marks import Marks
    from fgvr.sources.source import SampleRows
    from fgvr.tables import Table
    from pipelines.listing import Listing

log = logging.getLogger(__name__)
LISTING_RULES = 1
"""Increased when the same source gives other rows; not for more default file extensions (`deciding`)."""


class Samples(Stage):
    """All photos: one row per photo, with its location, its split, and its true class where the source knows one."""

    table = "samples"
    phase = None

    def check(self, config: Config) -> None:
        """Check that the source exists."""
        from fgvr.sources.source import check_place, check_source

        check_place(config.ingest.source)
        check_source(config.ingest.source)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The identity of the source, the state of the files that name its photos, and what was added since."""
        return _listing(run).valid.deciding

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """List the photos.

        Raises:
            SourceError: the source cannot be listed.
            TooManyFailures: more of its tar or Parquet files are damaged than run.max_error_share allows.
        """
        from cluster.stage import StageSummary
        from fgvr.sources import marks
        from fgvr.sources.source import read_source
        from pipelines.listing import MARKS

        config, found = run.config.ingest, _listing(run)
        if found.added is not None:
            return _grown(run, folder, found)
        now = found.marks
        listed = read_source(config.source, run.folder, config.limits.allowed_roots)
        _check_files(listed, run.config.run.max_error_share)
        named: list[str] | None = [] if _is_looked_at_by_name(config.source) else None
        parts, size = 0, folder.rows_per_part(config.rows_per_part)
        for parts, rows in enumerate(listed.parts(size), start=1):
            folder.write_part(parts - 1, rows)
            if named is not None and len(named) <= marks.MOST:
                named += rows["uri"].to_pylist()
        if named is not None:  # no photo of a list has been read so far
            now = marks.look_at_named(named)
        if now is not None:
            folder.write_bytes(MARKS, json.dumps(now).encode())
        summary = StageSummary(listed.kept.rows, parts=parts, rows_per_part=size)
        left_out = {"duplicates": listed.duplicates, "conflicts": listed.conflicts, "without_uri": listed.without_uri}
        _say_left_out(listed, left_out)
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
            "remarks": [masked_value(remark) for remark in listed.remarks],  # remarks repeat the source as it was given
        }
        return summary

    def made(self, run: Run, table: Table) -> None:
        """Remember the listing, and log where an earlier version, whose listing is kept, listed differently."""
        found = _listing(run)
        found.valid.keep()
        Growth(found.valid.ungrown, found.valid.grown).keep(run, _lineage(run.config.ingest.source))
        if "left_out" not in table.extra and (otherwise := _listed_otherwise(run.config.ingest.source)):
            log.warning("ingest: the photos were listed by an earlier version, %s", otherwise)


@dataclass(frozen=True)
class Found:
    """The listing that holds.

    Attributes:
        valid: what decides it.
        marks: the current state of the photos, where it is checked: read before the photos are listed, so that the next
            session notices what is replaced in between.
        added: the photos that it has beside those of the listing before, where it is not made yet.
    """

    valid: Listing
    marks: Marks | None
    added: Added | None = None


@per_run
def _listing(run: Run) -> Found:
    """The valid listing; where `run.increment` asks for it, the source is listed again and compared with it."""
    from fgvr.sources.source import listing_state
    from pipelines.listing import Listing

    config = run.config.ingest
    decides: dict[str, Any] = {
        "source": deciding(config.source),
        "state": listing_state(config.source),
        "listing": LISTING_RULES,
    }
    if config.limits.allowed_roots:  # checked only here: the listing decides what the other stages read
        decides["allowed_roots"] = list(config.limits.allowed_roots)
    listing = Listing.of(run, decides)
    if (before := _as_before(config.source, decides["source"])) is not None and not listing.is_made:
        earlier = Listing.of(run, decides | {"source": before})
        listing = earlier if earlier.is_made else listing
    growth, adds = Growth.read(run, _lineage(config.source)), run.config.run.increment != "ignore"
    if growth is not None and (adds or growth.first == listing.ungrown):
        first = {name: value for name, value in growth.first.items() if name != "replaced"}
        listing = replace(listing, first=first, replaced=growth.first.get("replaced", ""), grown=growth.steps)
    listing, now = listing.looked_at(config)
    if not (adds and run.computes and listing.is_made):
        return Found(listing, now)
    from fgvr.sources.source import read_source

    log.info("ingest: looking for photos that were added (run.increment = %s)", run.config.run.increment)
    table = listing.table()
    added = Added.of(table, read_source(config.source, run.folder, config.limits.allowed_roots), table.rows_per_part)
    if not added.rows:
        log.info("ingest: none was added to %s photos", f"{table.rows:,}")
        return Found(listing, now)
    log.info("ingest: %s", added.in_words())
    return Found(replace(listing, grown=(*listing.grown, added.digest)), now, added)


def _grown(run: Run, folder: StageFolder, found: Found) -> StageSummary:
    """Write the listing before, and the added photos behind it."""
    from cluster.stage import StageSummary
    from fgvr.sources import marks
    from pipelines.listing import MARKS

    added, config = found.added, run.config.ingest
    if added is None:
        raise TypeError("nothing was added")
    listed, before, parts = added.listed, added.before, 0
    _check_files(listed, run.config.run.max_error_share)
    size = folder.rows_per_part(before.rows_per_part)
    named: list[str] = []
    for parts, rows in enumerate(added.parts(size), start=1):
        folder.write_part(parts - 1, rows)
        if _is_looked_at_by_name(config.source) and len(named) <= marks.MOST:
            named += rows["uri"].to_pylist()
    now = marks.look_at_named(named) if named else found.marks
    if now is not None:
        folder.write_bytes(MARKS, json.dumps(now).encode())
    splits = dict(before.extra["splits"])
    for split, count in added.splits.items():
        splits[split] = splits.get(split, 0) + count
    summary = StageSummary(before.rows + added.rows, parts=parts, rows_per_part=size)
    left_out = {"duplicates": listed.duplicates, "conflicts": listed.conflicts, "without_uri": listed.without_uri}
    _say_left_out(listed, left_out)
    summary.metrics = {"classes": float(listed.classes), "added": float(added.rows), "gone": float(added.gone)}
    summary.extra = {
        **before.extra,
        **left_out,
        "splits": splits,
        "classes": max(listed.classes, int(before.extra["classes"])),
        "files": listed.files,
        "bad_files": len(listed.bad_files),
        "left_out": {why: dict(counts) for why, counts in listed.left_out.items()},
        "remarks": [*(masked_value(remark) for remark in listed.remarks), f"{added.in_words()} (run.increment)"],
        GROWN: added.history,
    }
    return summary


def _lineage(source: Source) -> str:
    """What stays the same of a source when photos are added: where it is and how it is read."""
    from cluster.fingerprint import fingerprint_of

    return fingerprint_of("samples", {"source": deciding(source), "listing": LISTING_RULES}, [])


def _as_before(source: Source, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What earlier versions had for `deciding` where that differs: all endings of a table, .v1.csv of list.v1.csv."""
    if not isinstance(source, TableSource):
        return None
    endings = PurePosixPath(storage.absolute(source.path).rpartition("/")[2].lower()).suffixes
    return {**facts, "path": [facts["path"][0], *endings]} if len(endings) > 1 else None


def _is_looked_at_by_name(source: Source) -> bool:
    from fgvr.sources.marks import names_photos

    return names_photos(source) and getattr(source, "replaced", "keep") != "keep"


def _say_left_out(listed: SampleRows, left_out: Mapping[str, int]) -> None:
    for what, count in left_out.items():
        if count:
            log.warning("ingest: %s %s rows; see the manifest", f"{count:,}", what.replace("_", " "))
    for why, sentence in sentences(listed.left_out).items():
        photos = why in {Why.ENDING, Why.LINK} or not PICTURES.isdisjoint(listed.left_out[why])
        log.log(logging.WARNING if photos else logging.INFO, "ingest: %s", sentence)
    for remark in listed.remarks:
        log.warning("ingest: %s", remark)


def _listed_otherwise(source: Source) -> str | None:
    """How an earlier version, whose listing is kept, listed differently, and how to list the photos again."""
    match source:
        case FolderSource() | WebDatasetSource():
            did, remedy = "which read fewer endings and did not count what it left out", "ingest.source.snapshot"
        case ParquetSource():
            did = "which took names that differ only in blanks or marks for different names"
            remedy = "ingest.source.snapshot"
        case TableSource():
            did, remedy = (
                "which took NA, null and nan for empty cells, and names that differ only in blanks for different names",
                "run.name",
            )
        case _:
            return None
    return f"{did}; another {remedy} lists them again"


def deciding(source: Source) -> dict[str, Any]:
    """What the fingerprint of the samples contains of a source: its identity, not its spelling.

    A listing is kept until `snapshot` changes, even when a later version lists more by default: so `extensions` and
    `exclude` count only where they are not the defaults. Files of names count by their content (`listing_state`).
    """
    from cluster.fingerprint import plain

    facts: dict[str, Any] = {
        name: value for name, value in plain(source).items() if name not in {"replaced", "class_names"}
    }
    defaults = type(source).model_fields
    for name in ("extensions", "exclude"):
        if name in facts:
            facts[name] = sorted({text.lower() for text in facts[name]})
            if facts[name] == sorted({text.lower() for text in defaults[name].default}):
                del facts[name]
    match source:
        case TableSource():  # its rows count by their content; relative paths start at its folder
            folder, _, name = storage.absolute(source.path).rpartition("/")
            facts["path"] = [storage.canonical(folder or "/"), PurePosixPath(name.lower()).suffix]
        case CocoSource():
            del facts["path"]
            for name in ("train_annotations", "train_images", "test_annotations", "test_images"):
                facts[name] = storage.canonical(storage.join(source.path, facts[name]))
        case LayoutSource():
            from fgvr.sources.layouts import open_layout

            facts["path"] = storage.canonical(open_layout(source).root)
        case FieldGuideSource() | BirdScenesSource():
            facts["draw_to"] = None if source.draw_to is None else storage.canonical(source.draw_to)
        case _:
            facts["path"] = storage.canonical(source.path)
    return facts


def _check_files(listed: SampleRows, max_error_share: float) -> None:
    """Count damaged tar and Parquet files: each is one row, because the number of its images is unknown."""
    from cluster.parts import TooManyFailures
    from fgvr.failures import one_line

    if len(listed.bad_files) > allowed_failures(max_error_share, listed.files):
        first = one_line(listed.bad_files[0])
        raise TooManyFailures(
            f"ingest: {len(listed.bad_files)} of {listed.files} files cannot be read to their end, more than "
            f"run.max_error_share = {max_error_share} allows: {first}. Mend or remove them, or raise "
            "run.max_error_share"
        )


if __name__ == "__main__":
    stage_main(__doc__, "samples")
