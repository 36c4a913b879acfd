"""Workers of a training that are killed, hang, or go away with their node; it goes on from its last checkpoint."""

import hashlib
import subprocess

import pytest

from cluster.local_cluster import local_cluster
from tests.faults.running import Place, kill, kill_node, last_words, wait_for
from tests.faults.sick_workers import Illness

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def check_chain(place: Place) -> None:
    """All epochs, each exactly once on the way to the result."""
    chain = ""
    for epoch in range(1, place.job.epochs + 1):
        chain = hashlib.sha256(f"{chain}:{epoch}".encode()).hexdigest()
    assert place.table("training").to_pylist() == [{"image_id": 0, "epoch": place.job.epochs, "chain": chain}]


def resumed_at(place: Place) -> int:
    return int(place.diary.lines("trainings")[-1].split()[2])


def test_a_worker_is_killed_in_the_middle_of_an_epoch(place: Place, seen) -> None:
    place = place.but(trains=True)

    def meanwhile(driver: subprocess.Popen[str]) -> None:
        wait_for(lambda: len(place.diary.lines("epochs")) >= 2, driver)
        kill(int(place.diary.lines("epochs")[-1].split()[0]))

    place.run(meanwhile)
    check_chain(place)
    assert resumed_at(place) >= 1
    seen(
        "SIGKILL of a Train worker in the middle of an epoch",
        f"goes on after epoch {resumed_at(place)} of 6; same result",
    )


def test_a_worker_hangs_in_the_middle_of_an_epoch(place: Place, seen) -> None:
    place = place.but(trains=True, illness=Illness("row-hangs"))
    place.run()
    check_chain(place)
    assert resumed_at(place) >= 1
    seen(
        "Train worker hangs in the middle of an epoch",
        f"ended by its watchdog, goes on after epoch {resumed_at(place)}; same",
    )


def test_a_worker_that_always_hangs_ends_the_training_with_a_sentence(place: Place, seen) -> None:
    place = place.but(trains=True, illness=Illness("row-hangs", times=1000))
    text = place.run(ends=1)
    end = last_words(text)
    assert "near.workers.max_failures = 1" in end
    assert "the limit is cluster.limits.silent_minutes" in end
    place.but(illness=Illness()).run()
    check_chain(place)
    seen(
        "Train worker hangs at one step, always",
        "stops after max_failures and says where; same command: goes on, same result",
    )


def test_a_node_goes_away_under_an_elastic_training(place: Place, seen) -> None:
    with local_cluster(workers=2, cpus=1) as cluster:
        own = Place(place.folder, place.but(trains=True, train_workers=2).job, cluster, place.tracking)

        def meanwhile(driver: subprocess.Popen[str]) -> None:
            wait_for(lambda: len(own.diary.lines("epochs")) >= 4, driver)
            kill_node(cluster, 2)

        own.run(meanwhile)
        check_chain(own)
        assert resumed_at(own) >= 1
    seen(
        "SIGKILL of a node with one of two elastic Train workers",
        f"the other goes on after epoch {resumed_at(own)}; same",
    )
