"""MLflow tracking: a parent run for the pipeline, a nested run per stage, artifacts and models.

How the tracking of a run is opened: `cluster.tracked_run`.

Nothing here decides whether a stage is done, and nothing here stops a stage. What MLflow does not accept, because its
server is down, hangs or refuses a value, waits in the run folder (`cluster.outbox`) and is sent at the next chance: at
the next stage, at the end of the run, at its next start.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.fingerprint import MADE_UP, plain
from cluster.heartbeat import leave
from cluster.outbox import FAILED, FINISHED, KILLED, PROGRESS, Artifact, News, Note, Outbox
from cluster.stage_files import finished
from cluster.tracking_link import Away, Refused
from cluster.tracking_names import LONGEST_TAG, flat, named, names_tag, run_name
from cluster.tracking_send import PARENT_TAG, Sender
from fgvr import storage
from fgvr.errors import UserError, user_error_in
from fgvr.failures import Failures
from fgvr.redact import masked, safe
from fgvr.tables import Table

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger(__name__)

RUN_FILE = "mlflow_run.json"
DESCRIPTION = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""


class TrackingError(UserError, RuntimeError):
    """A run cannot be tracked as the config says; the message says what to change."""


class StageRun:
    """The nested run of a running stage."""

    def __init__(self, tracker: Tracker, note: Note) -> None:
        self._tracker, self.note = tracker, note
        self._lock = threading.Lock()
        self._later = News()

    @property
    def run_id(self) -> str:
        """MLflow's id; empty while MLflow does not know that the stage has started."""
        return self.note.run_id

    def progress(self, numbers: Mapping[str, float]) -> None:
        """Log the stage's progress as `progress.…`; step: its seconds so far. A failing server stops nothing."""
        with self._lock:
            values = {f"{PROGRESS}{name}": value for name, value in numbers.items()}
            self._later.measure(values, step=int(numbers.get("seconds", 0)))
            self._tracker.tell_progress(self.note, self._later)

    def finish(self, table: Table) -> None:
        """Save what the stage produced: rows, failures by reason, duration and the stage's own metrics.

        Nothing is sent before the block of `Tracker.stage` ends, so that the table is committed first. A process that
        dies in between leaves a note, and the next session checks whether the table was committed.
        """
        self.add_progress()
        numbers = {"rows": table.rows, "failed": table.failed, "seconds": table.seconds}
        numbers |= {f"failed.{reason}": count for reason, count in table.failures.items()}
        self.note.news.measure(numbers | table.extra.get("metrics", {}))
        found = Failures(Counter(table.failures), table.examples)
        tags = {f"failed.{reason}": line for reason, line in zip(found.ranked(), found.lines(), strict=True)}
        if MADE_UP in table.extra:
            tags[MADE_UP] = ", ".join(table.extra[MADE_UP])
        self.note.news.tag({"table": table.uri, "fingerprint": table.version, **tags})
        self.note.end(FINISHED)
        self.note.table = self._tracker.inside(table.uri)
        self._tracker.keep(self.note)

    def log_model(self, folder: str, name: str) -> None:
        """Register a model in the stage's folder, to be logged when the stage has ended well."""
        self.note.models.append((self._tracker.inside(folder), name))

    def add_progress(self) -> None:
        """Send the unsent progress together with the rest."""
        with self._lock:
            self.note.news.add(self._later)
            self._later = News()


_stage: ContextVar[StageRun | None] = ContextVar("tracked stage", default=None)
_open: list[Tracker] = []


def current() -> Tracker | None:
    """The tracker of the open run, or None."""
    return _open[-1] if _open else None


class Tracker:
    """The parent run of a pipeline; a continued run keeps its MLflow run.

    Args:
        uri: URI of the MLflow store, without a password.
        sender: sends notes to it.
        note: the note of the pipeline's own run.
        folder: the run folder.
        store: key of the store in the run folder.
    """

    def __init__(self, uri: str, sender: Sender, note: Note, folder: str, store: str) -> None:
        self.uri = uri
        self.note = note
        self._sender, self._folder, self._store = sender, folder, store
        self._outbox = Outbox(folder)
        self._waiting: dict[str, Note] = {}
        self._refused: set[str] = set()
        self._lock = threading.RLock()
        self._warned = False
        self._let_go = False

    @property
    def run_id(self) -> str:
        """MLflow's id of the parent run; empty while MLflow has not answered."""
        return self.note.run_id

    @property
    def run(self) -> Run:
        """The parent run as MLflow knows it now."""
        return self._sender.client.get_run(self.run_id)

    def begin(self, config_text: str, given: Mapping[str, Any]) -> None:
        """Open the parent run, new or continued, and send what earlier sessions could not.

        Args:
            config_text: the whole config.
            given: the fields that are not at their defaults, which become parameters of a new run; a continued one
                keeps those of its first session, since MLflow changes none.

        Raises:
            TrackingError: the store or the experiment does not exist.
        """
        self.note.news.files.append(Artifact("config.yaml", text=config_text))
        for note in self._outbox.read():
            try:
                self._take_over(note)
            except Exception as error:  # from an object store, or an unreadable manifest: the note is kept
                log.warning("%s is kept for later: %s", note.file, safe(str(error)))
        with self._lock:
            try:
                self._sender.experiment_id  # noqa: B018  # asks for it
                if self.note.run_id and not self._sender.is_there(self.note.run_id):
                    log.warning("MLflow run %s of an earlier session is gone; starting a new one", self.note.run_id)
                    self.note.run_id = ""
                earlier = bool(self.note.run_id)
                if not earlier:
                    self.note.news.params, renamed = named(flat(plain(given)))
                    self.note.news.tags |= names_tag(renamed)
                self._sender.run_id(self.note, None)
                self._write_run_file()
                if earlier:
                    self._sender.link.call(lambda: _end_killed_stages(self.run_id))
            except Away as away:
                self._say_away(away)
            except Refused as refused:
                raise TrackingError(f"tracking.uri = {masked(self.uri)}: {refused}") from refused
        self.flush()

    def let_go(self) -> None:
        """Stop sending, without ending any MLflow run: another session owns the run and continues it."""
        self._let_go = True

    def end(self, status: str) -> None:
        """Close the parent run, and try once more to send what MLflow has not accepted so far."""
        if self._let_go:
            return
        self.note.end(status)
        self._sender.link.try_soon()
        self._sender.uploads.try_soon()
        self.flush(again=True)
        left = [note for note in [self.note, *self._waiting.values()] if note.waits()]
        for note in left:
            self._outbox.keep(note)
        if left:
            log.warning(
                "MLflow at %s does not have all of this run yet: %d of its runs wait in %s. No result is missing; the "
                "same command sends the rest when it answers",
                masked(self.uri),
                len(left),
                self._outbox.folder,
            )

    @contextmanager
    def stage(self, name: str, decides: Any) -> Iterator[StageRun]:
        """A nested run that fails with the stage, with what decides the stage's content as parameters."""
        note = Note.new(run_name(name))
        note.news.params, renamed = named(flat(plain(decides)))
        note.news.tags = names_tag(renamed)
        self.tell(note)
        stage = StageRun(self, note)
        before = _stage.set(stage)
        why: BaseException | None = None
        try:
            yield stage
        except BaseException as error:
            why = error
            raise
        finally:
            _stage.reset(before)
            self._close(stage, why)

    def _close(self, stage: StageRun, why: BaseException | None) -> None:
        """Handle the end of a stage's block; an error here does not change the outcome of the stage."""
        try:
            note = stage.note
            stage.add_progress()
            # If the interruption came right after the commit, the stage is done and will not be computed again.
            done = why is None or self._is_committed(note)
            if isinstance(why, Exception) and not done:
                note.news.tag({"stopped": safe(str(user_error_in(why) or why))[:LONGEST_TAG]})
            if note.ended is None or not done:
                note.end(FINISHED if done else FAILED)
            note.table = ""  # its outcome is known
            self.tell(note)
        except Exception as error:
            self._say_slip(error)

    def log_metrics(self, metrics: dict[str, float]) -> None:
        """Log metrics of the whole pipeline; inside a stage's block they are sent when the stage has ended well."""
        news = News()
        news.measure(metrics)
        self._of_run(news)

    def describe(self, text: str) -> None:
        """Set the description of the parent run, Markdown, which MLflow shows on its page; likewise."""
        news = News()
        news.tag({DESCRIPTION: text})
        self._of_run(news)

    def log_file(self, uri: str, folder: str | None = None) -> None:
        """Log a file of the run folder as an artifact of the parent run; inside a stage's block likewise."""
        self._of_run(News(files=[Artifact(Path(uri).name, folder or "", self.inside(uri))]))

    def tell(self, note: Note) -> None:
        """Send a note below the parent run, or keep it until that is possible."""
        with self._lock:
            note.store = self._store
            self._waiting[note.file] = note
            self.flush()
            if note.waits():
                self.keep(note)

    def tell_progress(self, note: Note, news: News) -> None:
        """Send news that are not urgent: they stay in `news` where MLflow cannot be reached now."""
        if self._let_go or not note.run_id or not self._sender.link.ready() or not self._lock.acquire(blocking=False):
            return
        try:
            self._sender.tell(note.run_id, news)
        except (Away, Refused) as error:
            self._say_away(error)
        finally:
            self._lock.release()

    def keep(self, note: Note) -> None:
        """Write a note to the run folder."""
        if self._let_go:
            return
        note.store = self._store
        self._outbox.keep(note)

    def inside(self, uri: str) -> str:
        """A location relative to the run folder if it lies inside, so that the folder can be moved."""
        return uri.removeprefix(f"{self._folder.rstrip('/')}/")

    def flush(self, *, again: bool = False) -> None:
        """Send everything that waits, in order, unless MLflow failed to answer a moment ago.

        Args:
            again: whether to send also what it refused before.
        """
        with self._lock:
            if self._let_go or not self._sender.link.ready():
                return
            try:
                self._send(self.note, None, again)
                for _, note in sorted(self._waiting.items()):
                    if self.run_id:
                        self._send(note, self.run_id, again)
            except Away as away:
                self._say_away(away)
            except Refused as refused:
                self._say_refused(refused)
            # A bug here, or an unexpected error of a library, must not cost a table either.
            except Exception as error:
                self._say_slip(error)

    def _send(self, note: Note, parent: str | None, again: bool) -> None:
        if not note.waits() or (note.file in self._refused and not again):
            return
        new = not note.run_id
        try:
            try:
                self._sender.send(note, parent)
            except Refused as refused:
                if not refused.missing:
                    raise
                self._find_again(note)
                self._sender.send(note, self.run_id if parent else None)
        except Refused as refused:
            self._say_refused(refused)
            self._refused.add(note.file)
            return
        self._warned = False
        if note is self.note and new:
            self._write_run_file()
        if note.waits():
            if self._sender.uploads.ready():  # then it was refused
                self._refused.add(note.file)
        else:
            self._refused.discard(note.file)
            self._outbox.forget(note)
            if note.ended is not None:
                self._waiting.pop(note.file, None)

    def _find_again(self, note: Note) -> None:
        """Handle a lost MLflow run, for example after the server lost its database: look for it, or create it again."""
        if not self._sender.is_there(self.note.run_id):
            self._sender.__dict__.pop("experiment_id", None)
            self.note.run_id, self.note.untold = "", True
            self._sender.run_id(self.note, None)
            self._write_run_file()
        if note is self.note:
            return
        if self._sender.is_there(note.run_id):
            note.news.tags[PARENT_TAG] = self.run_id
        else:
            note.run_id = ""

    def _take_over(self, note: Note) -> None:
        """Take over a note of an earlier session: a committed stage has ended well; one without an end was killed."""
        if note.store != self._store:
            note.run_id = ""
        if note.tag == self.note.tag:
            self.note.news.add(note.news)
            self.note.begun = min(self.note.begun, note.begun)
            self.keep(self.note)
            if note.file != self.note.file:
                self._outbox.forget(note)
            return
        if note.ended is None or (note.table and not self._is_committed(note)):
            note.end(KILLED)
        note.table = ""
        self._waiting[note.file] = note

    def _is_committed(self, note: Note) -> bool:
        """Whether the table exists that the stage was about to commit when its note was saved."""
        return bool(note.table) and finished(storage.join(self._folder, note.table)) is not None

    def _of_run(self, news: News) -> None:
        stage = _stage.get()
        if stage is not None:
            stage.note.of_run.add(news)
            return
        with self._lock:
            self.note.news.add(news)
            self.flush()
            if self.note.waits():
                self.keep(self.note)

    def _write_run_file(self) -> None:
        facts = {"tracking_uri": masked(self.uri), "run_id": self.note.run_id, "key": self.note.tag[1]}
        leave(storage.join(self._folder, RUN_FILE), json.dumps(facts).encode())

    def _say_slip(self, error: Exception) -> None:
        log.warning("MLflow did not get everything: %s: %s", type(error).__name__, safe(str(error)))
        log.debug("the whole error", exc_info=error)

    def _say_away(self, why: Exception) -> None:
        if not self._warned:
            log.warning(
                "MLflow at %s does not accept what it is sent (%s). The run goes on; what MLflow misses is kept in %s "
                "and sent when it answers: at the next stage, at the end, or at the next start of this run",
                masked(self.uri),
                why,
                self._outbox.folder,
            )
        self._warned = True

    def _say_refused(self, why: Exception) -> None:
        log.warning("MLflow refuses something, which is kept in %s: %s", self._outbox.folder, why)


@contextmanager
def opened(tracker: Tracker) -> Iterator[None]:
    """Within the block, `tracker` is that of the open run."""
    _open.append(tracker)
    try:
        yield
    finally:
        _open.remove(tracker)


def let_go() -> None:
    """Forget the open runs without ending them: another session owns the run folder and continues them."""
    for tracker in _open:
        tracker.let_go()


def log_history(history: Sequence[Mapping[str, float]]) -> None:
    """Metrics of a training's reports at the stage that is open; nothing where none is.

    Each at its `step`, of a training that reports within epochs, else at its `epoch`: MLflow takes whole numbers.
    """
    stage = _stage.get()
    if stage is not None:
        for row in history:
            numbers = {name: value for name, value in row.items() if name not in {"epoch", "step"}}
            stage.note.news.measure(numbers, step=int(row.get("step", row["epoch"])))


def log_model(folder: str, name: str) -> None:
    """Log a model folder (see `fgvr.models.base`) to the open stage, once the stage has ended well.

    Args:
        folder: URI inside the stage's own folder.
        name: name of the logged model.
    """
    stage = _stage.get()
    if stage is not None:
        stage.log_model(folder, name)


def _end_killed_stages(run_id: str) -> None:
    """Mark stages of a killed session as no longer running; trials of sweeps continue."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    begun = f"tags.mlflow.parentRunId = '{run_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment], begun):
        if "fgvr.trial" not in run.data.tags:
            client.set_terminated(run.info.run_id, "KILLED")
