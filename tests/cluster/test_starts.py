import os

import pytest

from cluster.starts import Starts, WorkersDoNotStart
from fgvr.config.run import Limits
from fgvr.errors import UserError
from tests.cluster.boards import Board, Death, Dog


@pytest.fixture(autouse=True)
def _looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.starts.LOOK_SECONDS", 0.01)


def refuse() -> str:
    raise UserError("mllm.model: there is nothing at /x")


def explode() -> str:
    raise RuntimeError("CUDA error: device lost")


def start(board: Board, load, at_once: int = 1):
    return Starts(board, "label", Limits(), at_once).start(load, Dog(board))


def test_a_loaded_worker_forgets_the_deaths_before_it() -> None:
    board = Board()
    with pytest.raises(Death):
        start(board, explode)
    assert len(board.starts()) == 1
    assert start(board, lambda: "worker") == "worker"
    assert board.starts() == []


def test_what_a_person_must_mend_is_not_tried_again() -> None:
    assert str(start(Board(), refuse)) == "mllm.model: there is nothing at /x"


@pytest.mark.parametrize(("at_once", "deaths"), [(1, 3), (4, 6)])
def test_after_some_deaths_in_a_row_no_other_is_tried(at_once: int, deaths: int) -> None:
    board = Board()
    for _ in range(deaths):
        with pytest.raises(Death):
            start(board, explode, at_once)
    end = start(board, lambda: pytest.fail("tried once more"), at_once)
    assert isinstance(end, WorkersDoNotStart)
    assert f"label: {deaths} workers died one after the other" in str(end)
    assert "CUDA error: device lost" in str(end)


def test_while_others_work_it_waits_and_tries_again_when_one_has_started() -> None:
    board = Board()
    board.begun, board.signs_left = ["a", "b", "c"], 1000

    def sleep(_: float) -> None:
        if board.signs_left < 900:
            board.start_succeeded()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.starts.time.sleep", sleep)
        assert start(board, lambda: "worker") == "worker"
    assert board.signs_left < 900


def test_when_the_others_are_gone_it_ends() -> None:
    board = Board()
    board.begun, board.signs_left = ["a", "b", "c"], 20
    assert isinstance(start(board, lambda: pytest.fail("tried once more")), WorkersDoNotStart)
    assert board.signs_left == 0


class Cluster(Board):
    """Workers that sign on as long as they live: names of workers, as signs have them."""

    def __init__(self) -> None:
        super().__init__()
        self.living: set[str] = set()
        self.dead: set[str] = set()
        self.now = 0

    def all_alive(self) -> dict[str, str]:
        self.now += 1
        old = {f"signs/x/alive/{name}": "0.0 label" for name in self.dead}
        return old | {f"signs/x/alive/{name}": f"{self.now} label" for name in self.living}

    def starts(self) -> list[str]:
        return [f"signs/x/starts/{name}" for name in self.begun]


def test_a_pool_that_grows_is_not_held_up_by_starts_that_are_under_way() -> None:
    cluster = Cluster()
    cluster.living = {"node-a-1", "node-b-2", "node-c-3", "node-b-9"}  # three load, one works
    cluster.begun = ["0000000000001.000000-node-a-1", "0000000000002.000000-node-b-2", "0000000000003.000000-node-c-3"]
    assert start(cluster, lambda: "worker") == "worker"


def test_starts_that_died_count_and_those_under_way_beside_them_do_not() -> None:
    cluster = Cluster()
    cluster.begun = [f"000000000000{n}.000000-node-{n}" for n in range(1, 6)]
    cluster.living, cluster.dead = {"node-3", "node-4", "node-5"}, {"node-1", "node-2"}
    assert start(cluster, lambda: "worker") == "worker"
    cluster.begun = [f"000000000000{n}.000000-node-{n}" for n in range(1, 6)]
    cluster.living, cluster.dead = set(), {f"node-{n}" for n in range(1, 6)}  # all of them, together
    end = start(cluster, lambda: pytest.fail("tried once more"))
    assert "label: 5 workers died" in str(end)


def test_a_start_is_known_by_its_worker() -> None:
    board = Board()
    with pytest.raises(Death):
        start(board, explode)
    (name,) = board.begun
    assert name.partition("-")[2] == f"{os.uname().nodename}-{os.getpid()}"  # as Signs.alive names it


def engine_fails() -> str:
    try:
        return str({}["rope_scaling"])
    except KeyError as error:
        raise RuntimeError("Engine core initialization failed. See root cause above.") from error


def test_the_engines_own_error_is_said_and_not_only_what_wraps_it() -> None:
    board = Board()
    for _ in range(3):
        with pytest.raises(Death):
            start(board, engine_fails)
    end = str(start(board, engine_fails))
    assert "label: 3 workers died one after the other while they started, and none came up; the last one said" in end
    assert "RuntimeError: Engine core initialization failed" in end
    assert "(caused by KeyError: 'rope_scaling')" in end
