"""A run's own MLflow store: an SQLite file that is created atomically.

MLflow creates its tables in place by dozens of migrations, outside of one transaction. This takes seconds, and a
process that is stopped meanwhile leaves a file that no version of MLflow can open. So the file is created elsewhere and
then renamed; an empty one is kept in the user's cache, and later runs copy it. An incomplete file of an earlier version
is created again, and the store of an older MLflow is migrated in a copy.

The store holds absolute paths of artifacts. A moved or copied run folder would write to the old path, or fail on a
machine that does not have it: so the paths of the run's own store are corrected.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from enum import Enum
from functools import cache
from pathlib import Path
from urllib.parse import quote

from fgvr import disk_cache, storage

log = logging.getLogger(__name__)

FILE = "mlflow.db"
ARTIFACTS = "mlartifacts"
KEPT = "mlflow"
"""Folder of the empty stores in the user's cache."""
BESIDE = ("-journal", "-wal", "-shm")
"""Suffixes of SQLite's files beside a store; SQLite would replay those of another file into it."""
LOCK_SECONDS = 5.0
"""Longest wait for another process before its store is inspected."""
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns that hold locations of artifacts."""


class State(Enum):
    """The state of the file at a store's path."""

    NOTHING = "nothing"
    WHOLE = "a store of the installed MLflow, or one that another process holds"
    OLDER = "a store of another MLflow, in which something is"
    UNFINISHED = "tables that were being made when it was stopped; nothing is in them"
    DAMAGED = "no SQLite database, or a broken one"


def sqlite_uri(file: Path) -> str:
    """The URI of the store; characters that would end a path are percent-encoded, as SQLAlchemy expects."""
    return f"sqlite:///{str(file.absolute()).replace('%', '%25').replace('?', '%3F')}"


def local_file(uri: str) -> Path | None:
    """The file of an `sqlite:///…` address; None for other stores, and for one in memory."""
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy.engine import make_url

    place = make_url(uri).database
    return None if not place or place == ":memory:" or place.startswith("file:") else Path(place).absolute()


def artifacts_in(folder: str) -> str:
    """The artifact location in a folder, written so that MLflow, which parses it as a URL, finds this place.

    In a plain path it would read `%41` as a letter. A key with `#` or `?` cannot be named to it: there the artifacts
    lie below a key with %23 or %3F instead. (As a fragment it would be lost, and with it the end of the key.)
    """
    place = storage.join(folder, ARTIFACTS)
    if storage.is_local(place):
        return Path(place).as_uri() if "%" in place else place
    return place.replace("#", "%23").replace("?", "%3F")


def prepare(file: Path, *, own: bool = True) -> None:
    """Make sure that `file` is a complete store; quick if it is one already.

    Args:
        file: the file of the store.
        own: whether it belongs to one run, so that an older store may be migrated. A store of several runs may have
            other users: there MLflow itself says what to do.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _alone(file):
        if own:
            _remove_leftovers(file)
        state = state_of(file)
        if state is State.OLDER and own:
            _bring_up_to_date(file)
        elif state in {State.UNFINISHED, State.DAMAGED}:
            aside = _set_aside(file)
            if state is State.DAMAGED:
                log.warning("%s cannot be read as an MLflow store: kept as %s, and a new one is created", file, aside)
            else:
                _unlink(aside)
        if state in {State.NOTHING, State.UNFINISHED, State.DAMAGED}:
            _make(file)


def state_of(file: Path) -> State:
    """The state of a file, judged by its tables; changes nothing."""
    if not file.exists() or file.stat().st_size == 0:  # SQLite creates an empty file when it opens a missing one
        return State.UNFINISHED if file.exists() else State.NOTHING
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=LOCK_SECONDS)) as store:
            tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables - {"alembic_version"}:
                return State.UNFINISHED
            if "experiments" not in tables:
                unfinished = "alembic_version" in tables or any(name.startswith("_alembic") for name in tables)
                return State.UNFINISHED if unfinished else State.OLDER
            revisions = store.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else ()
            if [name for (name,) in revisions] == [_revision()]:
                return State.WHOLE
            runs = "runs" in tables and store.execute("SELECT 1 FROM runs LIMIT 1").fetchone()
            experiments = store.execute("SELECT count(*) FROM experiments").fetchone()[0]
            return State.OLDER if runs or experiments > 1 else State.UNFINISHED
    except sqlite3.DatabaseError as error:
        broken = getattr(error, "sqlite_errorname", "") in {"SQLITE_NOTADB", "SQLITE_CORRUPT"}
        return State.DAMAGED if broken else State.WHOLE  # locked or unreadable: MLflow will report it


def holds_run(file: Path, run_id: str) -> bool:
    """Whether a run of this id is in the store; also False where there is no store that can be read."""
    if not run_id or state_of(file) not in {State.WHOLE, State.OLDER}:
        return False
    try:
        with closing(sqlite3.connect(file, timeout=LOCK_SECONDS)) as store:
            return store.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone() is not None
    except sqlite3.Error:
        return False


def set_places(file: Path, artifacts: str, *, moved: bool) -> None:
    """Set the artifact location of the store's experiments to `artifacts`, where it differs.

    Args:
        file: the file of the store.
        artifacts: the run's folder of artifacts.
        moved: whether artifacts moved with the run folder, so that locations of existing runs and models change, too.
    """
    end = f"/{ARTIFACTS}"
    with closing(sqlite3.connect(file, timeout=20)) as store, store:
        places = {place for (place,) in store.execute("SELECT DISTINCT artifact_location FROM experiments")}
        for old in sorted(place for place in places if place and place.endswith(end) and place != artifacts):
            for table, column in PLACES if moved else PLACES[:1]:
                _replace_start(store, table, column, old, artifacts)
            _forget_places()


def _forget_places() -> None:
    """Clear MLflow's in-process cache of artifact locations."""
    from mlflow.tracking._tracking_service import utils

    with suppress(AttributeError):  # another version of MLflow
        utils._artifact_repos_cache.clear()


def _replace_start(store: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    if column in {row[1] for row in store.execute(f"PRAGMA table_info({table})")}:
        store.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608  # names of PLACES
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
        )


@cache
def _revision() -> str:
    """The schema revision of the installed MLflow."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def _make(file: Path) -> None:
    """Create an empty store atomically; another process may be faster."""
    with _beside(file) as new:
        kept = _kept()
        if kept is not None:
            shutil.copyfile(kept, new)
        if state_of(new) is not State.WHOLE:
            new.unlink(missing_ok=True)
            _create(new)
        _to_disk(new)
        try:
            os.link(new, file)  # unlike a rename, never replaces another process's store
        except FileExistsError:
            return
        except OSError:  # a file system without links
            if not file.exists():
                new.replace(file)


def _kept() -> Path | None:
    """An empty store of the installed MLflow in the user's cache, created if missing; None without a cache."""
    import mlflow

    folder = disk_cache.root() / KEPT
    file = folder / f"store-{mlflow.__version__}-{_revision()}.db"
    try:
        if state_of(file) is State.WHOLE:
            return file
        folder.mkdir(parents=True, exist_ok=True)
        with disk_cache.locked(folder / "store.lock"):
            if state_of(file) is not State.WHOLE:
                with _beside(file) as new:
                    _create(new)
                    _to_disk(new)
                    new.replace(file)
    except OSError as error:
        log.debug("an empty MLflow store could not be cached in %s: %s", folder, error)
        return None
    return file


def _create(file: Path) -> None:
    """Create MLflow's tables, without the rows that it adds when a store is opened."""
    from mlflow.store.db.utils import _initialize_tables

    _with_engine(file, _initialize_tables)


def _bring_up_to_date(file: Path) -> None:
    """Run MLflow's migrations in a copy, which replaces the store when they are done."""
    from mlflow.store.db.utils import _upgrade_db

    log.info("MLflow's store %s is of another version: bringing it up to date", file)
    try:
        with _beside(file) as new:
            with closing(sqlite3.connect(file, timeout=20)) as store, closing(sqlite3.connect(new)) as copy:
                store.backup(copy)
            _with_engine(new, _upgrade_db)
            _to_disk(new)
            new.replace(file)
    except Exception as error:  # from alembic, SQLAlchemy or SQLite; MLflow reports what it cannot open
        log.warning("MLflow's store %s is of another version, and could not be brought up to date: %s", file, error)


def _with_engine(file: Path, do: Callable[..., None]) -> None:
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(sqlite_uri(file))
    try:
        do(engine)
    finally:
        engine.dispose()


def _set_aside(file: Path) -> Path:
    """Rename a file together with SQLite's files beside it."""
    aside = file.with_name(f"{file.name}.unread-{time.time_ns() // 1_000_000}")
    for end in BESIDE:
        beside = file.with_name(file.name + end)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + end))
    file.rename(aside)
    return aside


def _unlink(file: Path) -> None:
    for end in ("", *BESIDE):
        file.with_name(file.name + end).unlink(missing_ok=True)


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A path in a temporary folder beside a file, removed afterwards."""
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / FILE


def _remove_leftovers(file: Path) -> None:
    """Remove what `_beside` made in a session that was killed before it could."""
    for left in file.parent.iterdir():
        if left.name.startswith(f".{file.name}."):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Lock a store against other processes of this machine; without a cache folder there is no lock."""
    folder = disk_cache.root() / KEPT
    lock = folder / f"{hashlib.sha256(str(file.absolute()).encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = disk_cache.locked(lock)
        held.__enter__()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.__exit__(None, None, None)


def _to_disk(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
