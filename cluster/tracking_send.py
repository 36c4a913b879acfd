"""Sending a note to MLflow: every step is idempotent.

A run is searched by its tag before it is created; parameters and tags are set to the same values; MLflow itself drops
metric values that it has; files replace files; a model that the run has is not logged again.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.outbox import FINISHED, RUNNING, Artifact, News, Note
from cluster.tracking_link import CALL_SECONDS, Away, Link, Refused
from cluster.tracking_names import artifact_path, experiment_name
from fgvr import storage

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_POINTS, MOST_TEXTS = 1000, 100
"""Most metrics, and most parameters or tags, per request: MLflow's own limits."""
MODEL_SECONDS = 120.0
BYTES_A_SECOND = 2**20
"""The slowest upload for which a session waits, in bytes per second."""
PARENT_TAG = "mlflow.parentRunId"


@dataclass
class Sender:
    """Sends notes to one MLflow store.

    Attributes:
        link: the link to the store.
        uploads: the link to its artifact storage, which may be elsewhere and fail on its own.
        run_folder: the run folder, to which locations of files are relative.
        experiment: name of the experiment in the config.
        artifacts: where a new experiment stores its artifacts; None: the server decides.
    """

    link: Link
    uploads: Link
    run_folder: str
    experiment: str
    artifacts: str | None = None
    _said: bool = False

    @property
    def client(self) -> MlflowClient:
        """The MLflow client; creating it sends no request."""
        from mlflow import MlflowClient

        return MlflowClient()

    @cached_property
    def experiment_id(self) -> str:
        """The id of the experiment, created if missing: another run may create it at the same moment."""
        name = experiment_name(self.experiment)
        found = self.link.call(lambda: self.client.get_experiment_by_name(name))
        if found is None:
            try:
                return str(self.link.call(lambda: self.client.create_experiment(name, self.artifacts)))
            except Refused as refused:
                found = self.link.call(lambda: self.client.get_experiment_by_name(name)) if refused.exists else None
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise Refused(f"the experiment {name!r} was deleted: restore it at the server, or name another one")
        return str(found.experiment_id)

    def run_id(self, note: Note, parent: str | None) -> str:
        """The id of the note's run: the known one, or the one with its tag, or a new one below `parent`."""
        if not note.run_id and note.asked:
            note.run_id = self._find(note, parent)
        if not note.run_id:
            note.asked = True
            note.run_id = self._create(note, parent)
            note.untold = note.ended is not None
        return note.run_id

    def send(self, note: Note, parent: str | None) -> None:
        """Send everything in a note; refused values, and files that cannot be sent now, stay in it.

        Raises:
            Away: the server did not accept everything; what it accepted may stay in the note and be sent again.
            Refused: the run does not exist.
        """
        run = self.run_id(note, parent)
        self.tell(run, note.news)
        if note.status == FINISHED and parent is not None:
            self.tell(parent, note.of_run)
        if note.models and self.uploads.ready():
            note.untold = True  # logging a model reopens the run
            note.models = self._upload(note.models, lambda some: self._log_models(run, some), self._model_seconds)
        if note.untold and note.ended is not None:
            self.link.call(lambda: self.client.set_terminated(run, note.status, note.ended))
        elif note.untold:
            self.link.call(lambda: self.client.update_run(run, status=RUNNING))
        note.untold = False

    def tell(self, run: str, news: News) -> None:
        """Send news to a run; afterwards `news` holds what was refused, and files that cannot be sent now."""
        from mlflow.entities import Metric, Param, RunTag

        batch = self.client.log_batch
        params = [Param(name, value) for name, value in news.params.items()]
        left = self._each(params, lambda some: batch(run, params=some), MOST_TEXTS)
        news.params = {param.key: param.value for param in left}
        tags = [RunTag(name, value) for name, value in news.tags.items()]
        news.tags = {tag.key: tag.value for tag in self._each(tags, lambda some: batch(run, tags=some), MOST_TEXTS)}
        news.points = self._each(
            news.points, lambda some: batch(run, metrics=[Metric(*point) for point in some]), MOST_POINTS
        )
        news.files = self._upload(news.files, lambda some: self._log_files(run, some), self._file_seconds)

    def is_there(self, run_id: str) -> bool:
        """Whether the store has this run, not deleted."""
        try:
            run = self.link.call(lambda: self.client.get_run(run_id))
        except Refused:
            return False
        return bool(run.info.lifecycle_stage == "active")

    def _find(self, note: Note, parent: str | None) -> str:
        tag, value = note.tag
        wanted = f"tags.`{tag}` = '{value}'" + (f" and tags.`{PARENT_TAG}` = '{parent}'" if parent else "")
        runs = self.link.call(lambda: self.client.search_runs([self.experiment_id], wanted, max_results=1))
        return str(runs[0].info.run_id) if runs else ""

    def _create(self, note: Note, parent: str | None) -> str:
        tags = _context() | dict([note.tag]) | ({PARENT_TAG: parent} if parent else {})
        experiment = self.experiment_id
        run = self.link.call(
            lambda: self.client.create_run(experiment, start_time=note.begun, tags=tags, run_name=note.name)
        )
        return str(run.info.run_id)

    def _each(self, items: Sequence[T], do: Callable[[Sequence[T]], Any], at_once: int) -> list[T]:
        """Call `do` with `at_once` items at a time; returns the refused items, found one by one."""
        refused: list[T] = []
        for start in range(0, len(items), at_once):
            some = items[start : start + at_once]
            try:
                self.link.call(partial(do, some))
            except Refused as error:
                if error.missing:
                    raise
                if len(some) == 1:
                    log.warning("MLflow refuses %s: %s", _what(some[0]), error)
                refused += [*some] if len(some) == 1 else self._each(some, do, -(-len(some) // 2))
        return refused

    def _upload(
        self, items: list[T], do: Callable[[Sequence[T]], Any], seconds: Callable[[Sequence[T]], float]
    ) -> list[T]:
        """Call `do` with each item; returns those that still have to be uploaded."""
        left: list[T] = []
        for place, item in enumerate(items):
            try:
                self.uploads.call(partial(do, [item]), seconds([item]))
            except Refused as error:
                if error.missing:
                    raise
                log.warning("MLflow refuses %s: %s", _what(item), error)
                left.append(item)
            except Away as away:
                if not self._said:
                    log.warning("MLflow's files cannot be written (%s); they wait for the next chance", away)
                self._said = True
                return [*left, *items[place:]]
        return left

    def _place(self, place: str) -> str:
        return place if "://" in place or place.startswith("/") else storage.join(self.run_folder, place)

    def _file_seconds(self, files: Sequence[Artifact]) -> float:
        """How long a session waits for an upload, in seconds."""
        return 2 * CALL_SECONDS + self._bytes([file.place for file in files if file.text is None]) / BYTES_A_SECOND

    def _model_seconds(self, models: Sequence[tuple[str, str]]) -> float:
        return MODEL_SECONDS + self._bytes([place for place, _ in models]) / BYTES_A_SECOND

    def _bytes(self, places: Sequence[str]) -> int:
        """Size of files and folders; 0 where they no longer exist."""
        found = [storage.resolve(self._place(place)) for place in places]
        return sum(int(fs.du(path)) for fs, path in found if fs.exists(path))

    def _log_files(self, run: str, files: Sequence[Artifact]) -> None:
        for file in files:
            data = file.text.encode() if file.text is not None else storage.read_bytes(self._place(file.place))
            with tempfile.TemporaryDirectory() as temporary:
                copy = Path(temporary) / artifact_path(file.name)
                copy.write_bytes(data)
                self.client.log_artifact(run, str(copy), artifact_path(file.folder) if file.folder else None)

    def _log_models(self, run: str, models: Sequence[tuple[str, str]]) -> None:
        import mlflow

        from cluster.pyfunc import log_classifier

        for place, name in models:
            if self._has_model(run, name):
                continue
            folder = storage.fetch_folder(self._place(place))
            with mlflow.start_run(run_id=run):  # in this thread, which belongs to the call alone
                log_classifier(folder, name)
            storage.forget_folder(folder)

    def _has_model(self, run: str, name: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.search_logged_models(
                [self.experiment_id], f"name = '{name}' AND source_run_id = '{run}'", max_results=10
            )
        except MlflowException:  # a server of MLflow 2, which does not link models to runs
            return False
        return any(str(model.status) in {"READY", "LoggedModelStatus.READY"} for model in found)


def _what(item: object) -> str:
    """A refused item as readable text."""
    from mlflow.entities import Param, RunTag

    if isinstance(item, Param | RunTag):
        return f"the {'parameter' if isinstance(item, Param) else 'tag'} {item.key!r}"
    if isinstance(item, Artifact):
        return f"the file {item.name!r}"
    return f"{item[0]!r}" if isinstance(item, tuple) else repr(item)


def _context() -> dict[str, str]:
    """User and program of this run, as MLflow's own `start_run` records them."""
    from mlflow.tracking.context.registry import resolve_tags

    found: dict[str, str] = resolve_tags()
    return found
