import json
import os
from pathlib import Path

import mlflow
import pytest

from cluster import tracking_store
from cluster.tracked_run import _apart, _sqlite_uri, tracked_run
from cluster.tracking import RUN_FILE, Tracker, log_history
from fgvr import storage
from fgvr.config import Config, build
from fgvr.failures import Example
from fgvr.tables import Table

pytestmark = pytest.mark.slow  # the first SQLite store takes MLflow some seconds


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class Stopped(RuntimeError):
    """Something went wrong within a run."""


def labels(folder: Path) -> Table:
    return Table(
        str(folder),
        "labels",
        "ab12",
        100,
        3,
        1,
        100,
        2.5,
        failures={"corrupt": 3},
        examples={"corrupt": Example(7, "cut\x1b[2J off", "/photos/owl.jpg")},
        extra={"metrics": {"prompt_tokens": 7}},
    )


def test_a_stage_is_a_nested_run_with_parameters_and_metrics_in_the_run_folder(tmp_path: Path) -> None:
    config = build({"run": {"name": "birds"}})
    with tracked_run(config, str(tmp_path)) as tracker, tracker.stage("label", config.label) as stage:
        stage.finish(labels(tmp_path))
    assert (tmp_path / "mlflow.db").exists()
    client = mlflow.MlflowClient(tracker.uri)
    nested = client.get_run(stage.run_id)
    assert nested.data.tags["mlflow.parentRunId"] == tracker.run_id
    assert nested.data.params["images.split"] == "train"
    assert nested.data.metrics == {"rows": 100, "failed": 3, "seconds": 2.5, "failed.corrupt": 3, "prompt_tokens": 7}
    assert nested.data.tags["fingerprint"] == "ab12.0"
    assert nested.data.tags["failed.corrupt"] == "corrupt (3), e.g. image 7 (photos/owl.jpg): cut�[2J off"
    parent = client.get_run(tracker.run_id)
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "birds")
    assert parent.data.params == {"run.name": "birds"}  # what is not at its default, so that runs can be compared
    assert "config.yaml" in [file.path for file in client.list_artifacts(tracker.run_id)]


def test_the_history_of_a_training_is_logged_by_epoch(tmp_path: Path) -> None:
    log_history([{"epoch": 1, "loss": 5.0}])  # no run is open: nothing happens
    with tracked_run(Config(), str(tmp_path)) as tracker, tracker.stage("makd", {}) as stage:
        log_history([{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.0, "validation_top1": 0.5}])
    client = mlflow.MlflowClient(tracker.uri)
    losses = client.get_metric_history(stage.run_id, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 3.0), (2, 2.0)]
    assert client.get_run(stage.run_id).data.metrics == {"loss": 2.0, "validation_top1": 0.5}


def test_a_training_that_reports_within_epochs_is_logged_by_its_steps(tmp_path: Path) -> None:
    with tracked_run(Config(), str(tmp_path)) as tracker, tracker.stage("near", {}) as stage:
        log_history([{"epoch": 0.5, "step": 3, "loss": 3.0}, {"epoch": 0.8, "step": 5, "loss": 2.0}])
    client = mlflow.MlflowClient(tracker.uri)
    losses = client.get_metric_history(stage.run_id, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [(3, 3.0), (5, 2.0)]


def test_a_stage_that_stopped_says_why(tmp_path: Path) -> None:
    with tracked_run(Config(), str(tmp_path)) as tracker:
        with pytest.raises(Stopped), tracker.stage("answers", {}) as stage:
            raise Stopped("3 of 4 rows failed (refused (3), e.g. image 0: no), key=https://a:hunter2@h")
        run = mlflow.MlflowClient(tracker.uri).get_run(stage.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["stopped"].startswith("3 of 4 rows failed (refused (3), e.g. image 0: no)")
    assert "hunter2" not in run.data.tags["stopped"]


def test_a_run_that_is_continued_keeps_its_mlflow_run(tmp_path: Path) -> None:
    def stopped(folder: Path) -> str:
        with tracked_run(Config(), str(folder)) as tracker:
            raise Stopped(tracker.run_id)

    with pytest.raises(Stopped) as caught:
        stopped(tmp_path)
    first = str(caught.value)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(first).info.status == "FAILED"
    with tracked_run(Config(), str(tmp_path)) as tracker:
        assert tracker.run_id == first
    assert client.get_run(first).info.status == "FINISHED"


def test_stages_of_a_killed_session_are_no_longer_running(tmp_path: Path) -> None:
    with tracked_run(Config(), str(tmp_path)) as tracker:
        client = mlflow.MlflowClient(tracker.uri)
        experiment = client.get_run(tracker.run_id).info.experiment_id
        # What a killed process leaves: nested runs that nobody ended. A trial is continued by its sweep.
        parent = {"mlflow.parentRunId": tracker.run_id}
        stage = client.create_run(experiment, tags=parent).info.run_id
        trial = client.create_run(experiment, tags=parent | {"fgvr.trial": "a1"}).info.run_id
    with tracked_run(Config(), str(tmp_path)):
        assert client.get_run(stage).info.status == "KILLED"
        assert client.get_run(trial).info.status == "RUNNING"


def test_two_runs_of_one_process_have_a_store_each(tmp_path: Path) -> None:
    with tracked_run(Config(), str(tmp_path / "first")) as first:
        assert os.environ["MLFLOW_TRACKING_URI"] == first.uri  # for child processes
    with tracked_run(Config(), str(tmp_path / "second")) as second:
        assert second.uri != first.uri
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_runs_of_one_name_in_different_buckets_have_a_store_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, token = build({"run": {"name": "birds"}}), tmp_path.name
    folders = [f"memory://{bucket}-{token}/runs/birds" for bucket in ("a", "b")]
    stores = [tracking_store.local_file(_sqlite_uri(config, folder)) for folder in folders]
    assert len({*stores, tmp_path / "runs" / "birds" / tracking_store.FILE}) == 3
    assert tracking_store.local_file(_sqlite_uri(config, f"{folders[0]}/")) == stores[0]


def test_a_run_in_a_bucket_keeps_the_store_in_which_an_earlier_version_began_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, token = build({"run": {"name": "birds"}}), tmp_path.name
    earlier = tmp_path / "runs" / "birds"
    with tracked_run(config, str(earlier)) as tracker:
        run_id = tracker.run_id
    began, other, new = (f"memory://{bucket}-{token}/runs/birds" for bucket in ("began", "other", "new"))
    storage.write_bytes(f"{began}/{RUN_FILE}", json.dumps({"tracking_uri": "sqlite:///x", "run_id": run_id}).encode())
    storage.write_bytes(f"{other}/{RUN_FILE}", json.dumps({"tracking_uri": tracker.uri, "run_id": "0" * 32}).encode())
    assert _sqlite_uri(config, began) == tracker.uri
    for folder in (other, new):
        assert _sqlite_uri(config, folder) != tracker.uri
    (earlier / tracking_store.FILE).write_bytes(b"no store")
    assert _sqlite_uri(config, began) != tracker.uri


def test_a_lost_store_starts_a_new_run(tmp_path: Path) -> None:
    facts = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "run_id": "0" * 32}
    (tmp_path / RUN_FILE).write_text(json.dumps(facts))
    with tracked_run(Config(), str(tmp_path)) as tracker:
        assert tracker.run_id != "0" * 32


def test_the_tracking_uri_of_the_environment_and_of_the_config_are_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/environment.db")
    with tracked_run(Config(), str(tmp_path / "run")) as tracker:
        assert tracker.uri == f"sqlite:///{tmp_path}/environment.db"
    chosen = build({"tracking": {"uri": f"sqlite:///{tmp_path}/config.db"}})
    with tracked_run(chosen, str(tmp_path / "run")) as tracker:
        assert tracker.uri == f"sqlite:///{tmp_path}/config.db"


@pytest.mark.parametrize(
    ("uri", "server", "login"),
    [
        ("http://me:p%40ss@mlflow:5000/x", "http://mlflow:5000/x", ("me", "p@ss")),
        ("https://token@mlflow", "https://mlflow", ("token", "")),
        ("http://mlflow:5000", "http://mlflow:5000", None),
        ("postgresql://me:pass@db/mlflow", "postgresql://me:pass@db/mlflow", None),  # MLflow's own form
    ],
)
def test_a_password_goes_where_mlflow_does_not_print_it(uri: str, server: str, login: tuple[str, str] | None) -> None:
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    assert _apart(uri) == (server, {} if login is None else dict(zip(names, login, strict=True)))


def test_files_and_numbers_of_the_whole_run(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    tracker: Tracker
    with tracked_run(Config(), str(tmp_path)) as tracker:
        tracker.log_metrics({"near.siou": 0.5})
        tracker.log_file(str(tmp_path / "report.html"), "report")
    client = mlflow.MlflowClient(tracker.uri)
    assert client.get_run(tracker.run_id).data.metrics == {"near.siou": 0.5}
    assert [file.path for file in client.list_artifacts(tracker.run_id, "report")] == ["report/report.html"]


def test_a_run_has_a_description_and_keeps_the_parameters_of_its_first_session(tmp_path: Path) -> None:
    first = build({"run": {"name": "birds"}, "near": {"epochs": 7}})
    with tracked_run(first, str(tmp_path)) as tracker:
        tracker.describe("| method | top-1 |\n|---|---|\n| NeaR | 91.0 |")
    with tracked_run(build({"run": {"name": "birds"}, "near": {"epochs": 9}}), str(tmp_path)) as again:
        assert again.run_id == tracker.run_id
    found = mlflow.MlflowClient(tracker.uri).get_run(tracker.run_id)
    assert found.data.params == {"run.name": "birds", "near.epochs": "7"}
    assert found.data.tags["mlflow.note.content"].endswith("| NeaR | 91.0 |")
