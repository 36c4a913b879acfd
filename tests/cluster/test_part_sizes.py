"""Which rows lie in which file is decided once, when a table is begun, and not by a later config."""

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pyarrow as pa
import pytest

from cluster.parts import PartJob, run_parts
from cluster.stage import RunContext, StageFolder, StageSummary
from cluster.stage_files import PARTS, RETRYING, rows_per_part
from fgvr import tables
from fgvr.config import build
from fgvr.config.base import Workers
from fgvr.schemas import ERROR, IMAGE_ID, Failure, Reason
from fgvr.tables import Table
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray

SCHEMA = pa.schema([IMAGE_ID, ("square", pa.int64()), ERROR])
IDS = np.arange(11)


class Squares:
    """Row 7 fails while `broken`; after `lives` parts the process is killed."""

    broken = False
    lives = 99

    def process(self, rows: pa.Table) -> pa.Table:
        if type(self).lives == 0:
            raise KeyboardInterrupt
        type(self).lives -= 1
        found = []
        for number in rows["image_id"].to_pylist():
            failed = type(self).broken and number == 7
            error = Failure(Reason.CORRUPT, "cut").as_row() if failed else None
            found.append({"image_id": number, "square": None if failed else number * number, "error": error})
        return pa.Table.from_pylist(found, schema=SCHEMA)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)
    monkeypatch.setattr(Squares, "broken", False)
    monkeypatch.setattr(Squares, "lives", 99)


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., Table]:
    """The same stage, run with parts of a size."""
    tables.write_part(str(tmp_path / "samples"), 0, pa.table({"image_id": IDS, "uri": IDS.astype(str)}))
    samples = Table(str(tmp_path / "samples"), "samples", "f", 11, 0, 1, 11, 0.0)

    def run(size: int, retry: bool = False) -> Table:
        config = build({"run": {"max_error_share": 0.5, "retry_failed": retry}})
        workers = Workers(rows_per_part=size)

        def compute(folder: StageFolder) -> StageSummary:
            job = PartJob("squares", folder.uri, Squares, {}, SCHEMA, samples, workers)
            return folder.run_parts(job, IDS, "squares.workers")

        context = RunContext(config, str(tmp_path / "run"), NoTracking())
        return context.stage("squares", decides={"workers": workers}, inputs=[samples], compute=compute)

    return run


def parts(table: Table) -> list[list[int]]:
    return [tables.read_part(table.uri, number)["image_id"].to_pylist() for number in range(table.parts)]


def test_a_finished_table_is_found_finished_whatever_the_size_is_now(stage: Callable[..., Table]) -> None:
    first = stage(4)
    Squares.lives = 0  # whatever is computed now ends the test
    again = stage(3)
    assert (again.uri, again.rows_per_part) == (first.uri, 4)
    assert parts(again) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert not (Path(first.uri) / PARTS).exists()
    assert again.take(np.array([9, 2]))["square"].to_pylist() == [81, 4]


@pytest.mark.parametrize("later", [1, 3, 5, 100])
def test_an_interrupted_table_goes_on_with_the_size_it_was_begun_with(
    stage: Callable[..., Table], caplog: pytest.LogCaptureFixture, later: int
) -> None:
    caplog.set_level(logging.INFO)
    Squares.lives = 2
    with pytest.raises(KeyboardInterrupt):
        stage(4)
    Squares.lives = 1  # the part that is missing, and none of the others
    table = stage(later)
    assert parts(table) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert (table.rows, table.parts, table.rows_per_part) == (11, 3, 4)
    assert table.read()["square"].to_pylist() == [n * n for n in range(11)]
    assert table.take(np.array([10, 0]))["square"].to_pylist() == [100, 0]
    assert [line for line in caplog.messages if "goes on with 4 rows per file" in line] == [
        f"squares: goes on with 4 rows per file, as it was begun; the config's {later} apply to new tables only"
    ]


def test_failed_rows_are_tried_again_in_the_files_they_lie_in(stage: Callable[..., Table]) -> None:
    Squares.broken = True
    assert stage(4).failed == 1
    Squares.broken, Squares.lives = False, 1  # of the part with row 7 that row alone
    table = stage(3, retry=True)
    assert (table.failed, table.parts, table.rows_per_part, table.revision) == (0, 3, 4, 1)
    assert table.read()["square"].to_pylist() == [n * n for n in range(11)]


def test_of_two_that_begin_a_table_at_once_both_take_the_first_ones_size(tmp_path: Path) -> None:
    sizes = list(range(10, 26))
    for trial in range(5):
        folder, ready = str(tmp_path / str(trial)), Barrier(len(sizes))

        def begin(size: int, folder: str = folder, ready: Barrier = ready) -> int:
            ready.wait()
            return rows_per_part(folder, "t", size)

        with ThreadPoolExecutor(len(sizes)) as pool:
            taken = set(pool.map(begin, sizes))
        assert len(taken) == 1
        assert taken < set(sizes)
        assert [file.name for file in Path(folder).iterdir()] == [PARTS]  # nothing else stays


def test_a_table_that_is_tried_again_has_the_size_of_its_manifest(tmp_path: Path) -> None:
    table = Table(str(tmp_path), "t", "f", 10, 1, 2, 6, 0.0)
    table.commit()
    (tmp_path / "manifest.json").rename(tmp_path / RETRYING)
    assert rows_per_part(str(tmp_path), "t", 100) == 6
    assert json.loads((tmp_path / PARTS).read_text()) == {"rows_per_part": 6}


def test_parts_of_a_folder_below_a_table_are_cut_alike_in_every_session(tmp_path: Path) -> None:
    """The shards of a search call `run_parts` themselves."""
    tables.write_part(str(tmp_path / "samples"), 0, pa.table({"image_id": IDS, "uri": IDS.astype(str)}))
    samples = Table(str(tmp_path / "samples"), "samples", "f", 11, 0, 1, 11, 0.0)
    job = PartJob("found", str(tmp_path / "found"), Squares, {}, SCHEMA, samples, Workers(rows_per_part=5))
    Squares.lives = 1
    with pytest.raises(KeyboardInterrupt):
        run_parts(job, IDS)
    Squares.lives = 99
    assert run_parts(replace(job, workers=Workers(rows_per_part=2)), IDS).rows == 11
    assert [tables.read_part(job.folder, n)["image_id"].to_pylist() for n in range(3)] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [10],
    ]
