"""MLflow: a parent run for the pipeline, a nested run a stage, artifacts and models."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from cluster.console import quiet_before_start
from cluster.lease import LeaseLost
from fgvr import storage
from fgvr.config import Config, to_yaml
from fgvr.errors import user_error_in
from fgvr.failures import Failures
from fgvr.safe_text import masked, masked_tree, safe
from fgvr.simulation import MADE_UP
from fgvr.tables import Table

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger(__name__)

TRACKING_URI, USER, PASSWORD = "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
RUN_FILE = "mlflow_run.json"
MAX_BATCH = 1000  # metrics in one request, MLflow's own limit
MAX_TAG = 5000  # letters of a tag, likewise


@dataclass
class StageRun:
    """The nested run of a stage that is being computed."""

    run_id: str
    _silent: bool = False

    def progress(self, numbers: Mapping[str, float]) -> None:
        """Log how far the stage is, as `progress.…`; step: its seconds so far. A server that fails stops nothing."""
        import mlflow
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now, step = int(time.time() * 1000), int(numbers.get("seconds", 0))
        metrics = [Metric(f"progress.{name}", float(value), now, step) for name, value in numbers.items()]
        try:
            mlflow.MlflowClient().log_batch(self.run_id, metrics)
        except (MlflowException, OSError) as error:
            if not self._silent:
                log.warning("MLflow does not take the progress of stages: %s", error)
            self._silent = True

    def finish(self, table: Table) -> None:
        """Log what the stage produced: rows, failures by reason, duration and the stage's own metrics."""
        import mlflow

        numbers = {"rows": table.rows, "failed": table.failed, "seconds": table.seconds}
        numbers |= {f"failed.{reason}": count for reason, count in table.failures.items()}
        numbers |= table.extra.get("metrics", {})
        mlflow.log_metrics({name: float(value) for name, value in numbers.items()}, run_id=self.run_id)
        mlflow.set_tags({"table": masked(table.uri), "fingerprint": table.version})
        found = Failures(Counter(table.failures), table.examples)
        for reason, line in zip(found.ranked(), found.lines(), strict=True):
            mlflow.set_tag(f"failed.{reason}", line)
        if MADE_UP in table.extra:
            mlflow.set_tag(MADE_UP, ", ".join(table.extra[MADE_UP]))


class Tracker:
    """The parent run of a pipeline; a run that is continued keeps its MLflow run."""

    def __init__(self, run: Run, uri: str) -> None:
        self.run = run
        self.uri = uri

    @property
    def run_id(self) -> str:
        """MLflow's id of the parent run."""
        return str(self.run.info.run_id)

    @contextmanager
    def stage(self, name: str, decides: Any) -> Iterator[StageRun]:
        """A nested run that fails with the stage and carries what decides its content as parameters."""
        import mlflow

        from cluster.stage import plain

        with mlflow.start_run(run_name=name, nested=True) as run:
            mlflow.log_params(_flat(masked_tree(plain(decides))))
            try:
                yield StageRun(run.info.run_id)
            except LeaseLost:  # its run is the new owner's to end
                raise
            except Exception as error:
                mlflow.set_tag("stopped", safe(str(user_error_in(error) or error))[:MAX_TAG])
                raise

    def log_metrics(self, metrics: dict[str, float]) -> None:
        """Numbers of the whole pipeline."""
        import mlflow

        mlflow.log_metrics(metrics, run_id=self.run_id)

    def log_file(self, uri: str, folder: str | None = None) -> None:
        """A file of the run folder as an artifact of the parent run."""
        import tempfile

        import mlflow

        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary) / Path(uri).name
            copy.write_bytes(storage.read_bytes(uri))
            mlflow.log_artifact(str(copy), folder, run_id=self.run_id)


def let_go() -> None:
    """Forget the open runs without ending them, on all threads: another session owns the run, and goes on with them."""
    fluent = sys.modules.get("mlflow.tracking.fluent")
    if fluent is not None:  # MLflow's own ways to leave a run end it
        for runs in fluent._active_run_stack.get_all_thread_values().values():
            runs.clear()


def log_history(history: Sequence[Mapping[str, float]]) -> None:
    """Metrics of a training's epochs, each at its `epoch`, at the run that is open; nothing where none is."""
    import mlflow
    from mlflow.entities import Metric

    run = mlflow.active_run()
    if run is None:
        return
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now, int(row["epoch"])) for row in history for name, value in row.items() if name != "epoch"
    ]
    for start in range(0, len(metrics), MAX_BATCH):
        mlflow.MlflowClient().log_batch(run.info.run_id, metrics[start : start + MAX_BATCH])


@contextmanager
def tracked_run(config: Config, folder: str) -> Iterator[Tracker]:
    """Open the pipeline's MLflow run, new or continued; it ends as FINISHED or FAILED with the block.

    Args:
        config: the resolved config; logged as `config.yaml`.
        folder: the run folder; holds the SQLite store unless the config or MLFLOW_TRACKING_URI names another.
    """
    quiet_before_start()
    import mlflow

    given = {name: os.environ.get(name) for name in (TRACKING_URI, USER, PASSWORD)}
    uri, login = _apart(config.tracking.uri or given[TRACKING_URI] or _sqlite_uri(config, folder))
    os.environ.update(login)
    mlflow.set_tracking_uri(uri)  # also sets the environment variable, for child processes
    experiment = mlflow.get_experiment_by_name(config.tracking.experiment)
    if experiment is None:
        own_store = uri.startswith("sqlite:")
        place = storage.join(folder, "mlartifacts") if own_store else None
        mlflow.create_experiment(config.tracking.experiment, artifact_location=place)
    mlflow.set_experiment(config.tracking.experiment)
    run_id = _earlier_run(folder, uri)
    if run_id is not None:
        _end_killed_stages(run_id)
    with mlflow.start_run(run_id=run_id, run_name=config.run.name) as run:
        facts = json.dumps({"tracking_uri": masked(uri), "run_id": run.info.run_id})
        storage.write_bytes(storage.join(folder, RUN_FILE), facts.encode())
        mlflow.log_text(to_yaml(config), "config.yaml")
        try:
            yield Tracker(run, uri)
        finally:
            # Left there, the next run of this process would take this run's store for the one that the user chose.
            for name, value in given.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _apart(uri: str) -> tuple[str, dict[str, str]]:
    """A server's address without user and password, and the variables in which MLflow looks for these.

    In the address MLflow would print them, and its errors would quote them.
    """
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"} or parts.username is None:
        return uri, {}
    login = {USER: unquote(parts.username), PASSWORD: unquote(parts.password or "")}
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), login


def _sqlite_uri(config: Config, folder: str) -> str:
    """SQLite needs a local file: beside the run folder's files, or under ./runs where that is an object store."""
    local = storage.local_path(folder) if storage.is_local(folder) else Path("runs") / config.run.name
    local.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{local.absolute()}/mlflow.db"


def _earlier_run(folder: str, tracking_uri: str) -> str | None:
    """The run that an earlier session of the same run folder used, if it is in this store."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        facts = json.loads(storage.read_bytes(storage.join(folder, RUN_FILE)))
    except FileNotFoundError:
        return None
    if facts["tracking_uri"] != masked(tracking_uri):
        return None
    try:
        return str(mlflow.get_run(facts["run_id"]).info.run_id)
    except MlflowException:
        log.warning("MLflow run %s of an earlier session is gone; starting a new one", facts["run_id"])
        return None


def _end_killed_stages(run_id: str) -> None:
    """Stages that an earlier session had begun when it was killed are no longer running; trials of sweeps go on."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    begun = f"tags.mlflow.parentRunId = '{run_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment], begun):
        if "fgvr.trial" not in run.data.tags:
            client.set_terminated(run.info.run_id, "KILLED")


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested values with dotted names; MLflow cuts parameters at 6,000 characters."""
    if isinstance(value, dict):
        pairs = [_flat(item, f"{prefix}{key}.") for key, item in value.items()]
        return {name: text for found in pairs for name, text in found.items()}
    return {prefix.rstrip(".") or "value": str(value)[:500]}
