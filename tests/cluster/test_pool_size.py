"""Pools of workers that grow while parts are waiting, and shrink when none are."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.parts import PartJob, run_parts
from fgvr import tables
from fgvr.config.base import Workers
from fgvr.tables import Table
from tests.cluster.workers import SCHEMA, CrewWorker, alive

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session_of_two")]

MOST, PARTS = 4, 24


def job(place: Path, workers: Workers, long: int | None = None) -> PartJob:
    rows = pa.table({"image_id": range(PARTS), "uri": ["x"] * PARTS})
    tables.write_part(str(place / "samples"), 0, rows)
    samples = Table(str(place / "samples"), "samples", "f", PARTS, 0, 1, PARTS, 0.0)
    (place / "diary").mkdir()
    arguments = {"diary": str(place / "diary"), "crew": workers.max_workers, "long": long}
    return PartJob("patient", str(place / "out"), CrewWorker, arguments, SCHEMA, samples, workers)


class Watch:
    """How many of the workers that ever began are alive, ten times a second."""

    def __init__(self, pids: Path) -> None:
        self.pids, self.alive, self._stop = pids, list[int](), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            self.alive.append(alive(self.pids))


def test_a_pool_grows_to_its_most_and_shrinks_before_the_last_part_is_done(tmp_path: Path) -> None:
    workers = Workers(min_workers=1, max_workers=MOST, num_cpus=0.25, rows_per_part=1)
    with Watch(tmp_path / "diary" / "pids") as watch:
        summary = run_parts(job(tmp_path, workers, long=PARTS - 1), np.arange(PARTS))
    assert summary.rows == PARTS
    assert max(watch.alive) == MOST
    # Workers without a part have given their place back while the last one was in work.
    (left,) = (tmp_path / "diary").glob("left-*")
    assert int(left.name.removeprefix("left-")) < MOST


def test_a_pool_of_a_fixed_size_has_that_size(tmp_path: Path) -> None:
    workers = Workers(min_workers=2, max_workers=2, num_cpus=0.25, rows_per_part=6)
    with Watch(tmp_path / "diary" / "pids") as watch:
        run_parts(job(tmp_path, workers), np.arange(PARTS))
    assert max(watch.alive) == 2
    assert len(list((tmp_path / "diary" / "pids").iterdir())) == 2
