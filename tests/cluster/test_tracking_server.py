"""A real tracking server that is stopped in the middle of a stage, and started again."""

import logging
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from mlflow import MlflowClient

from cluster.local_cluster import free_port
from cluster.outbox import FOLDER
from cluster.stage import RunContext, StageFolder, StageSummary
from cluster.tracking import tracked_run
from cluster.tracking_store import FILE, prepare, sqlite_uri
from fgvr.config import build
from fgvr.tables import Table

pytestmark = pytest.mark.slow


@contextmanager
def serving(folder: Path, port: int) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", sqlite_uri(folder / FILE), "--artifacts-destination", str(folder / "files")]
    with (folder / "log").open("a") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
    try:
        for _ in range(600):
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            except OSError:
                time.sleep(0.2)
            else:
                break
        yield server
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def test_a_server_that_is_restarted_costs_no_table_and_learns_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("cluster.tracking_link.FIRST_PAUSE", 0.0)
    port = free_port()
    prepare(tmp_path / FILE)
    uri = f"http://127.0.0.1:{port}"
    config = build({"run": {"name": "birds"}, "tracking": {"uri": uri}})
    run_folder = str(tmp_path / "run")
    with serving(tmp_path, port) as first, tracked_run(config, run_folder) as tracker:
        context = RunContext(config, run_folder, tracker)

        def compute(folder: StageFolder) -> StageSummary:
            first.terminate()
            first.wait(timeout=20)
            folder.write_bytes("report.html", b"<p>")
            tracker.log_file(folder.path("report.html"), "report")
            return folder.write_table(pa.table({"image_id": [0, 1]}))

        begun = time.monotonic()
        table = context.stage("answers", decides={"path": "a (1).csv"}, inputs=[], compute=compute)
        assert time.monotonic() - begun < 60  # MLflow by itself tries for minutes
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
    # Stopped before the end of the run: told at its next start.
    assert "was not told all of this run: 1 of its runs wait" in caplog.text
    with serving(tmp_path, port), tracked_run(config, run_folder) as tracker:
        assert {run.info.run_id for run in runs} >= {tracker.run_id}
        assert list((tmp_path / "run" / FOLDER).iterdir()) == []
