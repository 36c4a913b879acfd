"""A run's own MLflow store: half made, damaged, older, moved, made by two processes."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

from cluster.tracking_store import FILE, State, artifacts_in, local_file, prepare, set_places, sqlite_uri, state_of
from fgvr import disk_cache


@pytest.fixture
def store(tmp_path: Path) -> Path:
    file = tmp_path / "run" / FILE
    prepare(file)
    return file


def run_in(file: Path, artifacts: str) -> tuple[MlflowClient, str]:
    """A run with a file, in an experiment whose artifacts lie there."""
    uri = sqlite_uri(file)
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("birds")
    experiment = client.create_experiment("birds", artifacts) if found is None else found.experiment_id
    run_id = client.create_run(experiment).info.run_id
    client.log_text(run_id, "hello", "config.yaml")
    return client, run_id


def test_a_new_store_is_whole_and_mlflow_takes_it(store: Path) -> None:
    assert state_of(store) is State.WHOLE
    assert files(store.parent) == [FILE]  # nothing stays beside it
    assert oct(store.stat().st_mode & 0o777) == oct(0o666 & ~_umask())  # others may look, as with every other file
    client, run_id = run_in(store, str(store.parent / "mlartifacts"))
    assert client.get_run(run_id).info.run_id == run_id
    content = store.read_bytes()
    prepare(store)
    assert store.read_bytes() == content


def files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.slow  # likewise
def test_without_a_cache_it_is_made_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "file" / "cache"))
    prepare(tmp_path / FILE)
    assert state_of(tmp_path / FILE) is State.WHOLE


@pytest.mark.slow  # makes the tables by MLflow's migrations, twice
def test_a_damaged_copy_in_the_cache_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    prepare(tmp_path / "one" / FILE)
    (kept,) = (disk_cache.root() / "mlflow").glob("store-*.db")
    kept.write_bytes(kept.read_bytes()[:5000])
    prepare(tmp_path / "two" / FILE)
    assert state_of(tmp_path / "two" / FILE) is State.WHOLE


def cut(store: Path, statements: str) -> None:
    with closing(sqlite3.connect(store)) as file:
        file.executescript(statements)


@pytest.mark.parametrize(
    "statements",
    [
        "DROP TABLE metrics; UPDATE alembic_version SET version_num = '451aebb31d03'",
        "CREATE TABLE _alembic_tmp_experiments (a); UPDATE alembic_version SET version_num = 'bd07f7e963c5'",
        "DELETE FROM alembic_version",
        "DROP TABLE alembic_version",
    ],
)
def test_what_was_stopped_while_it_was_made_is_made_anew(store: Path, statements: str) -> None:
    cut(store, statements)
    assert state_of(store) is State.UNFINISHED
    prepare(store)
    assert state_of(store) is State.WHOLE
    assert files(store.parent) == [FILE]


def test_what_a_killed_session_left_is_removed(store: Path) -> None:
    left = store.parent / f".{store.name}.a4u4rakr"
    left.mkdir(parents=True)
    (left / store.name).write_bytes(b"half of it")
    prepare(store, own=False)  # may belong to another session that makes the store now
    assert left.exists()
    prepare(store)
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_an_empty_file_and_one_transaction_that_was_never_ended(store: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty" / FILE
    empty.parent.mkdir()
    empty.touch()  # what opening a database leaves
    prepare(empty)
    assert state_of(empty) is State.WHOLE
    # A journal of another file must not be played into the new one.
    cut(store, "DELETE FROM alembic_version")
    store.with_name(f"{FILE}-journal").write_bytes(b"left by a killed process")
    prepare(store)
    assert state_of(store) is State.WHOLE
    run_in(store, str(store.parent / "mlartifacts"))


@pytest.mark.parametrize("content", [b"x" * 3000, b"SQLite format 3\0" + b"y" * 5000])
def test_what_is_no_database_is_kept_aside(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / FILE
    file.write_bytes(content)
    prepare(file)
    assert state_of(file) is State.WHOLE
    (aside,) = tmp_path.glob(f"{FILE}.unread-*")
    assert aside.read_bytes() == content
    assert str(aside) in caplog.text


def test_an_older_store_with_runs_is_brought_up_to_date(store: Path) -> None:
    """Taken back by one migration with Alembic itself."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    _, run_id = run_in(store, str(store.parent / "mlartifacts"))
    command.downgrade(_get_alembic_config(sqlite_uri(store)), "-1")
    assert state_of(store) is State.OLDER
    older = shutil.copytree(store.parent, store.parent.parent / "shared") / FILE
    prepare(store)
    assert state_of(store) is State.WHOLE
    with closing(sqlite3.connect(store)) as file:
        assert file.execute("SELECT run_uuid FROM runs").fetchall() == [(run_id,)]
    prepare(older, own=False)  # whoever else uses it may have an older MLflow
    assert state_of(older) is State.OLDER


def test_a_store_that_another_process_holds_is_left_alone(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.tracking_store.LOCK_SECONDS", 0.1)
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert state_of(store) is State.WHOLE


@pytest.mark.slow
def test_two_processes_at_once_on_a_new_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.tracking_store import prepare; prepare(Path(sys.argv[1]))"
    )
    env = os.environ | {"FGVR_CACHE": str(tmp_path / "cache"), "MLFLOW_LOGGING_LEVEL": "WARNING"}
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run" / FILE)], env=env) for _ in range(2)]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    assert state_of(tmp_path / "run" / FILE) is State.WHOLE
    assert files(tmp_path / "run") == [FILE]


@pytest.mark.parametrize(
    "name", ["a b", "a%20b", "a?b#c", "[x] {y}", 'it\'s "so"', "米é;&=@:", f"{'x' * 200}/{'y' * 190}"]
)
def test_any_path(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / FILE
    prepare(file)
    assert local_file(sqlite_uri(file)) == file
    run_in(file, artifacts_in(str(file.parent)))
    assert len(list((tmp_path / name / "mlartifacts").rglob("config.yaml"))) == 1


def test_addresses_of_other_stores_have_no_file() -> None:
    for uri in ("http://mlflow:5000", "postgresql://me@db/mlflow", "sqlite://", "sqlite:///:memory:", "./mlruns"):
        assert local_file(uri) is None
    assert local_file("sqlite:////data/a.db") == Path("/data/a.db")
    assert local_file("sqlite:///a.db") == Path.cwd() / "a.db"


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_run_folder_that_was_moved_writes_to_its_new_place(store: Path, tmp_path: Path, how: str) -> None:
    old, new = store.parent, tmp_path / "elsewhere" / "100%20 of_it"
    _, run_id = run_in(store, str(old / "mlartifacts"))
    shutil.copytree(old, new)
    if how == "moved":
        shutil.rmtree(old)
    before = sorted(old.rglob("*"))
    set_places(new / FILE, artifacts_in(str(new)), moved=True)
    client, _ = run_in(new / FILE, "not made again")
    assert client.get_run(run_id).info.artifact_uri == f"{new.as_uri()}/mlartifacts/{run_id}/artifacts"
    client.log_text(run_id, "more", "more.txt")
    assert {file.path for file in client.list_artifacts(run_id)} == {"config.yaml", "more.txt"}
    assert sorted(old.rglob("*")) == before  # nothing was written, or made again, at the old place


def test_another_bucket_gets_new_runs_and_keeps_no_old_ones(store: Path) -> None:
    _, run_id = run_in(store, str(store.parent / "mlartifacts"))
    set_places(store, "s3://other/runs/x/mlartifacts", moved=False)
    client = MlflowClient(sqlite_uri(store))
    assert client.get_experiment_by_name("birds").artifact_location == "s3://other/runs/x/mlartifacts"
    assert client.get_run(run_id).info.artifact_uri.startswith(str(store.parent))
    assert client.get_experiment("0").artifact_location != "s3://other/runs/x/mlartifacts"


@pytest.mark.parametrize("key", ["photos #1", "what?", "a%23b", "[2024] ü"])
def test_artifacts_in_a_bucket_stay_below_one_key(key: str, store: Path, s3: Any) -> None:
    _cached_get_s3_client.cache_clear()  # of another test's server
    s3.makedirs("artifacts", exist_ok=True)
    prepare(store)
    _, run_id = run_in(store, artifacts_in(f"s3://artifacts/{key}/runs/birds"))
    written = key.replace("#", "%23").replace("?", "%3F")
    place = f"artifacts/{written}/runs/birds/mlartifacts/{run_id}/artifacts/config.yaml"
    assert [path for path in s3.find("artifacts") if run_id in path] == [place]
