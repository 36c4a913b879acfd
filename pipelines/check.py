"""check: what is wrong with the photos, before money is spent. In: samples. Out: photo_checks, findings.

    python pipelines/check.py --ingest.source.kind folder --ingest.source.path ~/photos --run.name mine

Needs no model. Every photo is read once. Found are pictures that are dark, light, blurred, tiny, oddly long or show
nothing; exact copies and near-duplicates, above all those in two splits or with two classes; files that cannot be read;
and, where the source knows the classes, names alike, classes with few photos, or with none to learn from. Nothing is
changed or left out: `findings.csv` and `findings.html` beside the table show the photos. See docs/checks.md.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from fgvr.config import Config
from pipelines.command import stage_main
from pipelines.run_tables import Run
from pipelines.stage import RowJob, RowStage, Stage

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.tables import Table

log = logging.getLogger(__name__)
MEASURING: Final = 1
"""Increase it when the same photo would give other numbers."""
CSV_FILE, PAGE_FILE = "findings.csv", "findings.html"
SHOWN_NAMES: Final = 5


class PhotoChecks(RowStage):
    """Numbers about every photo: size, brightness, contrast, sharpness, a digest and a perceptual hash."""

    table = "photo_checks"
    phase = None

    def wanted(self, config: Config) -> bool:
        """Only where the evaluation asks for leaks between splits."""
        return config.evaluate.leaks != "ignore"

    def workers(self, config: Config) -> str | None:
        """Workers of its own."""
        return "check.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The photos' places."""
        return ("samples",)

    def recipe(self, run: Run) -> dict[str, Any]:
        """How a photo is read and measured."""
        return {"measuring": MEASURING, "limits": run.config.ingest.limits}

    def job(self, run: Run) -> RowJob:
        """One row per photo of any split."""
        from fgvr.checks.photo_facts import CheckWorker
        from fgvr.schemas import PHOTO_CHECKS
        from fgvr.sources.sampling import split_ids

        config = run.config
        threads = max(2, int(config.check.workers.num_cpus))
        arguments = {"limits": config.ingest.limits, "threads": threads}
        return RowJob(split_ids(run.table("samples"), None), CheckWorker, arguments, PHOTO_CHECKS)


class Findings(Stage):
    """What is wrong with photos: one row per photo and issue, the worst first."""

    table = "findings"
    phase = None

    def wanted(self, config: Config) -> bool:
        """As for the numbers."""
        return config.evaluate.leaks != "ignore"

    def reads(self, run: Run) -> Iterable[str]:
        """The numbers, and the photos' splits and classes."""
        return ("samples", "photo_checks")

    def recipe(self, run: Run) -> dict[str, Any]:
        """The thresholds and the rules."""
        from fgvr.checks import findings

        limits = {name: value for name, value in run.config.check.deciding().items() if name != "workers"}
        return {"rules": findings.RULES, "check": limits}

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Look at all photos at once; copies are found without comparing each with each."""
        from fgvr.checks.findings import Photos, class_findings, findings

        config, samples = run.config, run.table("samples")
        rows = samples.read(["split", "class_name"])
        photos = Photos(run.table("photo_checks").read(), rows["split"].to_pylist(), rows["class_name"].to_pylist())
        found = findings(photos, config.check)
        odd = class_findings(photos.splits, photos.classes, config.label.images.drawn_from, config.check.few)
        summary = folder.write_table(found)
        counts = Counter(found["issue"].to_pylist())
        summary.metrics = {issue.replace(" ", "_"): float(count) for issue, count in counts.items()}
        summary.extra = {
            "photos": samples.rows,
            "counts": dict(counts),
            "names_alike": odd.alike,
            "few_photos": odd.few,
            "not_learned": odd.absent,
        }
        folder.write_bytes(CSV_FILE, _csv(found, samples))
        folder.write_bytes(PAGE_FILE, _page(run, found, summary.extra))
        return summary


def _csv(found: Any, samples: Table) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("uri", "issue", "value", "copy_of", "detail"))
    for start in range(0, found.num_rows, 4096):
        part = found.slice(start, 4096)
        others = part["copy_of"].fill_null(0).to_numpy()
        uris = samples.take(part["image_id"].to_numpy(), ["uri"])["uri"].to_pylist()
        copies = samples.take(others, ["uri"])["uri"].to_pylist()
        for row, uri, copy in zip(part.to_pylist(), uris, copies, strict=True):
            value = "" if row["value"] is None else f"{abs(row['value']):.6g}"
            writer.writerow((uri, row["issue"], value, "" if row["copy_of"] is None else copy, row["detail"]))
    return text.getvalue().encode()


def _page(run: Run, found: Any, facts: dict[str, Any]) -> bytes:
    from fgvr.checks.findings import REMEDIES, Issue
    from fgvr.report.check_page import CheckedPhoto, IssueSection, check_page

    samples, limits = run.table("samples"), run.config.ingest.limits
    sections = []
    issues = found["issue"].to_pylist()
    first = {issue: issues.index(issue) for issue in dict.fromkeys(issues)}
    for issue in Issue:
        if str(issue) not in first:
            continue
        count = facts["counts"][str(issue)]
        rows = found.slice(first[str(issue)], min(count, CheckedPhoto.SHOWN)).to_pylist()
        cards = [CheckedPhoto.of(row, samples, limits) for row in rows]
        sections.append(IssueSection(str(issue), count, REMEDIES[issue], cards))
    return check_page(run.config.run.name, facts, sections).encode()


def show(run: Run) -> None:
    """Print what was found and what to do about it."""
    from fgvr.checks.findings import REMEDIES, Issue

    table = run.table("findings")
    counts, photos = table.extra["counts"], table.extra["photos"]
    lines = [f"{photos:,} photos were checked"]
    lines += [
        f"{count:>9,}  {issue} ({100 * count / photos:.2g}%): {REMEDIES[issue]}"
        for issue in Issue
        if (count := counts.get(str(issue)))
    ]
    if not counts:
        lines.append("nothing was found")
    alike, few, absent = (table.extra[name] for name in ("names_alike", "few_photos", "not_learned"))
    if alike:
        lines.append(f"{len(alike):>9,}  pairs of class names alike: {_some([f'{a} / {b}' for a, b in alike])}")
    if few:
        lines.append(f"{len(few):>9,}  classes with few photos to learn from: {_some([f'{n} ({c})' for n, c in few])}")
    if absent:
        lines.append(f"{len(absent):>9,}  classes without a photo to learn from: {_some(absent)}")
    lines.append(f"photos and reasons: {table.path(CSV_FILE)}, with pictures: {table.path(PAGE_FILE)}")
    for line in lines:
        log.info("%s", line)


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:SHOWN_NAMES])}{' …' if len(names) > SHOWN_NAMES else ''}"


if __name__ == "__main__":
    stage_main(__doc__, "findings", show=show)
