"""`ray job submit` to a head that is already running, with token authentication on."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local_cluster import LocalCluster, local_cluster
from tests.e2e import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def head() -> Iterator[LocalCluster]:
    with local_cluster(head_cpus=2) as cluster:
        yield cluster


def submit(
    head: LocalCluster, script: str, arguments: list[str], env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.dashboard]
    command += ["--working-dir", ".", "--", sys.executable, f"pipelines/{script}.py", *arguments]
    return subprocess.run(command, env=env, cwd=runs.ROOT, capture_output=True, text=True, check=False, timeout=1500)


def test_without_the_token_nothing_is_let_in(head: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{head.dashboard}/api/jobs/", timeout=30)
    assert caught.value.code in {401, 403}
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    env = runs.environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(wrong))
    done = submit(head, "ingest", runs.flags(str(tmp_path)), env)
    assert done.returncode != 0
    assert "token" in (done.stdout + done.stderr).lower()
    assert not (tmp_path / "tiny").exists()


def test_a_submitted_run_does_the_whole_job(head: LocalCluster, tmp_path: Path) -> None:
    env = runs.environment() | {name: value for name, value in head.environment().items() if name.startswith("RAY_")}
    done = submit(head, "full", runs.flags(str(tmp_path)), env)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert set(runs.metrics(str(tmp_path))["methods"]) == {"mllm", "zs_clip", "near", "base", "makd"}
    # It ran on the head's Ray, from the uploaded copy of the working directory, and left the head as it was.
    assert "report: " in done.stdout
    assert runs.table(str(tmp_path), "samples").rows == 36 * 3
