"""The Ray session: a running cluster, the cluster of the job that this is, or one on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from fgvr.config.run import Cluster

PROJECT = Path(__file__).resolve().parents[1]


class SessionError(RuntimeError):
    """No Ray session could be had; the message says what to change."""


@contextmanager
def ray_session(config: Cluster) -> Iterator[None]:
    """Connect to Ray, or start it on this machine, and leave it as it was found at the end.

    Inside `ray job submit` the job's cluster is used (Ray sets RAY_ADDRESS there). A session that is already up
    in this process (a test, a notebook, a sweep) is used and stays up.

    Raises:
        SessionError: no cluster answers at the address, or Ray cannot start here.
    """
    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    # Workers are separate processes with other working directories: they import the project from where it stands.
    # In a submitted job Ray has put the working directory on their path already.
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}}
    try:
        if address:
            ray.init(address=address, runtime_env=environment, logging_level=logging.WARNING)
        else:
            os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
            ray.init(
                num_cpus=config.num_cpus,
                num_gpus=config.num_gpus,
                object_store_memory=None if config.object_store_gb is None else int(config.object_store_gb * 2**30),
                include_dashboard=False,
                runtime_env=environment,
                logging_level=logging.WARNING,
                log_to_driver=True,
            )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        place = f"at cluster.address = {address}" if address else "on this machine"
        raise SessionError(
            f"no Ray session {place}: {error}\n"
            "Is the head node running and reachable, with the same Ray version, and is RAY_AUTH_MODE=token set "
            "with its token (`ray get-auth-token`)?"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
