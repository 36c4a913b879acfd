"""Which rows a part holds, with one actor in this process in place of Ray's pool."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.part_actor import ids_of_part
from cluster.parts import PartJob, run_parts
from cluster.stage_files import IDS as IDS_FILE
from cluster.stage_progress import StageProgress, told
from fgvr import tables
from fgvr.config.base import Workers
from fgvr.schemas import ERROR, IMAGE_ID, Failure, Reason
from fgvr.tables import Table
from tests.without_ray import parts_without_ray

SCHEMA = pa.schema([IMAGE_ID, ("uri", pa.string()), ERROR])
IDS = np.array([1, 2, 3, 5, 8, 13, 14, 15, 16, 19])


class Echo:
    """Gives back what it is asked for."""

    def process(self, rows: pa.Table) -> pa.Table:
        return rows.append_column(ERROR, pa.nulls(rows.num_rows, ERROR.type)).cast(SCHEMA)


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)


@pytest.fixture
def job(tmp_path: Path) -> PartJob:
    tables.write_part(str(tmp_path / "samples"), 0, pa.table({"image_id": range(20), "uri": map(str, range(20))}))
    samples = Table(str(tmp_path / "samples"), "samples", "f", 20, 0, 1, 20, 0.0)
    return PartJob("echo", str(tmp_path / "out"), Echo, {}, SCHEMA, samples, Workers(rows_per_part=4))


def test_parts_hold_the_ids_in_their_order(job: PartJob) -> None:
    assert run_parts(job, IDS).rows == 10
    found = [tables.read_part(job.folder, number)["image_id"].to_pylist() for number in range(3)]
    assert found == [[1, 2, 3, 5], [8, 13, 14, 15], [16, 19]]
    assert not (Path(job.folder) / IDS_FILE).exists()


def test_the_file_of_ids_stays_until_the_stage_is_done(job: PartJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Echo, rows: pa.Table) -> pa.Table:
        assert ids_of_part(job, 0).tolist() == [1, 2, 3, 5]
        assert ids_of_part(job, 2).tolist() == [16, 19]
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Echo, "process", broken)
        with pytest.raises(OSError, match="full"):
            run_parts(job, IDS)
    assert (Path(job.folder) / IDS_FILE).exists()
    # Other ids under the same folder cannot come from an earlier session: the file is written anew.
    assert run_parts(job, IDS[:5]).rows == 5
    assert tables.read_part(job.folder, 1)["image_id"].to_pylist() == [8]


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("fgvr.mllm.label_worker, fgvr.mllm.backends", {"torch", "transformers"}),
        pytest.param("fgvr.models.infer, fgvr.models.student", {"transformers"}, marks=pytest.mark.slow),
        # What the driver of infer reads, too, and pays for with memory as long as the job takes.
        ("fgvr.models.infer, fgvr.precision, fgvr.report.results", {"torch", "timm", "scipy"}),
    ],
)
def test_workers_load_only_what_they_use(modules: str, unwanted: set[str]) -> None:
    unwanted |= {"vllm", "mlflow", "pandas", "ray"}
    code = f"import sys; from cluster.part_actor import limit_threads; import {modules}; limit_threads(1); "
    code += f"print(sorted({unwanted} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_line_on_a_terminal_is_cleared_when_the_stage_stops(job: PartJob, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    done = Echo.process

    def breaks_later(self: Echo, rows: pa.Table) -> pa.Table:
        if rows["image_id"][0].as_py() > 5:
            raise OSError("the disk is full")
        return done(self, rows)

    monkeypatch.setattr(Echo, "process", breaks_later)
    with pytest.raises(OSError, match="full"):
        run_parts(job, IDS)
    assert "echo: 4 of 10 rows" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


class Half(Echo):
    """Every second row fails, until that is mended."""

    mended = False

    def process(self, rows: pa.Table) -> pa.Table:
        ids = rows["image_id"].to_pylist()
        errors = [None if number % 2 or self.mended else Failure(Reason.CORRUPT, "").as_row() for number in ids]
        return rows.append_column(ERROR, pa.array(errors, ERROR.type)).cast(SCHEMA)


def test_of_a_part_whose_failed_rows_are_tried_again_only_these_count_as_computed(
    job: PartJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = replace(job, worker=Half)
    run_parts(half, IDS)  # 2, 8, 14 and 16 fail
    monkeypatch.setattr(Half, "mended", True)
    counted: list[tuple[int, dict[str, int]]] = []
    progress = StageProgress("echo", lambda: 1.0)
    monkeypatch.setattr(progress, "computed", lambda rows, failures, _: counted.append((rows, failures)))
    with told(progress, lambda _: None):
        summary = run_parts(half, IDS, retry_failed=True)
    assert (summary.rows, summary.failed) == (10, 0)
    assert counted == [(1, {}), (2, {}), (1, {})]
    assert progress.numbers()["rows"] == 10
