"""A worker's process: how it starts, what it says when it cannot, and what it keeps from one job to the next."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ray import cloudpickle

from cluster import part_actor
from cluster.part_actor import PartActor, PartJob
from cluster.stage_files import IDS
from fgvr import tables
from fgvr.config.base import Workers
from fgvr.config.run import Limits
from fgvr.errors import UserError
from fgvr.part_worker import Engine, WorkerLost
from fgvr.schemas import ERROR, IMAGE_ID, Failure, Reason
from fgvr.store_waits import TooSlow
from fgvr.tables import Table
from tests.cluster.boards import Board, Death, Dog

SCHEMA = pa.schema([IMAGE_ID, ("word", pa.string()), ERROR])
LOADED: list[str] = []


class Model:
    """Says a word, and how often it was told to forget."""

    def __init__(self) -> None:
        LOADED.append("model")
        self.forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1


class Worker:
    def __init__(self, word: str, backend: Any = None) -> None:
        self.word, self.backend = word, backend

    def process(self, rows: pa.Table) -> pa.Table:
        return rows


def refuse() -> Any:
    raise UserError("mllm.model: there is nothing at /x")


def fails() -> Any:
    try:
        return {}["rope_scaling"]
    except KeyError as error:
        raise RuntimeError("Engine core initialization failed. See root cause above.") from error


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> PartActor:
    monkeypatch.setattr(part_actor, "limit_threads", lambda _: None)
    monkeypatch.setattr(part_actor, "Watchdog", Dog)
    LOADED.clear()
    return PartActor(Board(), Limits(), 1)  # type: ignore[arg-type]


def job(word: str = "a", engine: Engine | None = None) -> bytes:
    samples = Table("samples", "samples", "f", 1, 0, 1, 1, 0.0)
    made = PartJob("label", "out", Worker, {"word": word}, SCHEMA, samples, Workers(), engine=engine)
    return bytes(cloudpickle.dumps(made))


def test_an_engine_is_loaded_once_and_forgets_before_the_next_job(actor: PartActor) -> None:
    engine = Engine("m", Model)
    assert actor.take("label", job("a", engine)) is None
    first = actor.worker
    assert actor.take("aspects", job("b", engine)) is None
    assert (first.word, actor.worker.word) == ("a", "b")
    assert first.backend is actor.worker.backend
    assert (LOADED, actor.worker.backend.forgotten) == (["model"], 1)


@pytest.mark.parametrize("fails", [False, True])
def test_what_an_engine_keeps_is_handed_on_behind_each_part(
    actor: PartActor, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    done: list[str] = []

    def compute(*_: Any, **__: Any) -> dict[str, Any]:
        done.append("part")
        if fails:
            raise UserError("the quota is used up")
        return {"rows": 1}

    monkeypatch.setattr(part_actor, "compute_part", compute)
    actor.take("label", job(engine=Engine("m", Model)))
    actor.model.flush = lambda: done.append("flush")
    assert actor.compute(0, again=False) == ({part_actor.STOPPED: "the quota is used up"} if fails else {"rows": 1})
    assert done == ["part", "flush"]


def test_a_smoke_test_computes_single_rows_until_one_is_good_and_keeps_nothing(
    actor: PartActor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = pa.table({"image_id": range(20), "uri": ["x"] * 20})
    tables.write_part(str(tmp_path / "samples"), 0, rows)
    samples = Table(str(tmp_path / "samples"), "samples", "f", 20, 0, 1, 20, 0.0)
    (tmp_path / "out").mkdir()
    asked: list[int] = []

    class Unreadable:
        """No image with an id below 15 can be read."""

        def process(self, rows: pa.Table) -> pa.Table:
            (image_id,) = rows["image_id"].to_pylist()
            asked.append(image_id)
            if image_id == 19:
                raise WorkerLost("the model is dead")
            failure = Failure(Reason.CORRUPT, "cut off").as_row() if image_id < 15 else None
            return pa.Table.from_pylist([{"image_id": image_id, "word": "a", "error": failure}], schema=SCHEMA)

    np.arange(20, dtype="<i8").tofile(tmp_path / "out" / IDS)
    workers = Workers(rows_per_part=10)
    actor.job = PartJob("label", str(tmp_path / "out"), Unreadable, {}, SCHEMA, samples, workers)
    actor.worker, actor.model = Unreadable(), Model()
    assert actor.smoke_test(1, 2) is None
    assert asked == [12, 13, 14, 15]
    asked.clear()
    assert actor.smoke_test(0, 0) is None  # files alone cannot show that the model is broken
    assert asked == list(range(8))
    assert actor.smoke_test(1, 10) is None  # nothing is left to be tried
    with pytest.raises(Death):
        actor.smoke_test(1, 9)
    assert actor.heartbeats.words == ["label, one row of part 1: the model is dead"]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {IDS}


def test_a_job_without_an_engine_gets_none(actor: PartActor) -> None:
    assert actor.take("infer", job()) is None
    assert (actor.worker.backend, LOADED) == (None, [])


def test_what_a_person_must_mend_is_said_and_the_process_stays(actor: PartActor) -> None:
    assert actor.take("label", job(engine=Engine("m", refuse))) == "mllm.model: there is nothing at /x"
    assert actor.heartbeats.words == []


def slow() -> Any:
    raise TooSlow("bucket/model: the object store was not done with it in 900 s")


def test_a_store_that_is_too_slow_from_here_gives_the_work_to_another_process(
    actor: PartActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Death):
        actor.take("label", job(engine=Engine("m", slow)))
    monkeypatch.setattr(part_actor, "compute_part", lambda *_, **__: slow())
    actor.take("label", job())
    with pytest.raises(Death):
        actor.compute(3, again=False)
    said = "bucket/model: the object store was not done with it in 900 s"
    assert actor.heartbeats.words == [f"label, the start of a worker: {said}", f"label, part 3: {said}"]


def test_whatever_else_is_wrong_ends_the_process_with_the_engines_own_error(actor: PartActor) -> None:
    with pytest.raises(Death):
        actor.take("label", job(engine=Engine("m", fails)))
    (said,) = actor.heartbeats.words
    assert said.startswith("label, the start of a worker: RuntimeError: Engine core initialization failed")
    assert said.endswith("(caused by KeyError: 'rope_scaling')")


def test_a_job_that_cannot_be_unpacked_here_is_a_death_and_no_answer(actor: PartActor, tmp_path: Path) -> None:
    with pytest.raises(Death):
        actor.take("label", job()[:-20])
    assert "the start of a worker" in actor.heartbeats.words[0]
