import logging

import pytest

from cluster.capacity import Node
from cluster.session import SessionError
from fgvr.config.base import TrainWorkers
from tune import room
from tune.room import count_trials, find_room, most_waiting


@pytest.fixture
def machine(monkeypatch):
    def offers(*nodes: Node, own: bool) -> None:
        monkeypatch.setattr(room, "cluster_nodes", lambda: list(nodes))
        monkeypatch.setattr(room.session, "is_own", lambda: own)

    return offers


def cores(number, gpus=0):
    return Node(number, gpus, 8)


def test_a_trial_of_one_worker_takes_what_the_worker_takes():
    one = TrainWorkers(num_cpus=1)
    assert count_trials([cores(2)], one) == 2
    assert count_trials([cores(3)], TrainWorkers(num_cpus=2)) == 1
    assert count_trials([cores(1)], TrainWorkers(num_cpus=2)) == 0
    assert room.trial_resources(one) == {"CPU": 1}
    assert room.trial_resources(TrainWorkers(num_cpus=4, use_gpu=True)) == {"CPU": 4, "GPU": 1}


def test_trials_of_several_workers_are_counted_with_their_actors():
    pair = TrainWorkers(num_workers=2, num_cpus=1)
    assert count_trials([cores(4)], pair) == 1  # 2.5 of 4
    assert count_trials([cores(5)], pair) == 2  # 5 of 5
    assert count_trials([cores(2)], pair) == 0
    # Four workers of three cores fit, but the first trial's actor takes what the last of them would need.
    assert count_trials([cores(6), cores(6)], TrainWorkers(num_workers=2, num_cpus=3)) == 1
    assert count_trials([cores(7), cores(6.5)], TrainWorkers(num_workers=2, num_cpus=3)) == 2
    # Two workers of a trial may stand on two nodes.
    assert count_trials([cores(2.5), cores(2)], TrainWorkers(num_workers=2, num_cpus=2)) == 1
    assert room.trial_resources(pair) == {"CPU": 0.5}


def test_gpus_count_where_they_are_used():
    gpu = TrainWorkers(num_cpus=2, use_gpu=True)
    assert count_trials([cores(32, gpus=2), cores(64)], gpu) == 2
    assert count_trials([cores(64)], gpu) == 0
    # The actors go to the node without GPUs, which nothing else wants: 4 workers of 4 cores fill the other.
    assert count_trials([cores(16, gpus=4), cores(2)], TrainWorkers(num_workers=2, num_cpus=4, use_gpu=True)) == 2


def test_workers_take_fewer_cores_on_a_small_machine(machine, caplog):
    caplog.set_level(logging.INFO)
    machine(cores(1), own=True)
    assert find_room("near.workers", TrainWorkers(num_cpus=2), None) == room.Room(1, TrainWorkers(num_cpus=1))
    assert "near.workers.num_cpus = 1 for the trials, instead of 2" in caplog.text
    pair = TrainWorkers(num_workers=2, num_cpus=1)
    machine(cores(2), own=True)
    found = find_room("near.workers", pair, None)
    assert (found.trials, found.workers.num_cpus) == (1, 0.75)
    machine(cores(8), own=True)
    assert find_room("near.workers", TrainWorkers(num_cpus=2), None) == room.Room(4, TrainWorkers(num_cpus=2))


def test_what_can_never_run_is_refused_at_once(machine):
    machine(cores(8), own=True)
    with pytest.raises(SessionError, match=r"a trial needs 2 CPU cores and 1 GPUs .*makd\.workers.* 8 cores and 0 GPU"):
        find_room("makd.workers", TrainWorkers(use_gpu=True), None)
    with pytest.raises(SessionError, match=r"a trial needs 4\.5 CPU cores and 2 GPUs .*and 0\.5 for itself"):
        find_room("makd.workers", TrainWorkers(num_workers=2, use_gpu=True), None)


def test_a_cluster_may_grow(machine, caplog):
    machine(cores(1), own=False)
    found = find_room("makd.workers", TrainWorkers(num_cpus=4, use_gpu=True), None)
    assert found == room.Room(1, TrainWorkers(num_cpus=4, use_gpu=True))
    assert "waiting for the cluster to grow" in caplog.text


def test_trials_that_wait_never_take_the_cores_of_all_workers(machine):
    one, pair = TrainWorkers(num_cpus=1), TrainWorkers(num_workers=2, num_cpus=1)
    machine(cores(4), own=True)
    assert find_room("near.workers", one, 9).trials == 4
    assert find_room("near.workers", pair, 9).trials == 1
    machine(cores(4), own=False)
    assert most_waiting([cores(4)], pair) == 4  # 4 actors of half a core leave two for the workers of one
    assert find_room("near.workers", pair, 9).trials == 4
    assert find_room("near.workers", pair, 3).trials == 3
    assert find_room("near.workers", one, 9).trials == 9  # one that waits takes nothing
