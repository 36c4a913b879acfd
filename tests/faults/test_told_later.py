"""MLflow's part in a run: a tracking server that dies in the middle of a stage, a run that is killed as it begins."""

import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pytest
from mlflow import MlflowClient

from cluster.local_cluster import free_port
from cluster.outbox import FOLDER
from cluster.stage import RunContext, StageFolder, StageSummary
from cluster.tracked_run import tracked_run
from cluster.tracking_store import FILE, State, prepare, sqlite_uri, state_of
from fgvr.config import build
from fgvr.tables import Table
from tests.faults.running import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@contextmanager
def serving(folder: Path, port: int) -> Iterator[Callable[[], None]]:
    """A server, and what kills it with its workers; starting it again takes it up where it was."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", sqlite_uri(folder / FILE), "--artifacts-destination", str(folder / "files")]
    with (folder / "log").open("a") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)

    def dies() -> None:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    try:
        end = time.monotonic() + 400
        while True:
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < end, (folder / "log").read_text()[-2000:]
                time.sleep(0.2)
        yield dies
    finally:
        dies()


def test_a_tracking_server_dies_in_the_middle_of_a_stage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, seen
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("cluster.tracking_link.FIRST_PAUSE", 0.0)
    port = free_port()
    prepare(tmp_path / FILE)
    uri = f"http://127.0.0.1:{port}"
    config = build({"run": {"name": "birds"}, "tracking": {"uri": uri}})
    run_folder = str(tmp_path / "run")
    with serving(tmp_path, port) as dies, tracked_run(config, run_folder) as tracker:
        context = RunContext(config, run_folder, tracker)

        def compute(folder: StageFolder) -> StageSummary:
            dies()
            folder.write_bytes("report.html", b"<p>")
            tracker.log_file(folder.path("report.html"), "report")
            return folder.write_table(pa.table({"image_id": [0, 1]}))

        begun = time.monotonic()
        table = context.stage("answers", decides={"path": "a (1).csv"}, inputs=[], compute=compute)
        took = time.monotonic() - begun
        assert took < 60  # MLflow by itself tries for minutes
        assert Table.load(table.uri).rows == 2
        assert len(list((tmp_path / "run" / FOLDER).iterdir())) == 1
        with serving(tmp_path, port):
            context.stage("labels", decides={}, inputs=[], compute=lambda f: f.write_table(pa.table({"x": [1]})))
            assert list((tmp_path / "run" / FOLDER).iterdir()) == []
            client = MlflowClient(uri)
            runs = client.search_runs([tracker.run.info.experiment_id])
            states = {run.info.run_name: run.info.status for run in runs}
            assert states == {"birds": "RUNNING", "answers": "FINISHED", "labels": "FINISHED"}
            assert len(runs) == 3
            assert [file.path for file in client.list_artifacts(tracker.run_id, "report")] == ["report/report.html"]
    # Dead again at the end of the run: told at its next start.
    assert "does not have all of this run yet: 1 of its runs wait" in caplog.text
    with serving(tmp_path, port), tracked_run(config, run_folder) as tracker:
        assert tracker.run_id in {run.info.run_id for run in runs}
        assert list((tmp_path / "run" / FOLDER).iterdir()) == []
    seen("a tracking server dies in the middle of a stage", f"told later, nothing twice; the stage took {took:.0f} s")


BEGIN = """
import sys
from cluster.tracked_run import tracked_run
from fgvr.config import build

with tracked_run(build({"run": {"name": "birds"}}), sys.argv[1]) as tracker:
    print(tracker.run_id)
"""


def begin(folder: Path, cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"FGVR_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BEGIN, str(folder)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "Ctrl-C"])
def test_a_new_run_is_killed_at_any_moment_of_its_first_seconds(tmp_path: Path, seen, sign: signal.Signals) -> None:
    start = time.monotonic()
    first = begin(tmp_path / "whole", tmp_path / "whole-cache")
    assert first.communicate(timeout=300)[0].strip()
    whole = time.monotonic() - start
    moments = 8
    for moment in range(moments):
        folder, cache = tmp_path / f"run{moment}", tmp_path / f"cache{moment}"  # nothing is there: the longest way
        dying = begin(folder, cache)
        with suppress(subprocess.TimeoutExpired):
            dying.wait(timeout=whole * (0.3 + 0.7 * moment / moments))
        dying.send_signal(sign)
        dying.communicate(timeout=60)
        again = begin(folder, cache)
        said, errors = again.communicate(timeout=300)
        assert (again.returncode, len(said.strip())) == (0, 32), f"killed at {moment}: {errors[-3000:]}"
        assert state_of(folder / FILE) is State.WHOLE
        assert {path.name for path in folder.iterdir()} <= {FILE, "mlartifacts", "mlflow_run.json", FOLDER}
        runs = MlflowClient(sqlite_uri(folder / FILE)).search_runs(["1"])
        assert [(run.info.run_id, run.info.status) for run in runs] == [(said.strip(), "FINISHED")]
    seen(f"{sign.name} of a new run, at {moments} moments of its start", "same command: begins, one MLflow run")
