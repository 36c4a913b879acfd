"""Opening a run's MLflow tracking: which store, with which login, and which run of it an earlier session began.

The tracker itself, which talks to the store while the run goes on, is `cluster.tracking`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from cluster import tracking_store
from cluster.console import quiet_before_start
from cluster.heartbeat import leave
from cluster.outbox import FAILED, FINISHED, KEY_TAG, Note
from cluster.tracking import RUN_FILE, Tracker, TrackingError, opened
from cluster.tracking_link import RETRIES, RETRIES_HERE, Link
from cluster.tracking_names import run_name
from cluster.tracking_send import Sender
from fgvr import storage
from fgvr.config import Config, to_yaml
from fgvr.redact import masked

log = logging.getLogger(__name__)

TRACKING_URI, USER, PASSWORD = "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
OWN = "of the run folder"
"""Identifies the run's own store, even if the folder is moved."""


@contextmanager
def tracked_run(config: Config, folder: str) -> Iterator[Tracker]:
    """Open the pipeline's MLflow run, new or continued; at the end of the block it becomes FINISHED or FAILED.

    Args:
        config: the resolved config; logged as `config.yaml`.
        folder: the run folder; holds the SQLite store unless the config or MLFLOW_TRACKING_URI names another.

    Raises:
        TrackingError: the store or the experiment does not exist.
    """
    quiet_before_start()
    import mlflow

    given = {name: os.environ.get(name) for name in (TRACKING_URI, USER, PASSWORD, RETRIES)}
    chosen = config.tracking.uri or given[TRACKING_URI]
    uri, login = _apart(chosen or _sqlite_uri(config, folder))
    artifacts = _local_store(uri, folder, own=not chosen)
    os.environ.update(login)
    os.environ.setdefault(RETRIES, RETRIES_HERE)
    mlflow.set_tracking_uri(uri)  # also sets the environment variable, for child processes
    sender = Sender(Link(), Link(), folder, config.tracking.experiment, artifacts)
    store = masked(uri) if chosen else OWN
    tracker = Tracker(uri, sender, _note_of_run(config, folder, store, uri), folder, store)
    status = FAILED
    try:
        with opened(tracker):
            try:
                tracker.begin(to_yaml(config), config.model_dump(mode="json", exclude_defaults=True))
                yield tracker
                status = FINISHED
            finally:
                tracker.end(status)
    finally:
        # If it stayed set, the next run of this process would take this run's store for the user's choice.
        for name, value in given.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _apart(uri: str) -> tuple[str, dict[str, str]]:
    """A server's address without user and password, and the variables in which MLflow reads these.

    If they stayed in the address, MLflow would print them, and its errors would quote them.
    """
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"} or parts.username is None:
        return uri, {}
    login = {USER: unquote(parts.username), PASSWORD: unquote(parts.password or "")}
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), login


def _sqlite_uri(config: Config, folder: str) -> str:
    """The URI of the SQLite file, which must be local: in the run folder, or under ./runs for a remote run folder.

    Runs of one name in different buckets have different files. Where an earlier version, which gave them one, began
    this run, it stays in that.
    """
    if storage.is_local(folder):
        return tracking_store.sqlite_uri(storage.local_path(folder) / tracking_store.FILE)
    shared = Path("runs") / config.run.name / tracking_store.FILE
    digest = hashlib.sha256(storage.canonical(folder).encode()).hexdigest()[:8]
    own = Path("runs") / f"{config.run.name}-{digest}" / tracking_store.FILE
    begun = not own.exists() and tracking_store.holds_run(shared, _run_id_in(folder))
    return tracking_store.sqlite_uri(shared if begun else own)


def _run_id_in(folder: str) -> str:
    """MLflow's id of the run that an earlier session began; empty without one."""
    try:
        return str(json.loads(storage.read_bytes(storage.join(folder, RUN_FILE)))["run_id"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def _local_store(uri: str, folder: str, *, own: bool) -> str | None:
    """Make sure that an SQLite store exists; returns where its artifacts go, or None where the store decides."""
    file = tracking_store.local_file(uri)
    if file is None:
        return None
    place = folder if own else str(file.parent)  # a store of several runs keeps its files in none of them
    artifacts = tracking_store.artifacts_in(place)
    try:
        tracking_store.prepare(file, own=own)
        if own:
            tracking_store.set_places(file, artifacts, moved=storage.is_local(folder))
    except OSError as error:
        raise TrackingError(
            f"{file}: MLflow's store cannot be written there ({error.strerror or error}); tracking.uri names another"
        ) from error
    return artifacts


def _note_of_run(config: Config, folder: str, store: str, uri: str) -> Note:
    """The note of the pipeline's own run: from an earlier session if it is in this store, or else a new one."""
    note = Note.new(run_name(config.run.name))
    try:
        facts = json.loads(storage.read_bytes(storage.join(folder, RUN_FILE)))
        same = facts["tracking_uri"] == masked(uri) or store == OWN
        key, run_id = str(facts.get("key") or note.tag[1]), str(facts["run_id"])
        note.asked = "key" in facts  # an earlier session may have died while MLflow created the run
    except FileNotFoundError:
        same, key, run_id = False, note.tag[1], ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s in %s cannot be read (%s): MLflow gets a new run", RUN_FILE, folder, error)
        same, key, run_id = False, note.tag[1], ""
    note.tag, note.run_id, note.store = (KEY_TAG, key), run_id if same else "", store
    # Written before the request to MLflow: after a death during the creation, the run is found again by its key.
    facts = {"tracking_uri": masked(uri), "run_id": note.run_id, "key": key}
    leave(storage.join(folder, RUN_FILE), json.dumps(facts).encode())
    return note
