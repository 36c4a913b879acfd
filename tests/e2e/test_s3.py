"""Images and run folder on an object store: a local S3 server, reached as every AWS tool reaches one."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from cluster.local_cluster import free_port
from fgvr import storage
from fgvr.tables import MANIFEST, part_name
from tests.e2e import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A moto server with an empty bucket; a process of its own, since the runs are, too."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a run, set in the test's own process as well."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("birds", exist_ok=True)
    return runs.environment(**KEYS, AWS_ENDPOINT_URL=endpoint)


def modified(folder: str) -> dict[str, object]:
    """When each part of a table was written."""
    fs, path = storage.resolve(folder)
    fs.invalidate_cache()
    found = fs.find(path, detail=True)
    return {name.rsplit("/", 1)[-1]: info["LastModified"] for name, info in found.items() if name.endswith(".parquet")}


def test_the_whole_job_and_its_resumption_on_a_bucket(s3: dict[str, str], tmp_path: Path) -> None:
    folder = "s3://birds/runs"
    arguments = runs.flags(folder, tracking__uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs.run("full", arguments, s3)
    assert set(runs.metrics(folder)["methods"]) == {"mllm", "zs_clip", "near", "base", "makd"}
    assert storage.exists(storage.join(folder, "tiny", "report", "report.html"))
    samples = runs.rows(folder, "samples")
    assert samples.num_rows == 36 * 3
    assert all(uri.startswith("s3://birds/") for uri in samples["uri"].to_pylist())
    assert runs.table(folder, "embeddings").failed == 0

    # A run that was killed in `embed`: the manifest is not there yet, nor is one of the parts.
    embeddings = runs.table(folder, "embeddings")
    before, rows = modified(embeddings.uri), embeddings.read()
    storage.remove(embeddings.path(MANIFEST))
    storage.remove(embeddings.path(part_name(1)))
    time.sleep(1.1)  # S3 tells the time in whole seconds
    runs.run("embed", arguments, s3)
    after = modified(embeddings.uri)
    assert {name for name in before if after[name] != before[name]} == {part_name(1)}
    assert runs.rows(folder, "embeddings").equals(rows)
