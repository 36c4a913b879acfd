"""`ray job submit` of the whole job to a head that is already running, with token authentication on; images and run
folder lie on an object store: a local S3 server, reached as every AWS tool reaches one.
"""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from cluster.local_cluster import LocalCluster, free_port, local_cluster
from fgvr import storage
from fgvr.demo.field_guide import write_field_guide
from fgvr.demo.questions import QUESTIONS
from fgvr.tables import MANIFEST, part_name
from tests.e2e import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FOLDER = "s3://birds/runs"


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """An empty bucket on a server of its own, and what the environment says of it; set in this process, too."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    values = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    values["AWS_ENDPOINT_URL"] = url
    try:
        _wait_for(f"{url}/moto-api/")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in values.items():
                patch.setenv(name, value)
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().makedirs("birds", exist_ok=True)
            yield values
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.terminate()
        server.wait(timeout=20)


def _wait_for(url: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return


@pytest.fixture(scope="module")
def head(bucket: dict[str, str]) -> Iterator[LocalCluster]:
    """A head whose workers know the bucket from their environment, as nodes in a cloud do."""
    with local_cluster(head_cpus=2) as cluster:
        yield cluster


def submit(
    head: LocalCluster, script: str, arguments: list[str], env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.dashboard]
    command += ["--working-dir", ".", "--", sys.executable, f"pipelines/{script}.py", *arguments]
    return subprocess.run(command, env=env, cwd=runs.ROOT, capture_output=True, text=True, check=False, timeout=1500)


def photos_in_the_bucket(drawn: Path) -> tuple[str, str]:
    """A table of photos and a file of questions there, of names that are no names in MLflow."""
    write_field_guide(drawn, per_class={"train": 2, "test": 1})
    s3fs.S3FileSystem().put(f"{drawn}/images", "birds/of (2026)/images", recursive=True)
    table, questions = "s3://birds/of (2026)/list, all+1's.csv", "s3://birds/of (2026)/what? [seen].txt"
    storage.write_bytes(table, (drawn / "samples.csv").read_bytes())
    storage.write_bytes(questions, "\n".join(question.text for question in QUESTIONS).encode())
    return table, questions


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


def test_a_submitted_run_does_the_whole_job_on_a_bucket_and_resumes_there(
    head: LocalCluster, bucket: dict[str, str], tmp_path: Path
) -> None:
    table, questions = photos_in_the_bucket(tmp_path / "drawn")
    values = {name: value for name, value in runs.TINY.items() if not name.startswith("ingest.")}
    values |= {"ingest.source.kind": "table", "ingest.source.path": table, "questions.file": questions}
    values |= {"run.folder": FOLDER, "run.name": "tiny", "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db"}
    # Labels and aspects in one pass: one engine start less, and the table `looks` on a bucket.
    values["aspects.with_labels"] = "true"
    values["makd.base"] = "false"  # it goes makd's way; test_full has it
    arguments = [word for name, value in values.items() for word in (f"--{name}", value)]
    env = runs.environment() | {name: value for name, value in head.environment().items() if name.startswith("RAY_")}
    done = submit(head, "full", arguments, env)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"report: {FOLDER}/tiny/report/report.html" in done.stdout
    assert storage.exists(f"{FOLDER}/tiny/report/report.html")
    assert set(runs.metrics(FOLDER)["methods"]) == {"mllm", "zs_clip", "near", "makd"}
    samples = runs.rows(FOLDER, "samples")
    assert samples.num_rows == 36 * 3
    assert all(uri.startswith("s3://birds/of (2026)/images/") for uri in samples["uri"].to_pylist())
    assert storage.list_files(f"{FOLDER}/tiny/outbox") == []  # MLflow knows all, whatever the table is called
    embeddings = runs.table(FOLDER, "embeddings")
    assert embeddings.failed == 0

    # A run that was killed in `embed`: the manifest is not there yet, nor is one of the parts.
    before, rows = modified(embeddings.uri), embeddings.read()
    storage.remove(embeddings.path(MANIFEST))
    storage.remove(embeddings.path(part_name(1)))
    time.sleep(1.1)  # S3 tells the time in whole seconds
    done = submit(head, "embed", arguments, env)
    assert done.returncode == 0, done.stdout[-6000:]
    after = modified(embeddings.uri)
    assert {name for name in before if after[name] != before[name]} == {part_name(1)}
    assert runs.rows(FOLDER, "embeddings").equals(rows)


def modified(folder: str) -> dict[str, object]:
    """When each part of a table was written."""
    fs, path = storage.resolve(folder)
    fs.invalidate_cache()
    found = fs.find(path, detail=True)
    return {name.rsplit("/", 1)[-1]: info["LastModified"] for name, info in found.items() if name.endswith(".parquet")}
