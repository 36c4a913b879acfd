import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.heartbeat import Heartbeats
from cluster.parts import PartJob, StageStopped, TooManyFailures, run_parts
from cluster.session import SessionError
from fgvr import tables
from fgvr.config.base import Workers
from fgvr.tables import Table
from tests.cluster.workers import SCHEMA, ForgetfulWorker, KeylessWorker, SquareWorker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session_of_two")]

ONE_CORE = Workers(rows_per_part=4, num_cpus=1)


@pytest.fixture
def samples(tmp_path: Path) -> Table:
    """Twenty samples in parts of eight."""
    rows = pa.table({"image_id": range(20), "uri": [f"{n}.jpg" for n in range(20)]})
    uri = str(tmp_path / "samples")
    for number, first in enumerate(range(0, 20, 8)):
        tables.write_part(uri, number, rows.slice(first, 8))
    return Table(uri, "samples", "f", 20, 0, 3, 8, 0.0)


@pytest.fixture
def job(tmp_path: Path, samples: Table) -> PartJob:
    (tmp_path / "diary").mkdir()
    return make_job(tmp_path, samples)


def make_job(place: Path, samples: Table, worker: type = SquareWorker, **arguments: Any) -> PartJob:
    return PartJob(
        name="square",
        folder=str(place / "out"),
        worker=worker,
        arguments={"diary": str(place / "diary"), **arguments},
        schema=SCHEMA,
        samples=samples,
        workers=ONE_CORE,
    )


def processed(place: Path) -> list[str]:
    return sorted((place / "diary" / "processed").read_text().split())


def rows_of(job: PartJob) -> pa.Table:
    numbers = sorted(tables.finished_parts(job.folder))
    return pa.concat_tables([tables.read_part(job.folder, number) for number in numbers])


IDS = np.array([1, 2, 3, 5, 8, 13, 14, 15, 16, 19])  # three parts: 1-5, 8-15, 16-19


def test_every_row_once_in_the_order_of_the_ids(job: PartJob) -> None:
    summary = run_parts(job, IDS)
    assert (summary.rows, summary.failed, summary.parts) == (10, 0, 3)
    assert summary.totals == {"prompt_tokens": 30}
    rows = rows_of(job)
    assert rows["image_id"].to_pylist() == IDS.tolist()
    assert rows["square"].to_pylist() == [1, 4, 9, 25, 64, 169, 196, 225, 256, 361]


def test_finished_parts_are_left_alone_and_only_the_missing_one_is_computed(job: PartJob, tmp_path: Path) -> None:
    run_parts(job, IDS)
    (tmp_path / "diary" / "processed").unlink()
    lost = Path(job.folder) / tables.part_name(1)
    before = {file.name: file.stat().st_mtime_ns for file in Path(job.folder).glob("*.parquet") if file != lost}
    lost.unlink()
    summary = run_parts(job, IDS)
    assert processed(tmp_path) == ["8-15:4"]
    assert (summary.rows, summary.totals["prompt_tokens"]) == (10, 30)  # those of the earlier session included
    assert summary.remarks == {"squares of ids"}
    assert {name: (Path(job.folder) / name).stat().st_mtime_ns for name in before} == before
    assert run_parts(job, IDS).remarks == {"squares of ids"}  # kept with the parts
    assert processed(tmp_path) == ["8-15:4"]


def test_a_dead_worker_is_replaced_and_its_part_done_exactly_once(samples: Table, tmp_path: Path) -> None:
    (tmp_path / "diary").mkdir()
    job = make_job(tmp_path, samples, dies_at=13)
    summary = run_parts(job, IDS)
    assert (tmp_path / "diary" / "died").exists()
    assert summary.rows == 10
    assert rows_of(job)["image_id"].to_pylist() == IDS.tolist()


def test_a_row_that_kills_every_worker_becomes_a_failed_row(samples: Table, tmp_path: Path) -> None:
    (tmp_path / "diary").mkdir()
    job = make_job(tmp_path, samples, kills_at=13)
    summary = run_parts(job, IDS)
    assert (summary.rows, summary.failed, summary.failures) == (10, 1, {"engine_error": 1})
    rows = rows_of(job).to_pylist()
    assert [row["square"] for row in rows] == [1, 4, 9, 25, 64, None, 196, 225, 256, 361]
    assert rows[5]["error"] == {"reason": "engine_error", "detail": "its worker died while computing it"}
    assert not list((tmp_path / "out" / "attempts").iterdir())


def test_too_many_failures_stop_the_stage_and_say_what_to_do(samples: Table, tmp_path: Path) -> None:
    (tmp_path / "diary").mkdir()
    job = make_job(tmp_path, samples, fails=4)
    with pytest.raises(TooManyFailures, match=re.escape("square: 3 of ")) as caught:
        run_parts(job, IDS, max_error_share=0.2)
    # Part 8, 13, 14, 15 may be first, and row 8 its first one that fails.
    assert re.search(r"corrupt \(3\), e\.g\. image \d+ \(\d+\.jpg\): ", str(caught.value))
    assert f"table: {job.folder} (column error)" in str(caught.value)
    assert "--run.retry_failed" in str(caught.value)


def test_failed_rows_are_tried_again_alone(samples: Table, tmp_path: Path) -> None:
    (tmp_path / "diary").mkdir()
    mended = tmp_path / "mended"
    job = make_job(tmp_path, samples, fails=4, mended=str(mended))
    first = run_parts(job, IDS)
    assert (first.failed, first.failures) == (3, {"corrupt": 3})
    assert first.found.examples["corrupt"].image_id == 1
    assert first.found.examples["corrupt"].uri == "1.jpg"
    mended.touch()
    (tmp_path / "diary" / "processed").unlink()
    kept = run_parts(job, IDS)  # from the footers; the rows are not tried again unless asked
    assert (kept.failed, kept.found) == (3, first.found)
    second = run_parts(job, IDS, retry_failed=True)
    assert processed(tmp_path) == ["1-3:3"]  # of the part 1, 2, 3, 5 those that had failed
    assert (second.rows, second.failed) == (10, 0)
    assert rows_of(job)["square"].to_pylist() == [int(n) ** 2 for n in IDS]


def test_a_worker_that_loses_a_row_is_found_out(samples: Table, tmp_path: Path) -> None:
    (tmp_path / "diary").mkdir()
    job = make_job(tmp_path, samples, ForgetfulWorker)
    with pytest.raises(Exception, match="exactly one row for each image_id"):
        run_parts(job, IDS)
    assert tables.finished_parts(job.folder) == set()


def test_what_a_person_has_to_mend_arrives_as_a_sentence(samples: Table, tmp_path: Path) -> None:
    (tmp_path / "diary").mkdir()
    job = make_job(tmp_path, samples, KeylessWorker)
    with pytest.raises(StageStopped, match=r"^set the key in the environment$"):
        run_parts(job, IDS)
    assert tables.finished_parts(job.folder) == set()


def test_a_worker_larger_than_the_session_is_refused_instead_of_waited_for(job: PartJob) -> None:
    large = PartJob(**{**job.__dict__, "workers": Workers(num_cpus=4)})
    with pytest.raises(SessionError, match=r"label\.workers\.num_cpus = 4: no node has more than 2 CPU cores"):
        run_parts(large, IDS, field="label.workers")


def test_signs_of_many_workers_are_read_back_and_forgotten() -> None:
    heartbeats, other = Heartbeats(), Heartbeats()
    assert (heartbeats.all_words(), heartbeats.all_alive()) == ([], {})
    heartbeats.alive("label, part 3")
    for words in ("CUDA error", "another CUDA error"):
        heartbeats.last_words(words)
    other.last_words("another stage's")
    ((key, sign),) = heartbeats.all_alive().items()
    assert key == f"{heartbeats.place}/alive/{os.uname().nodename}-{os.getpid()}"
    assert sign.endswith("label, part 3")
    assert heartbeats.all_words() == ["CUDA error", "another CUDA error"]
    with heartbeats.kept():
        assert heartbeats.all_alive()
    assert heartbeats.all_alive() == {}
    assert len(other.all_words()) == 1
    with other.kept():
        pass
