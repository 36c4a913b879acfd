"""A stage whose process dies at any of its writes: the next run of the same command makes the same table.

Simulated in this process: from one write on none reaches the disk any more, as after a SIGKILL. tests/faults really
kills.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr import storage, tables
from fgvr.config import build
from fgvr.schemas import ERROR, IMAGE_ID, Failure, Reason
from fgvr.tables import Table
from tests.untracked import NoTracking

SCHEMA = pa.schema([IMAGE_ID, ("square", pa.int64()), ERROR])


class Crash(BaseException):
    """Nothing in between may catch it."""


class Power:
    """Counts changes of storage, and fails from the `last` one on.

    Args:
        last: changes that still happen.
    """

    def __init__(self, last: int) -> None:
        self.last, self.changes = last, 0

    def wrap(self, change: Callable) -> Callable:
        def changed(*arguments):
            self.changes += 1
            if self.changes > self.last:
                raise Crash
            return change(*arguments)

        return changed


@contextmanager
def power(last: int) -> Iterator[Power]:
    found = Power(last)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_bytes", "create_bytes", "remove"):
            patch.setattr(storage, name, found.wrap(getattr(storage, name)))
        yield found


def squares(mended: bool) -> Callable[[StageFolder], StageSummary]:
    """Three parts of two rows, those that are missing; row 3 fails until it is mended, and is tried again if asked."""

    def compute(folder: StageFolder) -> StageSummary:
        failed = 0
        for number in range(3):
            rows = tables.read_part(folder.uri, number) if number in tables.finished_parts(folder.uri) else None
            if rows is None or (folder.retry_failed and rows["error"].null_count < 2):
                rows = pa.Table.from_pylist([row(n, mended) for n in (2 * number, 2 * number + 1)], schema=SCHEMA)
                tables.write_part(folder.uri, number, rows)
            failed += 2 - rows["error"].null_count
        return StageSummary(6, failed, parts=3, rows_per_part=2, failures={"corrupt": failed} if failed else {})

    return compute


def row(number: int, mended: bool) -> dict[str, object]:
    if number == 3 and not mended:
        return {"image_id": number, "error": Failure(Reason.CORRUPT, "cut").as_row()}
    return {"image_id": number, "square": number * number}


def run(folder: Path, *, mended: bool = False, retry: bool = False) -> Table:
    config = build({"run": {"max_error_share": 0.5, "retry_failed": retry}})
    context = RunContext(config, str(folder), NoTracking())
    return context.stage("squares", decides={}, inputs=[], compute=squares(mended))


def content(table: Table) -> tuple[list[dict[str, object]], int, int, dict[str, int], int]:
    return table.read().to_pylist(), table.rows, table.failed, table.failures, table.revision


def crashes(folder: Path, work: Callable[[Path], Table]) -> Iterator[Path]:
    """A folder for each write of `work`, at which it crashed."""
    last = 0
    while True:
        place = folder / str(last)
        with power(last) as seen:
            try:
                work(place)
            except Crash:
                yield place
            else:
                assert seen.changes == last
                return
        last += 1


def test_a_first_run_dies_at_any_write(tmp_path: Path) -> None:
    whole = content(run(tmp_path / "whole"))
    assert whole[0][4]["square"] == 16
    assert whole[1:] == (6, 1, {"corrupt": 1}, 0)
    places = list(crashes(tmp_path / "dead", run))
    assert len(places) >= 4  # three parts, the manifest
    for place in places:
        assert content(run(place)) == whole
        assert not [file for file in place.rglob("*") if file.name.startswith(".")]


def test_a_retry_of_failed_rows_dies_at_any_write(tmp_path: Path) -> None:
    def both(place: Path) -> Table:
        return run(place, mended=True, retry=True)

    run(tmp_path / "whole")
    whole = content(both(tmp_path / "whole"))
    assert whole[1:] == (6, 0, {}, 1)  # another revision: later stages see it as another input

    def prepared(place: Path) -> Table:
        with pytest.MonkeyPatch.context() as calm:
            calm.setattr(storage, "write_bytes", WRITE)
            calm.setattr(storage, "create_bytes", CREATE)
            calm.setattr(storage, "remove", REMOVE)
            run(place)
        return both(place)

    places = list(crashes(tmp_path / "dead", prepared))
    assert len(places) >= 4  # the kept manifest, the manifest's removal, a part, the new manifest
    for place in places:
        assert content(both(place)) == whole


WRITE, CREATE, REMOVE = storage.write_bytes, storage.create_bytes, storage.remove
