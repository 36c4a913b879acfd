"""A tracking server that is down, hangs, loses answers or refuses values: no table is lost, and nothing told twice."""

import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from cluster.outbox import FOLDER, MOST_POINTS, News, Note, Outbox
from cluster.stage import RunContext, StageFolder, StageSummary
from cluster.tracked_run import tracked_run
from cluster.tracking import TrackingError, let_go, log_history, log_model
from fgvr.config import build
from fgvr.tables import Table

CALLS = (
    "create_experiment",
    "create_run",
    "get_experiment_by_name",
    "get_run",
    "log_artifact",
    "log_batch",
    "search_runs",
    "set_terminated",
    "update_run",
)
DECIDES = {"state": {"s3://bucket/list (1).csv": "abc"}, "images": {"split": "train"}}
METRICS = {"near.sacc.minilm@6fafbb27": 0.5, "tokens": 7.0}


class Killed(BaseException):
    """The process is gone: nothing catches it."""


class Server:
    """MLflow's client, which a test can cut off.

    Attributes:
        calls: so far.
        fails_from: the first call that fails.
        lost: the first one that fails was done, and only its answer was lost.
        error: what they raise.
    """

    def __init__(self) -> None:
        self.calls, self.fails_from, self.lost = 0, 10**9, False
        self.error: Callable[[], BaseException] = lambda: MlflowException("API request failed: connection refused")

    def down(self) -> None:
        self.fails_from = 0

    def up(self) -> None:
        self.fails_from = 10**9

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls > self.fails_from:
                if self.lost and self.calls == self.fails_from + 1:
                    real(*args, **more)
                raise self.error()
            return real(*args, **more)

        return call


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    for name in CALLS:
        monkeypatch.setattr(MlflowClient, name, found.wrap(getattr(MlflowClient, name)))
    monkeypatch.setattr("cluster.tracking_link.FIRST_PAUSE", 0.0)
    return found


@contextmanager
def context(folder: Path) -> Iterator[RunContext]:
    config = build({"run": {"name": "birds"}})
    with tracked_run(config, str(folder)) as tracker:
        yield RunContext(config, str(folder), tracker)


def compute(folder: StageFolder) -> StageSummary:
    log_history([{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0}])
    folder.write_bytes("report.html", b"<p>")
    folder.context.tracker.log_metrics({"near.top1": 0.25})
    folder.context.tracker.log_file(folder.path("report.html"), "report")
    summary = folder.write_table(pa.table({"image_id": [0, 1]}))
    summary.metrics = METRICS
    return summary


def stage(context: RunContext, name: str = "labels") -> Table:
    return context.stage(name, decides=DECIDES, inputs=[], compute=compute)


def session(folder: Path) -> Table:
    with context(folder) as run:
        return stage(run)


def known(folder: Path) -> dict[str, Any]:
    """What the folder's MLflow store says: each run's state, parameters, history and files."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("fgvr")
    found: dict[str, Any] = {}
    for run in client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]):
        assert run.info.run_name not in found or run.info.status == "KILLED"
        history = {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
            if not name.startswith("progress.") and name != "seconds"
        }
        state = {
            "status": run.info.status,
            "params": run.data.params,
            "history": history,
            "tags": {name for name in run.data.tags if not name.startswith(("mlflow.", "fgvr.key"))},
            "nested": run.data.tags.get("mlflow.parentRunId") is not None,
            "files": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        }
        if run.info.status != "KILLED":
            found[run.info.run_name] = state
    return found


def waiting(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / FOLDER).glob("*")) if (folder / FOLDER).exists() else []


def test_undisturbed_it_knows_all_and_nothing_waits(server: Server, tmp_path: Path) -> None:
    session(tmp_path)
    state = known(tmp_path)
    assert state["birds"]["status"] == state["labels"]["status"] == "FINISHED"
    assert state["birds"]["history"] == {"near.top1": [(0, 0.25)]}
    assert state["birds"]["files"] == ["config.yaml", "report"]
    history = state["labels"]["history"]
    assert history["loss"] == [(1, 3.0), (2, 2.0)]
    assert history["rows"] == [(0, 2.0)]
    named_so = [name for name in history if name.startswith("near.sacc.minilm_6fafbb27--")]
    assert history[named_so[0]] == [(0, 0.5)]
    assert state["labels"]["nested"]
    assert "abc" in state["labels"]["params"].values()
    assert "fgvr.names" in state["labels"]["tags"]  # which says what the two names stand for
    assert waiting(tmp_path) == []
    assert server.calls < 25


@pytest.mark.slow  # as many runs as a run has calls
@pytest.mark.parametrize("lost", [False, True], ids=["refused connections", "lost answer"])
def test_whichever_call_fails_the_next_session_tells_the_rest_and_nothing_twice(
    server: Server, tmp_path: Path, lost: bool
) -> None:
    session(tmp_path / "whole")
    calls = server.calls
    whole = known(tmp_path / "whole")
    for failing in range(calls):
        folder = tmp_path / str(failing)
        server.calls, server.fails_from, server.lost = 0, failing, lost
        table = session(folder)
        assert Table.load(table.uri) == table  # committed
        assert waiting(folder)
        server.up()
        again = session(folder)
        assert again.uri == table.uri
        assert known(folder) == whole, failing
        assert waiting(folder) == []


def test_a_server_that_comes_back_is_told_in_the_same_run(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with context(tmp_path) as run:
        server.down()
        stage(run, "answers")
        assert Table.load(run.tables[0].uri).rows == 2
        assert len(waiting(tmp_path)) == 1
        server.up()
        stage(run, "labels")
        assert known(tmp_path)["answers"]["status"] == "FINISHED"
        assert waiting(tmp_path) == []
    assert sum("does not accept what it is sent" in record.message for record in caplog.records) == 1


def test_without_a_server_from_beginning_to_end_the_next_start_tells_when_it_was(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.down()
    with context(tmp_path) as run:
        assert run.tracker.run_id == ""
        stage(run, "answers")
        stage(run, "labels")
    assert "does not have all of this run yet: 3 of its runs wait" in caplog.text
    begun = [json.loads((tmp_path / FOLDER / name).read_text())["begun"] for name in waiting(tmp_path)]
    server.up()
    session(tmp_path)
    assert known(tmp_path).keys() == {"birds", "answers", "labels"}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("fgvr").experiment_id])
    assert sorted(run.info.start_time for run in runs) == sorted(begun)
    assert waiting(tmp_path) == []


@pytest.mark.parametrize("where", ["before the commit", "after the commit"])
@pytest.mark.parametrize("away", [False, True])
def test_a_process_that_dies_at_the_commit_is_told_by_the_next_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, away: bool
) -> None:
    session(tmp_path / "whole")
    commit = Table.commit

    def dies(table: Table) -> None:
        if where == "after the commit":
            commit(table)
        # As after a SIGKILL: this process neither tells nor keeps anything from here on.
        let_go()
        raise Killed

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Table, "commit", dies)
        if away:
            server.down()
        with pytest.raises(Killed):
            session(folder)
    server.up()
    assert len(waiting(folder)) == 1
    session(folder)
    assert known(folder) == known(tmp_path / "whole")
    assert waiting(folder) == []
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    states = Counter(
        run.info.status for run in client.search_runs([client.get_experiment_by_name("fgvr").experiment_id])
    )
    assert states == {"FINISHED": 2} | ({"KILLED": 1} if where == "before the commit" else {})


def test_who_is_interrupted_right_behind_the_commit_has_a_stage_that_is_done(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(tmp_path / "whole")
    commit = Table.commit

    def interrupted(table: Table) -> None:
        commit(table)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Table, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session(tmp_path / "run")
    session(tmp_path / "run")
    assert known(tmp_path / "run") == known(tmp_path / "whole")


def test_a_value_that_is_refused_stays_and_all_others_are_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = MlflowClient.log_batch

    def picky(client: MlflowClient, run: str, metrics: Any = (), **more: Any) -> None:
        if any(metric.key == "tokens" for metric in metrics):
            raise MlflowException("I take no tokens", INVALID_PARAMETER_VALUE)
        real(client, run, metrics=metrics, **more)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", picky)
        with context(tmp_path) as run:
            stage(run, "answers")
            stage(run, "labels")
    assert "I take no tokens" in caplog.text
    before = known(tmp_path)
    assert before["labels"]["history"]["rows"] == [(0, 2.0)]
    assert "tokens" not in before["labels"]["history"]
    assert len(waiting(tmp_path)) == 2
    session(tmp_path)
    assert known(tmp_path)["labels"]["history"]["tokens"] == [(0, 7.0)]
    assert waiting(tmp_path) == []


def test_files_that_cannot_be_written_hold_up_nothing_else(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_files(*args: Any, **more: Any) -> None:
        raise PermissionError(13, "Permission denied: '/of the server'")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", no_files)
        session(tmp_path)
    assert "files cannot be written" in caplog.text
    state = known(tmp_path)
    assert (state["labels"]["status"], state["birds"]["status"]) == ("FINISHED", "FINISHED")
    assert state["birds"]["files"] == []
    session(tmp_path)
    assert known(tmp_path)["birds"]["files"] == ["config.yaml", "report"]
    assert waiting(tmp_path) == []


def test_whatever_bookkeeping_raises_the_table_is_committed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.error = lambda: RuntimeError("of a library")
    with context(tmp_path) as run:
        server.down()
        monkeypatch.setattr("cluster.tracking.StageRun.add_progress", lambda _: 1 / 0)
        table = stage(run)
    assert Table.load(table.uri).rows == 2
    assert "not kept for MLflow" in caplog.text
    assert "MLflow did not get everything: ZeroDivisionError" in caplog.text


def test_a_run_that_the_server_lost_is_made_again(server: Server, tmp_path: Path) -> None:
    with context(tmp_path) as run:
        stage(run, "answers")
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
            store.executescript("DELETE FROM tags; DELETE FROM params; DELETE FROM metrics; DELETE FROM runs;")
        stage(run, "labels")
    state = known(tmp_path)
    assert state.keys() == {"birds", "labels"}
    assert state["labels"]["status"] == "FINISHED"


def test_progress_of_an_outage_is_told_later(server: Server, tmp_path: Path) -> None:
    with context(tmp_path) as run, run.tracker.stage("labels", {}) as told:
        told.progress({"rows": 1.0, "seconds": 30.0})
        server.down()
        told.progress({"rows": 2.0, "seconds": 60.0})
        told.progress({"rows": 3.0, "seconds": 90.0})
        server.up()
    client = MlflowClient(run.tracker.uri)
    points = client.get_metric_history(told.run_id, "progress.rows")
    assert [(point.step, point.value) for point in points] == [(30, 1.0), (60, 2.0), (90, 3.0)]


def test_what_waits_is_bounded() -> None:
    news = News()
    for second in range(60_000):
        news.measure({"progress.rows": float(second)}, step=second)
    news.measure({"rows": 60_000.0})
    assert len(news.points) <= MOST_POINTS
    assert news.points[-1][:2] == ("rows", 60_000.0)
    steps = [step for name, _, _, step in news.points if name == "progress.rows"]
    assert (steps[0], steps[-1]) == (0, 59_999)


def test_files_of_the_outbox_that_are_none_stay_and_are_said(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name, content in {"a.json": b"{", "b.json": b"[]", "c.json": b'{"name": 1}', "note.txt": b"mine"}.items():
        (folder / name).write_bytes(content)
    note = json.loads(json.dumps(asdict(Note.new("labels"))))
    changes = [{"tag": ["key"]}, {"tag": [1, {}]}, {"name": None}, {"status": "ASLEEP"}, {"begun": "noon"}]
    for number, change in enumerate(changes):
        (folder / f"n{number}.json").write_text(json.dumps(note | change))
    (folder / "deep.json").write_bytes(b"[" * 100_000)
    session(tmp_path)
    names = ["a.json", "b.json", "c.json", "deep.json", *(f"n{number}.json" for number in range(len(changes)))]
    assert waiting(tmp_path) == [*names, "note.txt"]
    assert caplog.text.count("cannot be read, so MLflow never gets it") == len(names)


def test_a_note_is_what_its_file_says(tmp_path: Path) -> None:
    note = Note.new("answers / (1)")
    note.news.measure({"a@b": float("inf")}, step=3)
    note.models.append(("tables/near/1/model", "near"))
    box = Outbox(str(tmp_path))
    box.keep(note)
    (read,) = box.read()
    note.asked = True
    assert read == note
    assert min(Note.new("z").file, note.file) == note.file  # in the order in which they began
    box.forget(note)
    assert box.read() == []


def test_a_model_is_logged_once_and_after_the_stage(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[str, str, str]] = []

    def log_classifier(folder: Path, name: str) -> str:
        active = mlflow.active_run()
        assert active is not None
        logged.append((str(folder), name, active.info.run_id))
        return ""

    monkeypatch.setattr("cluster.pyfunc.log_classifier", log_classifier)

    def with_model(folder: StageFolder) -> StageSummary:
        folder.write_bytes("model/model.json", b"{}")
        log_model(folder.path("model"), "near")
        assert logged == []
        return folder.write_table(pa.table({"image_id": [0]}))

    with context(tmp_path) as run:
        server.down()
        table = run.stage("near", decides={}, inputs=[], compute=with_model)
        server.up()
    assert [(folder, name) for folder, name, _ in logged] == [(f"{table.uri}/model", "near")]
    client = MlflowClient(run.tracker.uri)
    found = client.get_run(logged[0][2])
    assert (found.info.run_name, found.info.status) == ("near", "FINISHED")


def test_two_runs_make_the_experiment_at_the_same_moment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = MlflowClient.get_experiment_by_name, []

    def none_at_first(client: MlflowClient, name: str) -> Any:
        asked.append(name)
        if len(asked) == 1:
            client.create_experiment(name)  # of the other run
            return None
        return real(client, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", none_at_first)
    assert session(tmp_path).rows == 2
    assert known(tmp_path).keys() == {"birds", "labels"}


def test_what_cannot_be_tracked_at_all_is_said_before_the_start(tmp_path: Path) -> None:
    for uri in ("gopher://x/y", "postgresql+nodriver://db/mlflow"):
        with (
            pytest.raises(TrackingError, match=r"tracking\.uri"),
            tracked_run(build({"tracking": {"uri": uri}}), str(tmp_path)),
        ):
            pytest.fail("it began")
    session(tmp_path / "run")
    client = MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db")
    client.delete_experiment(client.get_experiment_by_name("fgvr").experiment_id)
    with pytest.raises(TrackingError, match="was deleted"):
        session(tmp_path / "run")
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(TrackingError, match=r"cannot be written there .*tracking\.uri names another"),
        tracked_run(build({"tracking": {"uri": f"sqlite:///{tmp_path}/file/mlflow.db"}}), str(tmp_path)),
    ):
        pytest.fail("it began")


@pytest.mark.parametrize("name", ["list (1).csv", "a+b & c's.csv", "../x", "鳥/米.csv", "x" * 400, "p@ss", "~", "//a"])
def test_any_text_may_decide_a_stage(server: Server, tmp_path: Path, name: str) -> None:
    with context(tmp_path) as run:
        run.stage("labels", decides={"state": {name: {name: "digest"}}}, inputs=[], compute=compute)
        run.tracker.log_metrics({name: 1.0})
        (tmp_path / "file.txt").write_text("x")
        run.tracker.log_file(str(tmp_path / "file.txt"), name)
    state = known(tmp_path)
    assert "digest" in state["labels"]["params"].values()
    assert len(state["birds"]["history"]) == 2
    assert waiting(tmp_path) == []


def test_a_moved_run_goes_on_in_its_mlflow_run_and_writes_nothing_at_the_old_place(
    server: Server, tmp_path: Path
) -> None:
    server.down()
    table = session(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    server.up()
    again = session(tmp_path / "new")
    assert again.uri == table.uri.replace("/old/", "/new/")
    assert known(tmp_path / "new")["birds"]["files"] == ["config.yaml", "report"]  # the report's place moved, too
    session(tmp_path / "new")
    (tmp_path / "new").rename(tmp_path / "third")
    session(tmp_path / "third")
    client = MlflowClient(f"sqlite:///{tmp_path}/third/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("fgvr").experiment_id])
    assert Counter(run.info.run_name for run in runs) == {"birds": 1, "labels": 1}
    assert {file.name for file in tmp_path.iterdir()} == {"third"}


def test_a_warning_says_where_and_what_without_the_password(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.error = lambda: MlflowException("https://me:hunter2@mlflow/api is down")
    server.down()
    session(tmp_path)
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [words for words in said if "MLflow at sqlite:///" in words]
    assert len(said) == 2  # once in the run, once at its end
    assert "hunter2" not in caplog.text
