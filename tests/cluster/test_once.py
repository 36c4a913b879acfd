"""Single calls in a worker's process, and an engine that a table and a call share, on a real Ray."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from cluster.lending import lending
from cluster.once import run_once
from cluster.parts import PartJob, StageStopped, run_parts
from cluster.pool import WorkersDied
from fgvr import tables
from fgvr.config.base import Workers
from fgvr.part_worker import Engine
from fgvr.tables import Table
from tests.cluster.workers import SCHEMA, Asking, Model, dies, fails, pid_of, refuses, threads_and

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session_of_two")]

ONE = Workers(rows_per_part=2)


def test_a_call_gives_its_result_or_what_was_the_matter(tmp_path: Path) -> None:
    assert run_once(threads_and, "a", workers=Workers(num_cpus=2)) == ("a", "2")
    with pytest.raises(StageStopped, match=r"^set the key in the environment$"):
        run_once(refuses, workers=ONE)
    with pytest.raises(LookupError, match="no such thing"):
        run_once(fails, workers=ONE)
    with pytest.raises(WorkersDied, match=r"dies: 3 workers died over the same work; Ray said of .* \(ActorDied"):
        run_once(dies, str(tmp_path / "diary"), workers=ONE)
    assert (tmp_path / "diary").read_text() == "died\n" * 3


def squares(place: Path, name: str, engine: Engine, most: int = 1) -> set[int]:
    """Processes that computed a table of four parts."""
    (place / name).mkdir()
    rows = pa.table({"image_id": range(8), "uri": ["x"] * 8})
    tables.write_part(str(place / name / "samples"), 0, rows)
    samples = Table(str(place / name / "samples"), "samples", "f", 8, 0, 1, 8, 0.0)
    workers = ONE.model_copy(update={"max_workers": most, "min_workers": most})
    arguments: dict[str, Any] = {"diary": str(place / name)}
    job = PartJob(name, str(place / name / "out"), Asking, arguments, SCHEMA, samples, workers, engine=engine)
    assert run_parts(job, np.arange(8)).rows == 8
    return {int(pid) for pid in (place / name / "pids").read_text().split()}


def test_tables_and_calls_ask_one_model_until_it_is_given_back_or_dies(tmp_path: Path) -> None:
    engine = Engine("m", Model)
    with lending():
        (pid,) = squares(tmp_path, "labels", engine)
        assert run_once(pid_of, "a", workers=ONE, engine=engine) == (pid, "a")
        assert squares(tmp_path, "aspects", engine) == {pid}
        assert run_once(os.getpid, workers=ONE) != pid  # there is a core beside the idle engine
        # The same process, unless a busy machine freed the other core so late that the engine had to give way.
        dying, _ = run_once(pid_of, "a", workers=ONE, engine=engine)
        psutil.Process(dying).kill()
        (another,) = squares(tmp_path, "scores", engine)
        assert another not in {pid, dying}
        assert run_once(os.getpid, workers=Workers(num_cpus=2)) != another  # which needs its core, too
        assert run_once(pid_of, "b", workers=ONE, engine=engine)[0] not in {pid, another}
        both = squares(tmp_path, "more", engine, most=2)
        assert both
        (last,) = squares(tmp_path, "last", engine)
    gone = [each for each in (pid, another, last, *both) if psutil.pid_exists(each)]
    _, alive = psutil.wait_procs([psutil.Process(each) for each in gone], timeout=20)
    assert not alive
