"""A cluster of several Ray nodes on this machine, for tests and for trying out what a real cluster would do.

    python cluster/local_cluster.py --workers 2 --cpus 2          # runs until Ctrl-C; prints how to submit a run

It has a head without cores and `--workers` nodes, each with its own raylet and object store, on free ports, with token
authentication and a token of its own. The dashboard listens on the loopback interface; the nodes find each other at
this machine's address, by which Ray replaces 127.0.0.1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster import ray_access

START_SECONDS = 180.0
START_ATTEMPTS = 3
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class LocalCluster:
    """A running cluster: its address, and the credentials that a process needs."""

    address: str
    dashboard: str
    token_file: Path
    log_file: Path
    nodes: list[int] = field(default_factory=list)
    """Process ids of `ray start`: the head, then the workers."""

    def environment(self) -> dict[str, str]:
        """This process's environment, plus what Ray's commands and drivers need for this cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return kept | {ray_access.MODE: "token", ray_access.TOKEN_PATH: str(self.token_file)}


@contextmanager
def local_cluster(
    workers: int = 0, cpus: int = 2, head_cpus: int = 0, offers: Sequence[Sequence[str]] = ()
) -> Iterator[LocalCluster]:
    """Start head and workers; stop them at the end of the block.

    Args:
        workers: number of nodes besides the head.
        cpus: cores that each of them announces to Ray (in reality they share this machine).
        head_cpus: cores that the head announces.
        offers: further arguments of `ray start` per worker; announced resources need not exist.

    Raises:
        RuntimeError: a node did not start; the message has the end of its log.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fgvr-ray-", ignore_cleanup_errors=True)))
        token = folder / "auth_token"
        ray_access.make_token(token)
        gcs, dashboard = free_port(), free_port()
        cluster = LocalCluster(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", token, folder / "nodes.log")
        head = ["--head", f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        head += [f"--ray-client-server-port={free_port()}", f"--num-cpus={head_cpus}", f"--temp-dir={folder}"]
        _start(stack, cluster, head, wanted=1)
        for number in range(workers):
            worker = [f"--address={cluster.address}", f"--num-cpus={cpus}", *(offers[number] if offers else ())]
            _start(stack, cluster, worker, wanted=number + 2)
        yield cluster


@contextmanager
def another_node(cluster: LocalCluster, cpus: int) -> Iterator[None]:
    """Add a worker node to the running cluster, and remove it at the end of the block.

    Raises:
        RuntimeError: it did not start; the message has the end of its log.
    """
    with ExitStack() as stack:
        worker = [f"--address={cluster.address}", f"--num-cpus={cpus}"]
        _start(stack, cluster, worker, wanted=_alive(cluster) + 1)
        yield


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(stack: ExitStack, cluster: LocalCluster, arguments: list[str], wanted: int) -> None:
    """Start a node that `stack` stops; retries where its processes miss their 30 s limit, as on a busy machine."""
    for attempt in range(1, START_ATTEMPTS + 1):
        with ExitStack() as trial:
            node = trial.enter_context(_node(cluster, arguments))
            end = time.monotonic() + START_SECONDS
            while node.poll() is None and time.monotonic() < end:
                if _alive(cluster) >= wanted:
                    cluster.nodes.append(node.pid)
                    stack.push(trial.pop_all())
                    return
                time.sleep(0.5)
        text = cluster.log_file.read_text(errors="replace")[-2000:]
        if attempt == START_ATTEMPTS or "timed out during startup" not in text:
            raise RuntimeError(f"a Ray node did not start. The end of its output:\n{text}")


def _alive(cluster: LocalCluster) -> int:
    """Number of nodes that the dashboard reports as alive; 0 while it does not answer."""
    headers = {"Authorization": f"Bearer {cluster.token_file.read_text()}"}
    request = urllib.request.Request(f"{cluster.dashboard}/api/v0/nodes", headers=headers)  # noqa: S310  # loopback
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # loopback
            nodes = json.load(answer)["data"]["result"]["result"]
    except OSError:
        return 0
    return sum(node["state"] == "ALIVE" for node in nodes)


@contextmanager
def _node(cluster: LocalCluster, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start `ray start --block` in a process group of its own, which can be stopped as a whole."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"]
    # The default ports are ranges and fixed numbers, for which nodes on one machine would compete.
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}"]
    command += ["--disable-usage-stats", f"--object-store-memory={200 * 2**20}", *arguments]
    with cluster.log_file.open("ab") as log:
        node = subprocess.Popen(  # noqa: S603  # arguments of this module
            command, env=cluster.environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield node
    finally:
        _stop(node)


def _stop(node: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(node.pid, number)
        except ProcessLookupError:
            return
        try:
            node.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--workers", type=int, default=2, help="nodes besides the head")
    parser.add_argument("--cpus", type=int, default=1, help="cores that each worker offers")
    options = parser.parse_args()
    with local_cluster(options.workers, options.cpus) as cluster:
        sys.stdout.write(
            f"head and {options.workers} workers are up. Hand a run to them:\n\n"
            f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={cluster.token_file}\n"
            f"ray job submit --address {cluster.dashboard} --working-dir . -- python pipelines/full.py "
            f"--run.folder {Path('runs').absolute()}\n\nCtrl-C stops them.\n"
        )
        sys.stdout.flush()
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.stdout.write("\nstopping\n")


if __name__ == "__main__":
    main()
