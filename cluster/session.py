"""The Ray session: on a running cluster, on the cluster of this job, or started on this machine."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from cluster.console import quiet_before_start
from cluster.heartbeat import forget_all
from cluster.ownership import TOLD
from cluster.ray_access import LOOPBACK, prepare_token
from cluster.ray_private import (
    METRICS_PORT,
    NODE_ADDRESS,
    in_groups_of_their_own,
    in_worker,
    loopback_kept,
    start_no_other,
)
from fgvr.config.run import Cluster, Limits
from fgvr.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
CARRIED = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT")
"""Variables of the driver's environment that belong to the run and not to the machine: where models may come from.
Workers on other nodes inherit only their node's environment; keys and caches are the node's own (docs/cluster.md)."""
CONNECT_SECONDS = 5.0
START_ATTEMPTS = 3

log = logging.getLogger(__name__)

_own = False  # whether this process started the Ray that it uses; Ray has no public function for it
_limits: Limits | None = None  # of the session's run; None without a session in this process


REMOTE_HINT = (
    "Is the head node running and reachable, with the same versions of Ray and Python, and does this machine have its "
    "token (RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or ~/.ray/auth_token)? See docs/cluster.md."
)
LOCAL_HINT = "Is there memory and disk for it (cluster.object_store_gb, /tmp)? Ray's log files are under /tmp/ray."


class SessionError(UserError):
    """No Ray session could be opened, or it is too small for the config; the message says what to change."""


@contextmanager
def ray_session(config: Cluster) -> Iterator[None]:
    """Connect to Ray or start it on this machine; at the end restore the former state.

    Inside `ray job submit` the job's cluster is used (Ray sets RAY_ADDRESS there). A session that is already up
    in this process (a test, a notebook) is used and stays up.

    Raises:
        SessionError: no cluster answers at the address, or Ray cannot start here.
    """
    global _limits  # noqa: PLW0603  # as ray.is_initialized() is: a process has one session
    quiet_before_start()
    start_no_other()
    outer, _limits = _limits, config.limits
    try:
        yield from _session(config)
    finally:
        _limits = outer


def _session(config: Cluster) -> Iterator[None]:
    global _own  # noqa: PLW0603  # as above
    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address:
        check_address(address)
    try:
        if address:
            ray.init(**_joined(config, address))
        else:
            _start(config)
    # Ray exits with SystemExit(15) when no head of its own version answers.
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code in TOLD:  # this process got a signal while Ray started
            raise
        place = f"at cluster.address = {address}" if address else "on this machine"
        raise SessionError(f"no Ray session {place}: {error}\n{REMOTE_HINT if address else LOCAL_HINT}") from error
    _own = not address
    try:
        yield
    finally:
        _own = False
        forget_all()
        ray.shutdown()


def is_own() -> bool:
    """Whether `ray_session` started the session on this machine: then it has one node and never grows."""
    return _own


def limits() -> Limits:
    """The longest waits from the config of the session's run; the defaults where no session was opened here.

    Raises:
        RuntimeError: in a process that Ray started. It has no session, and the defaults would replace the run's limits:
        so work that is sent there must bring its limits along.
    """
    if _limits is not None:
        return _limits
    if in_worker():
        raise RuntimeError("the limits of a run are known to its driver alone: pass them to what runs in a worker")
    return Limits()


def _variables() -> dict[str, str]:
    """What every worker's environment holds. Workers have other working directories and import the project from this
    checkout.

    In a submitted job, Ray has already put the uploaded working directory on their path.
    """
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}


@contextmanager
def _inherited() -> Iterator[None]:
    """Within the block, the variables of workers are this process's own, and so those of a Ray that it starts.

    Workers of a session on this machine inherit them from there. A runtime environment would do the same, but each
    worker would then start in two steps (0.5 s more), and those that Ray starts in advance would be of no use.
    """
    before = {name: os.environ.get(name) for name in _variables()}
    os.environ |= _variables()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _runtime_environment() -> dict[str, Any]:
    """The runtime environment of a job on a cluster that is there already: its workers inherit nothing from here."""
    variables = _variables()
    # The variables of a submitted job's --runtime-env-json reach workers anyway, and Ray refuses duplicates.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    given = set(job.get("env_vars") or {})
    return {"env_vars": variables | {name: os.environ[name] for name in CARRIED if name in os.environ.keys() - given}}


def _joined(config: Cluster, address: str) -> dict[str, Any]:
    return {
        "address": address,
        "runtime_env": _runtime_environment(),
        "logging_level": logging.WARNING,
        "log_to_driver": config.worker_logs,
    }


def _start(config: Cluster) -> None:
    """Start Ray here with a token; retries where its processes miss their 30 s limit, as on a busy machine."""
    prepare_token()
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            with loopback_kept(), in_groups_of_their_own(), _inherited():
                ray.init(**_started(config))
        except Exception as error:  # Ray raises a bare Exception for this
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise TimeoutError(f"{error} (tried {attempt} times; is the machine very busy?)") from error
            log.warning("Ray did not start in time; trying again (%d of %d)", attempt + 1, START_ATTEMPTS)
        else:
            return


def _started(config: Cluster) -> dict[str, Any]:
    return {
        "address": "local",  # without it Ray would join any Ray that runs on this machine
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        "object_store_memory": None if config.object_store_gb is None else int(config.object_store_gb * 2**30),
        "include_dashboard": False,
        NODE_ADDRESS: LOOPBACK if config.loopback else None,
        METRICS_PORT: config.metrics_port,
        "logging_level": logging.WARNING,
        "log_to_driver": config.worker_logs,
    }


def check_address(address: str) -> None:
    """Raise SessionError within seconds where `address` is not a head node; Ray itself would retry for minutes."""
    if address == "auto":
        return
    if "://" in address:
        raise SessionError(
            f"cluster.address = {address}: Ray Client and web addresses cannot drive a run. Name the head node's "
            "host:port (6379 by default), or hand the run to the cluster with `ray job submit` (docs/cluster.md)"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise SessionError(f"cluster.address = {address}: expected `auto` or host:port, such as 10.0.0.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise SessionError(
            f"cluster.address = {address}: nothing answers there ({error}). Is the head node up, is this its GCS port "
            "(`ray start --head --port`, 6379 by default, not the dashboard's 8265), and may this machine reach it?"
        ) from error
