import os
from collections.abc import Iterator
from typing import Any

import pytest

# Before anything imports the libraries that read them: a hub name in a test is an error, not a download.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(autouse=True)
def _no_tracking_store() -> None:
    """`mlflow.set_tracking_uri` sets an environment variable that the next test's run would obey."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def ray_session_of_two() -> Iterator[None]:
    """One Ray session of two cores for all tests that need one in their own process."""
    from cluster.session import ray_session
    from fgvr.config.run import Cluster

    with ray_session(Cluster(num_cpus=2)):
        yield


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Fsspec's S3 file system on a server of moto's in this process, which s3:// means meanwhile."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    yield fsspec.filesystem("s3")
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()
