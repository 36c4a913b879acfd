import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from cluster import session
from cluster.session import SessionError, check_address
from fgvr.config.run import Cluster, Limits

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_where_nothing_listens_is_named_in_seconds() -> None:
    address = f"127.0.0.1:{free_port()}"
    start = time.monotonic()
    with pytest.raises(SessionError, match=rf"cluster\.address = {address}: nothing answers there .*6379"):
        check_address(address)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://10.0.0.5:10001", "ray job submit"),
        ("http://127.0.0.1:8265", "host:port"),
        ("10.0.0.5", "expected `auto` or host:port"),
        ("head:port", "expected `auto` or host:port"),
        ("head:99999", "expected `auto` or host:port"),
    ],
)
def test_what_cannot_be_a_head_node_is_refused_at_once(address: str, message: str) -> None:
    with pytest.raises(SessionError, match=message):
        check_address(address)


def test_a_port_that_answers_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")
    check_address("auto")


SESSION = """
import logging, os, psutil, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
import ray
from cluster import session
from fgvr.config.run import Cluster

@ray.remote(num_cpus=1)
class Doubler:
    def __init__(self, factor):
        from cluster.session import PROJECT  # from another working directory
        assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
        self.factor = factor
    def __call__(self, number):
        return number * self.factor

os.environ.pop("TOKENIZERS_PARALLELISM", None)
mine = dict(os.environ)
with session.ray_session(Cluster(num_cpus=2)):
    assert session.is_own()
    assert {name: os.environ.get(name) for name in ("PYTHONPATH", "TOKENIZERS_PARALLELISM")} == {
        name: mine.get(name) for name in ("PYTHONPATH", "TOKENIZERS_PARALLELISM")
    }
    children = [os.getpgid(child.pid) for child in psutil.Process().children()]
    assert len(children) > 2 and os.getpgid(0) not in children  # a signal to the whole group leaves Ray alone
    doubler = Doubler.remote(2)
    print(ray.get([doubler.__call__.remote(number) for number in range(4)]), ray.cluster_resources()["CPU"])
    with session.ray_session(Cluster()):  # one inside the other: the session that is up is used, and stays up
        pass
    assert ray.is_initialized()
assert not ray.is_initialized() and not session.is_own()
"""


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """On stderr. Ray's core says that it was told to be quiet, once."""
    return [line for line in done.stderr.splitlines() if "Set ray log level from environment variable" not in line]


@pytest.mark.slow
def test_a_session_works_and_says_nothing_of_its_own() -> None:
    done = run_script(SESSION)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0, 2, 4, 6] 2.0\n"
    assert said(done) == []  # no plans, progress, token notices and E lines


STOPPED = """
import sys, threading, time
import ray
from cluster import session
from cluster.heartbeat import Heartbeats
from cluster.stall import unless_stalled
from fgvr.config.run import Cluster

@ray.remote(num_cpus=1)
def slow(number):
    time.sleep(2 * number)
    return number

def rows():
    for number in range(3):
        yield ray.get(slow.remote(number))

with session.ray_session(Cluster(num_cpus=1)):
    items = unless_stalled(rows, Heartbeats(), minutes=5, waits_for=str)
    next(items)  # as where a training is interrupted: the thread that waits for it is left behind
    (left,) = [thread for thread in threading.enumerate() if thread.name == "waiting"]
items.close()
left.join(timeout=20)  # on a busy machine Ray's core may keep it for ever: it is a daemon, and does nothing then
print(ray.is_initialized())
"""


@pytest.mark.slow
def test_what_a_stopped_stage_leaves_behind_starts_no_other_ray_and_says_nothing() -> None:
    done = run_script(STOPPED)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"
    assert said(done) == []


def test_libraries_are_quiet_and_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.console import quiet_before_start

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "debug")
    quiet_before_start()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "debug"
    assert not logging.getLogger("alembic.runtime.migration").isEnabledFor(logging.INFO)


def test_limits_are_the_sessions_and_an_inner_session_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.session.ray.is_initialized", lambda: True)  # as where one is up in this process
    patient = Limits(start_minutes=240, silent_minutes=240, place_minutes=600)
    before = session.limits()
    with session.ray_session(Cluster(limits=patient)):
        assert session.limits() == patient
        with session.ray_session(Cluster()):
            assert session.limits() == Limits()
        assert session.limits() == patient
    assert session.limits() == before


def test_who_is_told_to_end_while_ray_starts_ends_and_a_head_of_another_version_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("cluster.session.ray.is_initialized", lambda: False)
    for status, error in ((128 + signal.SIGTERM, SystemExit), (15, session.SessionError)):

        def start(_: Cluster, status: int = status) -> None:
            raise SystemExit(status)

        monkeypatch.setattr("cluster.session._start", start)
        with pytest.raises(error), session.ray_session(Cluster()):
            pytest.fail("there is a session")


def test_a_process_that_ray_started_does_not_take_the_defaults_for_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        worker = SimpleNamespace(mode=ray.WORKER_MODE)

    monkeypatch.setattr("cluster.session._limits", None)
    monkeypatch.setattr("cluster.session.ray.is_initialized", lambda: True)
    monkeypatch.setattr("cluster.session.ray.get_runtime_context", Context)
    with pytest.raises(RuntimeError, match="pass them to what runs in a worker"):
        session.limits()
    Context.worker.mode = ray.SCRIPT_MODE
    assert session.limits() == Limits()


def test_workers_take_models_from_where_the_driver_may_and_keep_the_rest_of_their_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    assert "HF_HUB_OFFLINE" not in session._runtime_environment()["env_vars"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "https://models.example")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for others")
    monkeypatch.setenv("FGVR_CACHE", "/of/this/machine")
    sent = session._runtime_environment()["env_vars"]
    assert (sent["HF_HUB_OFFLINE"], sent["HF_ENDPOINT"]) == ("1", "https://models.example")
    assert not {"AWS_SECRET_ACCESS_KEY", "FGVR_CACHE"} & set(sent)
    # Ray refuses a variable that the submitted job's own runtime environment names, too.
    job = {"runtime_env": {"env_vars": {"HF_HUB_OFFLINE": "0"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert "HF_HUB_OFFLINE" not in session._runtime_environment()["env_vars"]
    assert session._runtime_environment()["env_vars"]["HF_ENDPOINT"] == "https://models.example"
