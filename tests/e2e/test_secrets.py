"""A run that is given secrets wherever one can be given, with a real tracking server: afterwards no file has them."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cluster.local_cluster import free_port
from cluster.tracking_store import prepare
from tests.e2e import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PASSWORD, SIGNATURE, KEY, CLOUD = (
    "hunter2hunter2",
    "5igna7ure5igna7ure",
    "sk-0123456789abcdefXYZ",
    "wJalrXUtnFEMIK7MDENG",
)
SECRETS = (PASSWORD, SIGNATURE, KEY, CLOUD)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """The port of an MLflow server whose files lie in `tmp_path`/server."""
    port, place = free_port(), tmp_path / "server"
    prepare(place / "mlflow.db")  # a copy of the kept one, before the server makes its tables
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--artifacts-destination", str(place / "files")]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            except OSError:
                time.sleep(0.5)
            else:
                break
        yield port
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=60)


def with_secrets(place: Path) -> dict[str, list[str]]:
    """Files below a folder that hold a secret, and which."""
    found = {}
    for file in place.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            if secrets := [secret for secret in SECRETS if secret.encode() in content]:
                found[str(file.relative_to(place))] = secrets
    return found


def test_no_file_and_no_message_has_them(server: int, tmp_path: Path) -> None:
    (tmp_path / "photos.csv").write_text(f"uri\nhttps://127.0.0.1:1/a.jpg?X-Amz-Signature={SIGNATURE}\n")
    ray = Path(tempfile.mkdtemp(prefix="fgvr-s-"))  # short: Ray puts sockets into it
    arguments = ["--run.folder", str(tmp_path / "runs"), "--run.name", "tiny", "--cluster.num_cpus", "1"]
    arguments += ["--ingest.source.kind", "table", "--ingest.source.path", str(tmp_path / "photos.csv")]
    arguments += ["--tracking.uri", f"http://me:{PASSWORD}@127.0.0.1:{server}", "--mllm.kind", "openai"]
    arguments += [
        "--mllm.model",
        "m",
        "--mllm.base_url",
        f"http://me:{PASSWORD}@127.0.0.1:1/v1",
        "--label.images.max_images",
        "1",
    ]
    arguments += ["--label.images.per_class", "null"]
    arguments += ["--mllm.max_retries", "0", "--questions.llm.kind", "openai", "--questions.llm.model", "m"]
    arguments += ["--questions.llm.base_url", f"https://host/v1?key={SIGNATURE}"]
    env = runs.environment(OPENAI_API_KEY=KEY, AWS_SECRET_ACCESS_KEY=CLOUD, RAY_TMPDIR=str(ray), HOME=str(tmp_path))

    def script(name: str, *given: str, seconds: float = 400) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(runs.ROOT / "pipelines" / name), *given]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=seconds)

    try:
        done = script("ingest.py", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        said = done.stdout + done.stderr
        assert "a secret stands on the command line" in said

        # The server is not there, the only photo neither: every row fails, and the messages name both.
        failed = script("label.py", *arguments)
        assert failed.returncode == 1, failed.stderr[-3000:]
        assert "http://***@127.0.0.1:1/v1" in failed.stderr
        status = script("status.py", str(tmp_path / "runs" / "tiny"), seconds=60)
        assert status.returncode == 0, status.stderr[-3000:]
        assert f"http://***@127.0.0.1:{server}" in status.stdout  # in the command that goes on
        said += failed.stdout + failed.stderr + status.stdout
        assert [secret for secret in SECRETS if secret in said] == []

        run = tmp_path / "runs" / "tiny"
        assert (run / "config.yaml").read_text().count("***") >= 3
        kept = with_secrets(run)
        # The one place that needs it: how else could the photo be read?
        assert [name for name in kept if not name.startswith("tables/samples/")] == []
        with closing(sqlite3.connect(tmp_path / "server" / "mlflow.db")) as store:
            assert store.execute("SELECT count(*) FROM runs").fetchone()[0] > 1  # the server was told
        assert with_secrets(tmp_path / "server") == {}
        logs = next(ray.glob("ray/session_2*/logs"))
        assert list(logs.iterdir())
        assert with_secrets(logs) == {}
    finally:
        shutil.rmtree(ray, ignore_errors=True)
