"""A cluster of several nodes on this machine: that they share the work, and let nobody in without the token."""

import json
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from cluster.local_cluster import LocalCluster, local_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# One task of one core on each node that has a core: both must really run there.
DRIVER = """
import sys
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)

@ray.remote(num_cpus=1)
def where():
    return ray.get_runtime_context().get_node_id()

nodes = [node["NodeID"] for node in ray.nodes() if node["Resources"].get("CPU")]
on = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
found = ray.get([where.options(scheduling_strategy=each).remote() for each in on])
print(len(set(found)), ray.cluster_resources()["CPU"])
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(workers=2, cpus=1) as running:
        yield running


def test_a_head_and_two_workers_are_three_nodes_that_share_the_work(cluster: LocalCluster) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, cluster.address],
        env=cluster.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "2.0"]
    assert "Ray runtime started" in cluster.log_file.read_text()


def status_of(url: str, token: str | None = None, data: bytes | None = None) -> int:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_dashboard_and_jobs_refuse_who_has_no_token(cluster: LocalCluster) -> None:
    job = json.dumps({"entrypoint": "true"}).encode()
    for path, data in (
        ("/api/jobs/", None),
        ("/api/jobs/", job),
        ("/api/v0/nodes", None),
        ("/nodes?view=summary", None),
    ):
        assert status_of(cluster.dashboard + path, None, data) == 401
        assert status_of(cluster.dashboard + path, "0" * 64, data) == 403
        assert status_of(cluster.dashboard + path, cluster.token_file.read_text(), data) == 200
    assert stat.S_IMODE(cluster.token_file.stat().st_mode) == 0o600
