from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.quarantine import MOST, MOST_ROWS, WHOLE, PartGivenUp, Quarantine, failed_row, lift_quarantine
from fgvr.schemas import ERROR, IMAGE_ID, Failure, Reason

SCHEMA = pa.schema([IMAGE_ID, ("double", pa.int64()), ERROR])
ROWS = pa.table({"image_id": [4, 5, 6, 7]})


class Died(BaseException):
    """Stands for a process that is gone: nothing in between may catch it."""


def doubled(*deadly: int, calls: list[list[int]]) -> Callable[[pa.Table], pa.Table]:
    def work(rows: pa.Table) -> pa.Table:
        ids = rows["image_id"].to_pylist()
        calls.append(ids)
        if set(ids) & set(deadly):
            raise Died
        return pa.Table.from_pylist([{"image_id": n, "double": 2 * n, "error": None} for n in ids], schema=SCHEMA)

    return work


def workers_until_done(folder: Path, *deadly: int) -> tuple[pa.Table, list[list[int]]]:
    """What Ray does: another worker, as long as they die."""
    calls: list[list[int]] = []
    while True:
        quarantine = Quarantine(str(folder), 3)
        try:
            done = quarantine.process(ROWS, doubled(*deadly, calls=calls), SCHEMA)
        except Died:
            continue
        quarantine.finished()
        return done, calls


def test_a_healthy_part_is_one_call(tmp_path: Path) -> None:
    done, calls = workers_until_done(tmp_path)
    assert (done["double"].to_pylist(), calls) == ([8, 10, 12, 14], [[4, 5, 6, 7]])
    assert list((tmp_path / "attempts").iterdir()) == []


def test_two_deadly_rows_fail_and_the_others_are_computed(tmp_path: Path) -> None:
    done, calls = workers_until_done(tmp_path, 5, 7)
    assert done["double"].to_pylist() == [8, None, 12, None]
    assert done["error"].to_pylist()[1] == {"reason": "engine_error", "detail": "its worker died while computing it"}
    # Twice as a whole, then row by row: dies at 5; without 5, dies at 7; without both.
    assert calls == [[4, 5, 6, 7]] * WHOLE + [[4], [5], [4], [6], [7], [4], [6]]


def test_a_part_on_which_all_workers_die_is_given_up(tmp_path: Path) -> None:
    calls: list[list[int]] = []
    many = pa.table({"image_id": range(100)})
    work = doubled(*range(100), calls=calls)
    for _ in range(MOST):
        with pytest.raises(Died):
            Quarantine(str(tmp_path), 3).process(many, work, SCHEMA)
    with pytest.raises(PartGivenUp, match=r"part 3 \(image ids 0\.\.99\) has killed 8 workers"):
        Quarantine(str(tmp_path), 3).process(many, work, SCHEMA)
    assert len(calls) == MOST
    lift_quarantine(str(tmp_path))
    assert Quarantine(str(tmp_path), 3).deaths == 0


def rounds(folder: Path, rows: int, *deadly: int) -> tuple[pa.Table, int]:
    """The part when it is done, and the number of workers that died before."""
    many, deaths = pa.table({"image_id": range(rows)}), 0
    while True:
        try:
            return Quarantine(str(folder), 0).process(many, doubled(*deadly, calls=[]), SCHEMA), deaths
        except Died:
            deaths += 1


def test_many_deadly_rows_fail_as_long_as_others_are_computed_in_between(tmp_path: Path) -> None:
    deadly = range(3, 93, 5)  # more than the deaths after which a part without any progress is given up
    done, deaths = rounds(tmp_path, 100, *deadly)
    assert deaths == WHOLE + len(deadly) > MOST
    assert [n for n, error in enumerate(done["error"].to_pylist()) if error] == list(deadly)


def test_neighbouring_deadly_rows_are_no_broken_machine(tmp_path: Path) -> None:
    assert rounds(tmp_path, 20, *range(8, 8 + MOST - 1))[1] == WHOLE + MOST - 1


def test_a_part_of_deadly_rows_is_given_up_and_some_are_named(tmp_path: Path) -> None:
    with pytest.raises(PartGivenUp, match=r"32 of its 200 rows each killed .* \[0, 2, 4, 6, 8\] \(image ids\)"):
        rounds(tmp_path, 200, *range(0, 200, 2))
    assert len(range(0, 200, 2)) > MOST_ROWS


def test_a_failed_row_holds_its_id_and_its_error_only() -> None:
    row = failed_row(9, Failure(Reason.CORRUPT, "cut"), SCHEMA).to_pylist()
    assert row == [{"image_id": 9, "double": None, "error": {"reason": "corrupt", "detail": "cut"}}]
