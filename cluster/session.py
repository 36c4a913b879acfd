"""The Ray session: a running cluster, the cluster of the job that this is, or one on this machine."""

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
from cluster.ownership import TOLD
from cluster.ray_access import LOOPBACK, prepare_token
from cluster.ray_private import METRICS_PORT, NODE_ADDRESS, in_worker, loopback_kept, start_no_other
from cluster.signs import forget_all
from fgvr.config.run import Cluster, Limits
from fgvr.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
CARRIED = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT")
"""Of the driver's environment, what holds for a run and not for a machine: where models may come from. Workers on other
nodes inherit their node's environment alone; keys and caches are a node's own (docs/cluster.md)."""
CONNECT_SECONDS = 5.0
START_ATTEMPTS = 3

log = logging.getLogger(__name__)

_own = False  # whether this process started the Ray that it uses; Ray has no public question for it
_limits: Limits | None = None  # of the session's run; None where none was opened in this process


REMOTE_HINT = (
    "Is the head node running and reachable, with the same versions of Ray and Python, and does this machine have its "
    "token (RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or ~/.ray/auth_token)? See docs/cluster.md."
)
LOCAL_HINT = "Is there memory and disk for it (cluster.object_store_gb, /tmp)? Ray's log files are under /tmp/ray."


class SessionError(UserError):
    """No Ray session could be had, or it is too small for the config; the message says what to change."""


@contextmanager
def ray_session(config: Cluster) -> Iterator[None]:
    """Connect to Ray, or start it on this machine, and leave it as it was found at the end.

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
    # Ray leaves with SystemExit(15) when a head does not answer as a head of its version.
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code in TOLD:  # this process was, while Ray started
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
    """Whether the session is one that `ray_session` started on this machine: it has one node and never grows."""
    return _own


def limits() -> Limits:
    """Longest waits, as the config of the session's run has them; the defaults where no session was opened here.

    Raises:
        RuntimeError: in a process that Ray started. It has no session of its own, and the defaults would stand there
            for what the run was given: who sends work there sends its limits along.
    """
    if _limits is not None:
        return _limits
    if in_worker():
        raise RuntimeError("the limits of a run are known to its driver alone: pass them to what runs in a worker")
    return Limits()


def _environment() -> dict[str, Any]:
    """Of every worker. They have other working directories: they import the project from where it stands.

    In a submitted job Ray has put the uploaded working directory on their path already.
    """
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}
    # What a submitted job's --runtime-env-json names reaches workers by itself, and Ray refuses it when it comes twice.
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    given = set(job.get("env_vars") or {})
    return {"env_vars": variables | {name: os.environ[name] for name in CARRIED if name in os.environ.keys() - given}}


def _joined(config: Cluster, address: str) -> dict[str, Any]:
    return {
        "address": address,
        "runtime_env": _environment(),
        "logging_level": logging.WARNING,
        "log_to_driver": config.worker_logs,
    }


def _start(config: Cluster) -> None:
    """Start Ray here with a token; again where its processes missed their half minute, as on a busy machine."""
    prepare_token()
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            with loopback_kept():
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
        "address": "local",  # without it Ray would join any other Ray that it finds on this machine
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        "object_store_memory": None if config.object_store_gb is None else int(config.object_store_gb * 2**30),
        "include_dashboard": False,
        NODE_ADDRESS: LOOPBACK if config.loopback else None,
        METRICS_PORT: config.metrics_port,
        "runtime_env": _environment(),
        "logging_level": logging.WARNING,
        "log_to_driver": config.worker_logs,
    }


def check_address(address: str) -> None:
    """Raise SessionError in seconds where `address` cannot be a head node; Ray itself would try for minutes."""
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
