import subprocess
import sys

import pytest

from cluster.local_cluster import local_cluster

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


def test_a_head_and_two_workers_are_three_nodes_that_share_the_work() -> None:
    with local_cluster(workers=2, cpus=1) as cluster:
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
        nodes = cluster.log_file.read_text()
    assert "Ray runtime started" in nodes
