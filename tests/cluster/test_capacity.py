import logging

import pytest

from cluster.capacity import Demand, Node, check_all, check_capacity, demand_of, shortage
from fgvr.config import Config
from fgvr.config.base import TrainWorkers, Workers

LAPTOP = [Node(cpus=2, gpus=0, memory_gb=16)]
CLUSTER = [Node(16, 0, 64), Node(8, 1, 32, frozenset({"L4"})), Node(8, 1, 32, frozenset({"L4"}))]


@pytest.mark.parametrize(
    ("demand", "nodes", "problem"),
    [
        (Demand(1, 2, 0), LAPTOP, None),
        (Demand(1, 4, 0), LAPTOP, "num_cpus = 4: no node has more than 2 CPU cores"),
        (Demand(1, 1, 1), LAPTOP, "num_gpus = 1: no node has more than 0 GPUs"),
        (Demand(1, 1, 0, memory_gb=20), LAPTOP, "memory_gb = 20: no node has more than 16.0 GiB for workers"),
        (Demand(2, 2, 0), LAPTOP, "num_workers = 2: the cluster has room for 1 workers of this size"),
        (Demand(2, 8, 1), CLUSTER, None),
        (Demand(3, 8, 1), CLUSTER, "num_workers = 3: the cluster has room for 2 workers of this size"),
        # 16 cores and a GPU exist, but not in one machine.
        (Demand(1, 16, 1), CLUSTER, "num_workers = 1: the cluster has room for 0 workers of this size"),
        (Demand(1, 10, 1, accelerator="L4"), CLUSTER, "num_cpus = 10: no node has more than 8 CPU cores"),
        (Demand(1, 1, 1, accelerator="H100"), CLUSTER, "accelerator_type = H100: no node has one"),
        (Demand(4, 2, 0.5), CLUSTER, None),  # two halves of each GPU
        (Demand(5, 2, 0.5), CLUSTER, "num_workers = 5: the cluster has room for 4 workers of this size"),
    ],
)
def test_what_is_missing_is_named(demand: Demand, nodes: list[Node], problem: str | None) -> None:
    assert shortage(demand, nodes) == problem


def test_a_pool_can_begin_with_one_worker_and_a_training_only_with_all() -> None:
    assert demand_of(Workers(min_workers=8, max_workers=8, num_cpus=1)).count == 1
    assert demand_of(TrainWorkers(num_workers=8, use_gpu=True)) == Demand(8, 2, 1)


def test_an_elastic_training_needs_its_fewest_workers_only() -> None:
    demand = demand_of(TrainWorkers(min_workers=2, num_workers=8))
    assert shortage(demand, [Node(4, 0, 16)]) is None
    assert shortage(demand, LAPTOP) == "min_workers = 2: the cluster has room for 1 workers of this size"
    with pytest.raises(ValueError, match="min_workers = 3 is more than num_workers = 2"):
        TrainWorkers(min_workers=3, num_workers=2)


def test_a_head_without_cores_before_the_first_worker_is_no_shortage(monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    head = [Node(cpus=0, gpus=0, memory_gb=12)]
    monkeypatch.setattr("cluster.capacity.cluster_nodes", lambda: head)
    monkeypatch.setattr("cluster.session.is_own", lambda: False)
    check_all(Config())
    check_capacity("label.workers", Workers(num_cpus=8, num_gpus=1, accelerator_type="L40S"))
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "no worker node is up yet" in caplog.messages[0]  # once, and not for each stage
    assert caplog.messages[1] == (
        "label.workers: no worker node is up; waiting for the cluster to start some (workers with 8 CPU cores, "
        "1 GPUs, an accelerator L40S each)"
    )
    caplog.clear()
    head.append(Node(cpus=4, gpus=0, memory_gb=16))
    check_capacity("label.workers", Workers(num_cpus=8))
    assert caplog.messages == [
        "label.workers.num_cpus = 8: no node has more than 4 CPU cores now; waiting for the cluster to grow"
    ]
