"""Processes that are killed: the driver, an engine, a node, a job that commits. The same command does the rest."""

import subprocess
import time

import pytest

from cluster.local_cluster import local_cluster
from tests.faults.running import Place, check_hashes, kill, kill_node, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def computing_pid(place: Place) -> int:
    return int(place.diary.lines("parts")[-1].split()[0])


def test_the_driver_is_killed(place: Place, undisturbed, seen) -> None:
    def meanwhile(driver: subprocess.Popen[str]) -> None:
        wait_for(lambda: place.parts() >= 2, driver)
        driver.kill()

    place.run(meanwhile, ends=-9)
    time.sleep(3)  # Ray's workers end themselves
    before = place.parts()
    assert 2 <= before < 8
    begun = len(place.diary.lines("parts"))
    place.run()
    assert place.table().equals(undisturbed)
    assert len(place.diary.lines("parts")) - begun == 8 - before  # only what was missing
    seen("SIGKILL of the driver", f"same command: {8 - before} of 8 parts computed, {before} kept; same table")


def test_an_engine_is_killed_in_the_middle_of_a_part(place: Place, undisturbed, seen) -> None:
    def meanwhile(driver: subprocess.Popen[str]) -> None:
        wait_for(lambda: place.parts() >= 1, driver)
        kill(computing_pid(place))

    place.but(seconds=0.5).run(meanwhile)  # so long that the other one does not do all before a third is there
    assert len(set(place.diary.lines("starts"))) == 3  # two, and one instead of the dead one
    assert place.table().equals(undisturbed)
    seen("SIGKILL of an engine actor in the middle of a part", "replaced, its part computed again; same table")


def test_a_whole_node_is_killed(place: Place, undisturbed, seen) -> None:
    with local_cluster(workers=2, cpus=1) as cluster:
        own = Place(place.folder, place.job, cluster, place.tracking)

        def meanwhile(driver: subprocess.Popen[str]) -> None:
            wait_for(lambda: place.parts() >= 1, driver)
            kill_node(cluster, 2)

        own.run(meanwhile)
    assert place.table().equals(undisturbed)
    seen("SIGKILL of a whole worker node", "the other node computes its parts; same table")


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_job_is_killed_while_it_commits(place: Place, undisturbed, seen, when: str) -> None:
    place.but(dies=when).run(ends=-9)
    begun = len(place.diary.lines("parts"))
    said = place.run()
    assert ("hashes: done before" in said) is (when == "after")
    assert len(place.diary.lines("parts")) == begun == 8
    assert place.table().equals(undisturbed)
    seen(f"SIGKILL {when} the manifest is written", "same command: nothing computed again; same table")


def test_a_row_whose_memory_never_suffices(place: Place, undisturbed, seen) -> None:
    ill = place.but(illness=type(place.job.illness)("row-needs-memory", times=100))
    ill.run()
    rows = place.table()
    check_hashes(rows, 13)
    assert rows.filter([n != 13 for n in range(48)]).equals(undisturbed.filter([n != 13 for n in range(48)]))
    seen("MemoryError at one row, always", "three workers replaced, that row failed with its reason, all others same")
