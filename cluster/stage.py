"""The life of a stage: skip it when done, resume it when interrupted, count its failures, commit it at the end.

A fingerprint of everything that decides a stage's content names its folder: its part of the config, the tables it
reads, models, prompts, and the schema version. Another config gets another folder, so nothing is mixed.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster import budget, lease
from cluster.begun import Begun, limits_raised
from cluster.fingerprint import MADE_UP, fingerprint_of, made_up, plain
from cluster.parts import PartJob, PartSummary, TooManyFailures, as_begun, run_parts
from cluster.progress import duration
from cluster.run_record import RunRecord
from cluster.stage_files import RETRYING, TOO_MANY, StageClock, clear_left, finished, rows_per_part
from cluster.stage_progress import StageProgress, told
from cluster.tracking import Tracker
from fgvr import storage, tables
from fgvr.config import Config
from fgvr.config.base import TrainWorkers, Workers
from fgvr.failures import Example, Failures, allowed_failures, shown_uri, table_place
from fgvr.part_worker import REMARKS
from fgvr.redact import safe
from fgvr.schemas import Reason
from fgvr.tables import Table
from fgvr.versions import Environment, environment, mixture

log = logging.getLogger(__name__)


@dataclass
class StageSummary:
    """What a stage reports about its output; written to the manifest, MLflow and the report.

    Attributes:
        rows: number of rows, including failed ones.
        failed: number of failed rows.
        parts: number of part files.
        rows_per_part: rows of every part except the last.
        failures: failed rows by reason.
        metrics: numbers for MLflow and the report (token counts, losses, accuracies).
        extra: facts for later stages, JSON types.
        remarks: what a reader of the results must know; shown in the log, the manifest's `extra` and the report.
        examples: one failed row per reason.
    """

    rows: int
    failed: int = 0
    parts: int = 1
    rows_per_part: int = 1
    failures: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    examples: dict[str, Example] = field(default_factory=dict)
    by_rows: bool = False  # whether failed rows alone can be retried

    @classmethod
    def of(cls, rows: int, found: Failures, **more: Any) -> Self:
        """The summary of a table with `rows` rows, of which those in `found` failed."""
        return cls(rows, found.counts.total(), failures=dict(found.counts), examples=dict(found.examples), **more)


@dataclass(frozen=True)
class StageFolder:
    """Where a stage writes; its parts and files are valid only once the manifest exists."""

    uri: str
    name: str
    context: RunContext
    retry_failed: bool = False
    attempt: int = 0  # from 1 on: failed rows of a finished table are retried

    def path(self, *names: str) -> str:
        """URI of a file or folder inside."""
        return storage.join(self.uri, *names)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file beside the parts."""
        storage.write_bytes(self.path(name), data)

    def write_part(self, number: int, rows: pa.Table) -> None:
        """Write one part of a table that one process streams."""
        tables.write_part(self.uri, number, rows)

    def rows_per_part(self, wanted: int) -> int:
        """Rows per part: as recorded for the table, or `wanted` for a new table."""
        return rows_per_part(self.uri, self.name, wanted)

    def write_table(self, rows: pa.Table, rows_per_part: int | None = None) -> StageSummary:
        """Write the whole table of a stage that runs in one process; counts the failed rows."""
        size = max(1, rows_per_part or rows.num_rows)
        starts = range(0, max(rows.num_rows, 1), size)
        for number, start in enumerate(starts):
            tables.write_part(self.uri, number, rows.slice(start, size))
        return StageSummary.of(rows.num_rows, Failures.in_rows(rows), parts=len(starts), rows_per_part=size)

    def run_parts(self, job: PartJob, ids: npt.NDArray[np.int64], field: str) -> StageSummary:
        """The table of a row-parallel stage; see cluster.parts. `field`: where the config has the job's workers."""
        begun = as_begun(job)
        done: PartSummary = run_parts(
            begun,
            ids,
            max_error_share=self.context.config.run.max_error_share,
            retry_failed=self.retry_failed,
            field=field,
        )
        return StageSummary.of(
            done.rows,
            done.found,
            parts=done.parts,
            rows_per_part=begun.workers.rows_per_part,
            metrics=token_metrics(done.totals),
            remarks=tuple(sorted(done.remarks)),
            by_rows=True,
        )


def token_metrics(totals: Mapping[str, int]) -> dict[str, float]:
    """Token totals of a table as metrics; where cached tokens are counted, also their share of all prompt tokens."""
    metrics = {name: float(value) for name, value in totals.items()}
    if "cached_tokens" in totals:
        prompt = totals["prompt_tokens"]
        metrics["cached_share"] = totals["cached_tokens"] / prompt if prompt else 0.0
    return metrics


@dataclass
class RunContext:
    """A run: its config, folder and MLflow run, and the stages finished so far."""

    config: Config
    folder: str
    tracker: Tracker
    tables: list[Table] = field(default_factory=list)
    record: RunRecord | None = None
    _mixture_said: bool = False

    def keep(self, name: str, data: bytes) -> None:
        """Write a file to the run folder: something decided once for all later sessions.

        Raises:
            LeaseLost: another session has taken over the run.
        """
        place = storage.join(self.folder, name)
        lease.check(place)
        storage.write_bytes(place, data)

    def retries(self, table: Table | None) -> bool:
        """Whether failed rows of a table, from this or an earlier session, will be retried."""
        return self.config.run.retry_failed or limits_raised(table, self.config.ingest.limits)

    def stage(
        self,
        name: str,
        *,
        decides: Any,
        inputs: Sequence[Table],
        compute: Callable[[StageFolder], StageSummary],
        workers: Workers | TrainWorkers | None = None,
        versions: Mapping[str, str] | None = None,
        what: str = "",
    ) -> Table:
        """The table of a stage: found finished, or computed by `compute` and committed.

        Args:
            name: name of the table and its folder.
            decides: everything besides the inputs that decides the content: config parts and plain values. Sizes of
                worker pools do not count.
            inputs: tables that the stage reads.
            compute: writes parts and files to the folder and returns a summary.
            workers: its workers, whose type of device the manifest records; None: the driver.
            versions: by name, versions of inputs that the fingerprint uses instead of the current ones.
            what: what the console adds where the stage starts.

        Raises:
            TooManyFailures: more rows failed than run.max_error_share allows.
        """
        fingerprint = fingerprint_of(name, decides, inputs, versions)
        uri = storage.join(self.folder, "tables", name, fingerprint)
        if self.record is not None:
            self.record.stage(name, fingerprint)
        lease.check(uri)
        before = finished(uri)
        limits = self.config.ingest.limits
        retry = self.retries(before or finished(uri, RETRYING))
        if before is not None and not (retry and before.failed):
            log.info("%s: done before (%s rows)", name, f"{before.rows:,}")
            _clear_left(uri)
            self.tables.append(before)
            self._say_mixture()
            return before
        if retry and not self.config.run.retry_failed:
            log.info("%s: ingest.limits allow more than before: what failed by them is tried again", name)
        log.info("%s: %s%s", name, "started" if before is None else "trying failed rows again", what)
        invented = made_up(plain(decides), [table.extra for table in inputs])
        if invented:
            log.warning("%s: MADE UP, by simulated models (%s)", name, ", ".join(invented))
        earlier = _reopen(uri, before)
        now = environment("cpu" if workers is None else workers.device)
        begun = Begun.of(name, Begun.read(uri), now, limits, earlier)
        if workers is not None:  # other stages start from the beginning after an interruption
            begun.write(uri)
        self._say_mixture((name, [now]), *((table.name, table.made_with) for table in inputs))
        with self.tracker.stage(name, decides) as tracked:
            clock, spending = StageClock(uri), budget.current()
            counting = nullcontext() if spending is None else spending.over(name)
            with counting, clock, told(StageProgress(name, lambda: clock.seconds), tracked.progress) as progress:
                if spending is not None and not isinstance(workers, Workers):  # pools ask before each part
                    spending.check_whole()
                summary = compute(StageFolder(uri, name, self, retry, attempt=earlier.revision + 1 if earlier else 0))
                summary.examples = self._with_uris(summary.examples, inputs)
                self._check_failures(name, uri, summary)
            table = Table(
                uri=uri,
                name=name,
                fingerprint=fingerprint,
                rows=summary.rows,
                failed=summary.failed,
                parts=summary.parts,
                rows_per_part=summary.rows_per_part,
                seconds=clock.seconds + (earlier.seconds if earlier else 0.0),
                revision=0 if earlier is None else earlier.revision + int(earlier.failed != summary.failed),
                failures=summary.failures,
                extra={**summary.extra, "metrics": summary.metrics}
                | ({MADE_UP: invented} if invented else {})
                | ({REMARKS: list(summary.remarks)} if summary.remarks else {}),
                examples=summary.examples,
                made_with=begun.made_with,
                limits=begun.limits if summary.by_rows else {},
            )
            lease.check(uri)
            _before_commit(tracked.finish, table)
            lease.check(uri)
            table.commit()
            # From here on the stage is done, whatever happens: its data for MLflow has been in the run folder since
            # `finish`, and is sent when this block ends.
            _clear_left(uri)
            progress.finished(summary.rows, summary.failures, summary.metrics)
        for remark in summary.remarks:
            log.warning("%s: %s", name, remark)
        log.info("%s: %s rows, %s failed, %s", name, f"{table.rows:,}", f"{table.failed:,}", duration(table.seconds))
        if table.failed:
            for line in Failures(Counter(table.failures), table.examples).lines():
                log.warning("%s: %s", name, line)
            log.warning("%s: %s", name, table_place(uri))
        self.tables.append(table)
        return table

    def _say_mixture(self, *more: tuple[str, Sequence[Environment]]) -> None:
        """Log once per run that its tables come from different versions, as soon as two are known."""
        said = mixture([*((table.name, table.made_with) for table in self.tables), *more])
        if said and not self._mixture_said:
            log.warning("%s", said)
            self._mixture_said = True

    def _with_uris(self, examples: Mapping[str, Example], inputs: Sequence[Table]) -> dict[str, Example]:
        """The examples with the URIs of their images, for which one part of the samples table is read per example."""
        samples = next((table for table in [*inputs, *self.tables] if table.name == "samples"), None)
        return {
            reason: example if samples is None else _placed(example, samples) for reason, example in examples.items()
        }

    def _check_failures(self, name: str, uri: str, summary: StageSummary) -> None:
        wanted = summary.failures.get(Reason.STRUCK_OUT, 0)  # what people strike out is no error
        if summary.failed - wanted > allowed_failures(self.config.run.max_error_share, summary.rows):
            found = Failures(Counter(summary.failures), summary.examples)
            facts = {"rows": summary.rows, "failures": summary.failures, "examples": found.examples_json()}
            storage.write_bytes(storage.join(uri, TOO_MANY), json.dumps(facts).encode())
            raise TooManyFailures(
                f"{name}: {summary.failed} of {summary.rows} rows failed ({found.in_words()}), more than "
                f"run.max_error_share = {self.config.run.max_error_share} allows; {table_place(uri)}"
            )


def _placed(example: Example, samples: Table) -> Example:
    """The example with the URI of its image, where missing and known; an error here must not stop a stage."""
    if example.uri or not 0 <= example.image_id < samples.rows:
        return example
    try:
        uri = samples.take(np.array([example.image_id]), ["uri"])["uri"][0].as_py()
    except (OSError, KeyError, pa.ArrowException):
        return example
    return replace(example, uri=shown_uri(uri))


def _reopen(uri: str, before: Table | None) -> Table | None:
    """Mark a finished table as unfinished while its failed rows are retried; returns its former manifest.

    Parts change during the retry, and the process may die: without a manifest the next session resumes the stage, and
    from the kept copy it knows that the result is a new revision.
    """
    if before is None:
        return finished(uri, RETRYING)
    # Left by a session that ended right after its commit: the manifest already has its seconds and limits.
    clear_left(uri)
    storage.write_bytes(storage.join(uri, RETRYING), storage.read_bytes(storage.join(uri, tables.MANIFEST)))
    storage.remove(storage.join(uri, tables.MANIFEST))
    return before


def _before_commit(finish: Callable[[Table], object], table: Table) -> None:
    """Save the stage's data for MLflow right before the commit; a failure must not stop the commit."""
    try:
        finish(table)
    except Exception as error:
        log.warning("%s: not kept for MLflow: %s: %s", table.name, type(error).__name__, safe(str(error)))
        log.debug("the whole error", exc_info=error)


def _clear_left(uri: str) -> None:
    """Remove what only an unfinished stage needs, also after a session that was killed right after its commit.

    Leftovers do no harm, and storage errors do not undo a commit.
    """
    try:
        clear_left(uri)
    except Exception as error:
        log.warning("%s: files of the unfinished stage could not be removed: %s", uri, safe(str(error)))
