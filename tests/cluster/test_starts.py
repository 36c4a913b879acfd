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
