"""What a pool does when processes come, work and die, with processes that answer when the test says so."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Thread
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RuntimeEnvSetupError

from cluster.heartbeat import Heartbeats
from cluster.part_actor import STOPPED, StageStopped
from cluster.pool import OPEN, Gate, Part, Pool, WorkersDied, WorkersDoNotStart
from cluster.stall import Stalled
from fgvr.errors import UserError
from tests.cluster.boards import Board


class Process:
    """Answers when the test says so."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls: deque[tuple[str, tuple[Any, ...], Future[Any]]] = deque()
        self.ended = False

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        if self.ended:
            answer.set_exception(ActorDiedError())
        self.calls.append((method, arguments, answer))
        return answer

    def end(self) -> None:
        self.ended = True

    @property
    def asked(self) -> list[str]:
        """What it has been asked for and has not answered."""
        return [" ".join([method, *map(str, arguments)]) for method, arguments, _ in self.calls]

    def answer(self, value: Any = None) -> None:
        """The first call that is unanswered."""
        method, arguments, answer = self.calls.popleft()
        answer.set_result({"part": arguments[0]} if method == "compute" and value is None else value)

    def die(self, why: BaseException | None = None) -> None:
        for _, _, answer in self.calls:
            answer.set_exception(why or ActorDiedError())
        self.calls.clear()
        self.ended = True


class Cluster:
    """The processes of a pool."""

    def __init__(self, minutes: float = 1.0) -> None:
        self.all: list[Process] = []
        self.board = Board()
        self.pool = Pool(self._spawn, self.board, minutes)

    def _spawn(self) -> Process:
        self.all.append(Process(len(self.all)))
        return self.all[-1]

    def spawned(self, number: int) -> Process:
        """The process of that number, once there is one."""
        until(lambda: len(self.all) > number)
        return self.all[number]

    @property
    def living(self) -> list[Process]:
        return [process for process in self.all if not process.ended]

    def run(self, parts: int, *, at_once: int = 1, most: int = 1, gate: Gate = OPEN) -> Iterator[dict[str, Any]]:
        told = [Part(number) for number in range(parts)]
        return self.pool.run(
            "label",
            b"job",
            told,
            at_once=at_once,
            most=most,
            lives=4,
            waits_for=lambda left: f"label: {left} parts left",
            gate=gate,
        )

    def begin(self, parts: int, **sizes: int) -> "Drawn":
        return Drawn(self, self.run(parts, **sizes))


class Drawn:
    """A run, drawn on a thread of its own: answers of the test arrive as they do from Ray."""

    def __init__(self, cluster: Cluster, summaries: Iterator[dict[str, Any]]) -> None:
        self.cluster, self.parts, self.error = cluster, list[int](), None
        self._thread = Thread(target=self._draw, args=(summaries,), daemon=True)
        self._thread.start()

    def _draw(self, summaries: Iterator[dict[str, Any]]) -> None:
        try:
            self.parts.extend(summary["part"] for summary in summaries)
        except BaseException as error:
            self.error = error

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> list[int]:
        """All parts in the order in which they were finished; raises what the run raised."""
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.parts


def until(something: Callable[[], Any]) -> None:
    """The pool runs beside the test: wait until it has done what it must."""
    end = time.monotonic() + 10
    while not something():
        assert time.monotonic() < end
        time.sleep(0.001)


def until_asked(process: Process, *calls: str) -> None:
    """Until these, in this order, are what it has been asked for and has not answered."""
    until(lambda: process.asked == list(calls))


def up(process: Process) -> None:
    """Placed, and its model loaded."""
    until_asked(process, "placed")
    process.answer()
    until(lambda: process.asked[:1] == ["take label b'job'"])
    process.answer()


def test_one_process_computes_all_parts_two_ahead_and_the_last_alone() -> None:
    cluster = Cluster()
    run = cluster.begin(4)
    until(lambda: cluster.all)
    (process,) = cluster.all
    up(process)
    until_asked(process, "compute 0 False", "compute 1 False")
    process.answer()
    until_asked(process, "compute 1 False", "compute 2 False")
    process.answer()
    until_asked(process, "compute 2 False", "compute 3 False")
    process.answer()
    process.answer()
    assert run.end() == [0, 1, 2, 3]
    assert not process.ended  # whoever holds the pool ends it, or gives it another job
    cluster.pool.close()
    assert process.ended


def test_a_pool_asks_for_places_when_a_model_could_be_loaded_loads_when_it_works_and_shrinks_at_the_end() -> None:
    cluster = Cluster()
    run = cluster.begin(7, at_once=1, most=4)
    until(lambda: cluster.all)
    first = cluster.all[0]
    assert len(cluster.all) == 1
    up(first)
    until(lambda: len(cluster.all) == 4)
    assert first.asked == ["compute 0 False", "compute 1 False"]
    second, third, fourth = cluster.all[1:]
    second.answer()
    until(lambda: not second.calls)  # it has its place, and loads nothing before the first one has shown that it works
    first.answer()
    until_asked(first, "compute 1 False", "compute 2 False")
    until_asked(second, "take label b'job'")
    second.answer()
    until_asked(second, "compute 3 False", "compute 4 False")  # four are left, for four processes
    up(third)
    until_asked(third, "compute 5 False")  # two are left: none is held back from a process that is free
    first.answer()
    until_asked(first, "compute 2 False")
    first.answer()
    until_asked(first, "compute 6 False")
    until(lambda: fourth.ended)  # it has no place yet, and there is nothing left for it
    first.answer()
    until(lambda: first.ended)
    for process in (second, second, third):
        process.answer()
    assert sorted(run.end()) == [0, 1, 2, 3, 4, 5, 6]
    assert len(cluster.all) == 4


def test_one_that_has_computed_for_a_while_works_though_its_part_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.pool.TRUST_SECONDS", 0.0)
    cluster = Cluster(minutes=0.005)
    run = cluster.begin(9, at_once=1, most=3)
    until(lambda: cluster.all)
    up(cluster.all[0])
    until(lambda: len(cluster.all) == 3)
    cluster.all[1].answer()
    until_asked(cluster.all[1], "take label b'job'")
    assert len(cluster.all[0].calls) == 2
    cluster.board.words = ["no test goes on for longer than this"]
    with pytest.raises(Stalled):
        run.end()


def test_parts_of_a_process_that_dies_go_to_others_first_and_it_is_replaced() -> None:
    cluster = Cluster()
    run = cluster.begin(5, at_once=2, most=2)
    until(lambda: len(cluster.all) == 2)
    one, two = cluster.all
    up(one)
    until_asked(one, "compute 0 False", "compute 1 False")
    up(two)
    until_asked(two, "compute 2 False", "compute 3 False")
    one.die()
    until(lambda: len(cluster.all) == 3)
    three = cluster.all[2]
    two.answer()
    until_asked(two, "compute 3 False", "compute 0 False")
    up(three)
    until_asked(three, "compute 1 False", "compute 4 False")
    for process in (two, two, three, three):
        process.answer()
    assert sorted(run.end()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("at_once", "deaths"), [(1, 3), (2, 4), (4, 6)])
def test_after_some_deaths_in_a_row_no_other_is_tried(at_once: int, deaths: int) -> None:
    cluster = Cluster()
    run = cluster.begin(9, at_once=at_once, most=9)
    until(lambda: cluster.all)
    cluster.board.words = ["RuntimeError: CUDA error: device lost"]
    for number in range(deaths):  # one after the other, as with a pool of one
        until_asked(cluster.spawned(number), "placed")
        cluster.all[number].answer()
        until_asked(cluster.all[number], "take label b'job'")
        cluster.all[number].die()
    with pytest.raises(WorkersDoNotStart, match=f"label: {deaths} workers died .* the last one said: Run"):
        run.end()
    assert all("take" not in " ".join(process.asked) for process in cluster.living)


def test_nodes_that_are_taken_away_say_nothing_of_models_and_parts() -> None:
    cluster = Cluster()
    run = cluster.begin(1)
    for number in range(5):
        until_asked(cluster.spawned(number), "placed")
        cluster.all[number].answer()
        until_asked(cluster.all[number], "take label b'job'")
        cluster.all[number].die(RayActorError(preempted=True))
    for number in range(5, 10):
        up(cluster.spawned(number))
        until_asked(cluster.all[number], "compute 0 False")
        cluster.all[number].die(RayActorError(preempted=True))
    until(lambda: len(cluster.all) == 11)
    up(cluster.all[10])
    until(lambda: cluster.all[10].asked)
    cluster.all[10].answer()
    assert run.end() == [0]


def test_of_processes_that_cannot_even_begin_ray_says_why() -> None:
    cluster = Cluster()
    run = cluster.begin(1)
    for number in range(3):
        until_asked(cluster.spawned(number), "placed")
        cluster.all[number].die(RuntimeEnvSetupError("pip: there is no network\n"))
    with pytest.raises(WorkersDoNotStart, match=r"one \(RuntimeEnvSetupError\): pip: there is no network\. Rows"):
        run.end()


def test_those_under_way_when_the_last_one_dies_may_still_come_up() -> None:
    cluster = Cluster()
    run = cluster.begin(9, at_once=2, most=9)
    until(lambda: len(cluster.all) == 2)
    slow, first = cluster.all
    for process in cluster.all:
        process.answer()
    dying = first
    for number in range(4):
        until_asked(dying, "take label b'job'")
        dying.die()
        until(lambda number=number: len(cluster.all) == 3 + number)
        dying = cluster.all[-1]
        dying.answer()
    until(lambda: not dying.calls)
    assert not dying.ended  # placed behind four deaths: it keeps its place, and loads nothing
    until_asked(slow, "take label b'job'")
    slow.answer()
    until_asked(dying, "take label b'job'")  # models can be loaded: two begin, as at first
    until(lambda: len(cluster.all) == 12)  # and places for the pool are asked for: four are dead, one is the eighth
    for _ in range(9):
        until(lambda: slow.asked)
        slow.answer()
    assert len(run.end()) == 9


def test_a_sick_machine_ends_nobodys_job_and_its_last_process_keeps_the_place() -> None:
    cluster = Cluster()
    run = cluster.begin(3, at_once=2, most=2)
    until(lambda: len(cluster.all) == 2)
    well, sick = cluster.all
    up(well)
    for number in range(4):
        until_asked(sick, "placed")
        sick.answer()
        until_asked(sick, "take label b'job'")
        sick.die()
        until(lambda number=number: len(cluster.all) == 3 + number)
        sick = cluster.all[-1]
    sick.answer()  # the fifth has its place
    for _ in range(3):
        until(lambda: well.asked)
        well.answer()
    assert run.end() == [0, 1, 2]
    assert len(cluster.all) == 6
    assert not sick.calls  # it was never told to load anything


def one_that_works_beside_a_sick_machine(cluster: Cluster, parts: int) -> tuple[Drawn, Process, Process]:
    """The run, what works, and what is held after three deaths."""
    cluster.pool.keeps_idle = True
    run = cluster.begin(parts, at_once=1, most=2)
    until(lambda: cluster.all)
    up(cluster.all[0])
    until(lambda: len(cluster.all[0].asked) == 2)
    cluster.all[0].answer()  # the model works
    for number in range(1, 4):
        until_asked(cluster.spawned(number), "placed")
        cluster.all[number].answer()
        until_asked(cluster.all[number], "take label b'job'")
        cluster.all[number].die()
    until(lambda: len(cluster.all) == 5)
    cluster.all[4].answer()
    until(lambda: not cluster.all[4].calls)
    return run, cluster.all[0], cluster.all[4]


def test_when_the_last_that_computed_dies_over_a_part_those_that_start_are_tried_anew() -> None:
    cluster = Cluster()
    run, well, held = one_that_works_beside_a_sick_machine(cluster, parts=4)
    well.die()
    until_asked(held, "take label b'job'")
    until(lambda: len(cluster.all) == 6)  # in its place
    held.die()
    up(cluster.all[5])
    for _ in range(3):
        until(lambda: cluster.all[5].asked)
        cluster.all[5].answer()
    assert run.end() == [0, 1, 2, 3]


def test_when_the_last_that_was_up_dies_between_two_jobs_the_next_one_tries_anew() -> None:
    cluster = Cluster()
    run, well, held = one_that_works_beside_a_sick_machine(cluster, parts=4)
    for _ in range(3):
        until(lambda: well.asked)
        well.answer()
    assert run.end() == [0, 1, 2, 3]
    assert held.ended
    well.die()
    run = cluster.begin(1)
    until(lambda: len(cluster.all) == 6)
    up(cluster.all[5])
    until(lambda: cluster.all[5].asked)
    cluster.all[5].answer()
    assert run.end() == [0]


def test_what_a_person_must_mend_ends_the_stage_at_once() -> None:
    cluster = Cluster()
    run = cluster.begin(3)
    until(lambda: cluster.all)
    cluster.all[0].answer()
    until_asked(cluster.all[0], "take label b'job'")
    cluster.all[0].answer("mllm.model: there is nothing at /x")
    with pytest.raises(StageStopped, match=r"^mllm\.model: there is nothing at /x$"):
        run.end()
    run = Cluster().begin(3)
    until(lambda: run.cluster.all)
    up(run.cluster.all[0])
    until(lambda: run.cluster.all[0].asked)
    run.cluster.all[0].answer({STOPPED: "set the key"})
    with pytest.raises(StageStopped, match=r"^set the key$"):
        run.end()


def test_an_error_of_the_code_is_raised_as_it_is() -> None:
    cluster = Cluster()
    run = cluster.begin(1)
    until(lambda: cluster.all)
    up(cluster.all[0])
    until(lambda: cluster.all[0].asked)
    cluster.all[0].calls.popleft()[2].set_exception(ValueError("not one row per id"))
    with pytest.raises(ValueError, match="not one row per id"):
        run.end()


def test_a_pool_for_which_there_is_no_room_says_what_it_waits_for() -> None:
    cluster = Cluster(minutes=0.005)
    run = cluster.begin(3, at_once=2, most=8)
    until(lambda: len(cluster.all) == 2)
    cluster.board.words = ["the node was taken away"]
    with pytest.raises(
        Stalled, match=r"label: 3 parts left: no heartbeat of any worker .* worker: the node was taken away"
    ):
        run.end()
    assert [process.asked for process in cluster.all] == [["placed"], ["placed"]]


def test_a_part_over_which_one_process_after_the_other_dies_ends_the_job() -> None:
    cluster = Cluster()
    run = cluster.begin(3)
    for number in range(4):
        up(cluster.spawned(number))
        if number == 0:
            until(lambda: cluster.all[0].asked)
            cluster.all[0].answer()  # so it is not the model
        until_asked(cluster.all[number], "compute 1 False", "compute 2 False")
        cluster.board.words = ["out of memory"]
        cluster.all[number].die()
    with pytest.raises(WorkersDied, match=r"label: 4 workers died over the same work; .* said: out of memory$"):
        run.end()


@pytest.mark.parametrize(("at_once", "most", "loads"), [(1, 1, 3), (1, 8, 3), (2, 9, 4), (8, 8, 10)])
@pytest.mark.parametrize("parts", [1, 100])
def test_a_model_that_loads_and_breaks_at_its_first_work_is_loaded_three_times_in_all(
    at_once: int, most: int, loads: int, parts: int
) -> None:
    cluster = Cluster()
    at_once, most = min(at_once, parts), min(most, parts)
    run = cluster.begin(parts, at_once=at_once, most=most)
    cluster.board.words = ["RuntimeError: no kernel image is available for execution on the device"]
    loaded = 0
    while run.goes_on:
        for method in ("placed", "take", "compute", "smoke_test"):  # all at the same time
            time.sleep(0.01)
            for process in [each for each in cluster.living if each.calls and each.calls[0][0] == method]:
                loaded += method == "take"
                process.answer() if method in {"placed", "take"} else process.die()
    said = "died at their first work; the last one said: RuntimeError: no kernel image .* Rows that are done are kept"
    with pytest.raises(WorkersDied, match=said):
        run.end()
    assert loaded == (loads if parts > 1 else 3)


def test_one_process_alone_is_tested_with_a_row_of_another_part_and_then_everybody_works_again() -> None:
    cluster = Cluster()
    run = cluster.begin(9, at_once=3, most=4)
    until(lambda: len(cluster.all) == 3)
    one, two, three = cluster.all
    up(one)
    until_asked(one, "compute 0 False", "compute 1 False")
    one.die()
    up(two)
    up(three)
    until_asked(two, "smoke_test 1 0")  # part 0 has killed somebody
    assert not three.asked
    two.die()  # a second row that kills, in another part
    until_asked(three, "smoke_test 2 0")
    three.answer()
    until_asked(three, "compute 0 False", "compute 1 False")  # whose rows may be to blame: the quarantine's
    until(lambda: len(cluster.all) == 6)
    while run.goes_on:
        for process in cluster.all:
            if process.calls and not process.ended:
                process.answer()
        time.sleep(0.001)
    assert sorted(run.end()) == list(range(9))


def test_of_a_single_part_each_smoke_test_begins_at_another_row() -> None:
    cluster = Cluster()
    run = cluster.begin(1)
    for number, asked in enumerate(["compute 0 False", "smoke_test 0 1", "smoke_test 0 2"]):
        up(cluster.spawned(number))
        until_asked(cluster.all[number], asked)
        if number < 2:
            cluster.all[number].die()
    cluster.all[2].answer()
    until_asked(cluster.all[2], "compute 0 False")
    cluster.all[2].answer()
    assert run.end() == [0]


def test_while_one_computes_deaths_of_others_at_their_first_work_end_nothing() -> None:
    cluster = Cluster()
    run = cluster.begin(3, at_once=2, most=2)
    until(lambda: len(cluster.all) == 2)
    well, sick = cluster.all
    up(well)
    until_asked(well, "compute 0 False", "compute 1 False")
    up(sick)
    until_asked(sick, "compute 2 False")
    sick.die()
    for number in range(2, 4):
        up(cluster.spawned(number))
        until_asked(cluster.all[number], f"smoke_test 2 {number - 1}")
        cluster.all[number].die()
    until(lambda: len(cluster.all) == 5)
    cluster.all[4].answer()
    until(lambda: not cluster.all[4].calls)  # it keeps its place; four loads are enough while one computes
    well.answer()  # the model works: its part is done
    until_asked(cluster.all[4], "take label b'job'")
    for _ in range(2):
        until(lambda: well.asked)
        well.answer()
    assert sorted(run.end()) == [0, 1, 2]


def test_a_part_that_is_done_ends_the_doubt_before_the_smoke_test_does() -> None:
    cluster = Cluster()
    cluster.pool.keeps_idle = True
    run = cluster.begin(4, at_once=3, most=3)
    until(lambda: len(cluster.all) == 3)
    one, two, three = cluster.all
    for process in cluster.all:
        up(process)
    until_asked(one, "compute 0 False", "compute 1 False")
    until_asked(two, "compute 2 False")
    until_asked(three, "compute 3 False")
    three.die()
    two.answer()
    until_asked(two, "compute 3 False")
    for process in (one, one, two):
        process.answer()
    assert sorted(run.end()) == [0, 1, 2, 3]


def test_another_job_finds_the_processes_that_are_up_and_the_last_words_of_none() -> None:
    cluster = Cluster()
    cluster.pool.keeps_idle = True
    run = cluster.begin(3, at_once=4, most=4)
    until(lambda: len(cluster.all) == 3)  # no more than there are parts
    one, two, three = cluster.all
    up(one)
    up(two)
    until_asked(one, "compute 0 False", "compute 1 False")
    until_asked(two, "compute 2 False")
    until(lambda: three.ended)  # it has no place, and nothing waits for it
    for process in (two, one, one):
        process.answer()
    assert sorted(run.end()) == [0, 1, 2]
    assert cluster.living == [one, two]
    cluster.board.words = ["of the job before"]
    two.ended = True  # killed while no stage used it: the next call says so
    run = cluster.begin(5, at_once=1, most=2)
    until_asked(one, "take label b'job'")
    one.answer()
    until(lambda: len(cluster.all) == 4)
    until_asked(one, "compute 0 False", "compute 1 False")
    one.answer()
    until_asked(one, "compute 1 False", "compute 2 False")
    up(cluster.all[3])
    until_asked(cluster.all[3], "compute 3 False", "compute 4 False")
    for process in (one, one, cluster.all[3], cluster.all[3]):
        process.answer()
    assert len(run.end()) == 5
    assert cluster.board.words == []
    run = cluster.begin(1, at_once=1, most=1)
    until(lambda: cluster.living == [one])  # a smaller pool gives the surplus back
    until(lambda: one.asked)
    one.answer()
    until(lambda: one.asked)
    one.answer()
    assert run.end() == [0]


def test_processes_that_die_between_two_jobs_are_replaced_however_many_they_are() -> None:
    cluster = Cluster()
    cluster.pool.keeps_idle = True
    run = cluster.begin(6, at_once=5, most=5)
    until(lambda: len(cluster.all) == 5)
    for process in cluster.all:
        up(process)
    until(lambda: sum(len(process.asked) for process in cluster.all) == 6)
    for process in cluster.all:
        for _ in process.asked:
            process.answer()
    assert len(run.end()) == 6
    before = list(cluster.all)
    for process in before:
        process.die()  # their machine was taken away: five deaths, and three that start are one too many
    run = cluster.begin(2, at_once=1, most=5)
    until(lambda: len(cluster.all) == 6)
    up(cluster.all[5])
    for _ in range(2):
        until(lambda: cluster.all[5].asked)
        cluster.all[5].answer()
    assert run.end() == [0, 1]


def test_a_process_that_is_placed_late_asks_for_the_place_of_what_is_idle() -> None:
    cluster = Cluster(minutes=0.002)
    asked: list[int] = []

    def starved() -> None:
        asked.append(1)
        cluster.all[0].answer()

    cluster.pool.starved = starved
    run = cluster.begin(1)
    until(lambda: asked == [1])
    until(lambda: cluster.all[0].asked)
    cluster.all[0].answer()
    until(lambda: cluster.all[0].asked)
    cluster.all[0].answer()
    assert run.end() == [0]


def test_of_many_parts_each_is_asked_for_once_and_few_are_under_way() -> None:
    asked, most = [], 0

    class Quick(Process):
        def call(self, method: str, *arguments: Any) -> Future[Any]:
            answer: Future[Any] = Future()
            answer.set_result({"part": arguments[0]} if method == "compute" else None)
            asked.extend(arguments[:1] if method == "compute" else [])
            return answer

    pool = Pool(lambda: Quick(0), Board(), 1.0)
    parts = (Part(number) for number in range(5_000))
    done = []
    for summary in pool.run("label", b"", parts, at_once=1, most=100, lives=4, waits_for=str):
        done.append(summary["part"])
        most = max(most, len(asked) - len(done))
    assert asked == sorted(done) == list(range(5_000))
    assert 100 < most <= 200  # two at each of a hundred processes


class Bounded(Gate):
    """Lets so many parts begin."""

    def __init__(self, most: int) -> None:
        self.left, self.done_parts, self.deaths = most, list[int](), 0

    def may_begin(self, part: Part, under_way: int) -> bool:
        return self.left > under_way

    def check(self, part: Part) -> None:
        if not self.left:
            raise UserError("nothing is left")

    def done(self, summary: dict[str, Any]) -> None:
        self.left -= 1
        self.done_parts.append(summary["part"])

    def lost(self, heartbeats: Heartbeats) -> None:
        self.deaths += 1


def test_a_gate_holds_parts_back_until_it_ends_the_job_with_none_under_way() -> None:
    cluster, gate = Cluster(), Bounded(3)
    run = Drawn(cluster, cluster.run(6, gate=gate))
    until(lambda: cluster.all)
    (process,) = cluster.all
    up(process)
    until_asked(process, "compute 0 False", "compute 1 False")
    process.answer()
    until_asked(process, "compute 1 False", "compute 2 False")
    process.answer()
    until(lambda: gate.done_parts == [0, 1])
    assert process.asked == ["compute 2 False"]  # the one under way is the last that may be
    process.answer()
    with pytest.raises(UserError, match="nothing is left"):
        run.end()
    assert run.parts == [0, 1, 2]


def test_a_gate_is_told_of_each_death() -> None:
    cluster, gate = Cluster(), Bounded(9)
    run = Drawn(cluster, cluster.run(1, gate=gate))
    until(lambda: cluster.all)
    up(cluster.all[0])
    until(lambda: cluster.all[0].asked)
    cluster.all[0].die()
    until(lambda: len(cluster.all) == 2)
    assert gate.deaths == 1
    up(cluster.all[1])
    until(lambda: cluster.all[1].asked)
    assert cluster.all[1].asked[0].startswith("smoke_test")
    cluster.all[1].answer()
    until_asked(cluster.all[1], "compute 0 False")
    cluster.all[1].answer()
    assert run.end() == [0]
