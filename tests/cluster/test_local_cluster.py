import subprocess
import sys

import pytest

from cluster.local_cluster import local_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Two tasks of one core each can only run at the same time on two nodes.
DRIVER = """
import sys, time
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)

@ray.remote(num_cpus=1)
def where():
    time.sleep(1)
    return ray.get_runtime_context().get_node_id()

print(len(set(ray.get([where.remote(), where.remote()]))), ray.cluster_resources()["CPU"])
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
