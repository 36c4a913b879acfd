"""Engines that die or hang while they load, or hang over a row: survived, or said in a sentence; never waited for."""

import re

import pytest

from tests.faults.running import Place, check_hashes, last_words
from tests.faults.sick_workers import Illness

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.mark.parametrize("kind", ["start-dies", "start-raises", "start-hangs"])
def test_a_constructor_fails_once(place: Place, undisturbed, seen, kind: str) -> None:
    place.but(illness=Illness(kind)).run()
    assert len(place.diary.lines("starts")) in {2, 3}  # of two workers and a third; a pool may start with one
    assert place.table().equals(undisturbed)
    seen(f"engine's constructor, once: {kind.removeprefix('start-')}", "replaced; same table")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("start-dies", "workers died one after the other while they started"),
        ("start-raises", "RuntimeError: CUDA error: device lost"),
        ("start-hangs", "the limit is cluster.limits.start_minutes = 0.1"),
    ],
)
def test_a_constructor_fails_always(place: Place, undisturbed, seen, kind: str, said: str) -> None:
    text = place.but(illness=Illness(kind, times=1000)).run(ends=1, limits={"cluster.limits.start_minutes": "0.1"})
    end = last_words(text)
    assert re.search(r"hashes: [45] workers died one after the other", end)  # two may start at the same time
    assert said in end
    place.run()  # the cause was mended
    assert place.table().equals(undisturbed)
    seen(
        f"engine's constructor, always: {kind.removeprefix('start-')}",
        "stops after four or five with the last one's message; mended, the same command: same table",
    )


def test_a_node_on_which_no_engine_starts_does_not_stop_the_others(place: Place, undisturbed, seen) -> None:
    place.but(illness=Illness("start-elsewhere"), seconds=1.0).run()
    assert place.table().equals(undisturbed)
    assert len(place.diary.lines("sick")) == 4  # the last one waits there, and takes no other's place
    seen("engine's constructor, always, on one of two nodes: raises", "the other node computes all parts; same table")


def test_a_model_that_loads_everywhere_and_breaks_at_its_first_work(place: Place, undisturbed, seen) -> None:
    text = place.but(illness=Illness("work-dies", times=1000)).run(ends=1)
    end = last_words(text)
    assert "hashes: 4 workers loaded what they need and died at their first work; the last one said: " in end
    assert "no kernel image is available for execution on the device" in end
    assert len(place.diary.lines("starts")) == 4  # two at the same time, and two
    place.run()  # the cause was mended
    assert place.table().equals(undisturbed)
    seen(
        "engine loads and breaks at its first work, always",
        "stops after four loads (two at once) with the last one's words; mended, the same command: same table",
    )


def test_a_model_that_breaks_at_its_first_work_twice(place: Place, undisturbed, seen) -> None:
    place.but(illness=Illness("work-dies", times=2)).run()
    assert place.table().equals(undisturbed)
    seen("engine loads and breaks at its first work, twice", "replaced; a row shows that it works; same table")


def test_a_worker_hangs_once(place: Place, undisturbed, seen) -> None:
    place.but(illness=Illness("row-hangs")).run()
    assert place.table().equals(undisturbed)
    seen("engine hangs in the middle of a part, once", "ended by its watchdog, part computed again; same table")


def test_a_row_on_which_every_worker_hangs(place: Place, undisturbed, seen) -> None:
    place.but(illness=Illness("row-hangs", times=1000)).run()
    check_hashes(place.table(), 13)
    seen("engine hangs at one row, always", "three workers replaced, that row failed with its reason")


def test_no_node_has_room_for_a_worker(place: Place, undisturbed, seen) -> None:
    text = place.but(cpus=4).run(ends=1, limits={"cluster.limits.place_minutes": "0.3"})
    assert "waiting for the cluster to grow" in text
    end = last_words(text)
    assert "hashes: waiting for 8 parts, computed by workers with 4 CPU cores each" in end
    assert "place_minutes = 0.3" in end
    place.run()
    assert place.table().equals(undisturbed)
    seen("no node has room for a worker", "stops after the limit and says what it waited for; same command: same table")
