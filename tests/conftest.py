import gc
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
# Container images often set it: each of some hundred child processes would compile the project again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What Ray and MLflow wait for or start beside, and no test needs.
os.environ |= {
    "RAY_metrics_report_interval_ms": "2000",  # by itself 10 s
    "RAY_USAGE_STATS_ENABLED": "0",  # a process in each Ray session that counts for Ray's makers
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # processes beside a server, for jobs that nobody gives it
}
# Nothing here has to outlive a power cut, and each of some ten thousand files would wait for the disk.
os.fsync = lambda _: None

GIB_A_PROCESS = 8
"""What README asks for: a Ray session with an engine of the demo's size beside the test's own process."""
CORES = len(os.sched_getaffinity(0))
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Several processes that all compute on every core wait for each other more than they compute.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes of `make test`: a core and eight gigabytes each, no more than four; 0 is this process alone.

    A third process on two cores gains nothing: both are 99% busy with three, Ray's own processes included.
    """
    import psutil

    count = min(CORES, round(psutil.virtual_memory().total / 2**30) // GIB_A_PROCESS, 4)
    return count if count > 1 else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, else in their order: the last process to end then ends on a short one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Libraries that count what they leave behind find it all."""
    gc.unfreeze()


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
