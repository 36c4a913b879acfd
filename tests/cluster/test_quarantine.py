from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.quarantine import MOST, WHOLE, PartGivenUp, Quarantine, failed_row, lift_quarantine
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


def test_a_failed_row_holds_its_id_and_its_error_only() -> None:
    row = failed_row(9, Failure(Reason.CORRUPT, "cut"), SCHEMA).to_pylist()
    assert row == [{"image_id": 9, "double": None, "error": {"reason": "corrupt", "detail": "cut"}}]
