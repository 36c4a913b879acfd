"""The search for neighbours in tasks: candidates must be those of the search in the driver."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster import stage
from cluster.parts import PartSummary
from cluster.stage import RunContext
from fgvr import schemas, storage, tables
from fgvr.clip.vectors import embedding_rows
from fgvr.config import build
from fgvr.neighbours import Plan, Size
from fgvr.neighbours.discovery import labelled_neighbours
from fgvr.neighbours.exact import Product
from fgvr.neighbours.machine import Machine
from fgvr.neighbours.search_worker import SearchWorker
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table
from pipelines import neighbours
from pipelines.run_tables import Look, NotThere, Run
from tests.untracked import NoTracking

COUNT, DIM = 240, 24


def write_table(folder: Path, name: str, rows: pa.Table, size: int, **extra) -> Table:
    firsts = range(0, rows.num_rows, size)
    table = Table(str(folder / name), name, "f", rows.num_rows, 0, len(firsts), size, 0.0, extra=extra)
    for number, first in enumerate(firsts):
        tables.write_part(table.uri, number, rows.slice(first, size))
    table.commit()
    return table


def make_tables(folder: Path) -> tuple[Table, Table, Table]:
    """Samples, labels and vectors of 240 images in 12 clusters; two are copies, one has no vector, some no label."""
    random = np.random.default_rng(0)
    kind = random.integers(0, 12, COUNT)
    vectors = random.standard_normal((12, DIM))[kind] + 0.4 * random.standard_normal((COUNT, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors[100] = vectors[7]
    samples = [
        {"image_id": row, "uri": f"{row:04d}.jpg", "split": "train", "class_name": f"kind {kind[row]}"}
        for row in range(COUNT)
    ]
    labels = [
        {"image_id": row, "label": f"kind {kind[row]}", "label_id": int(kind[row])}
        | {"candidate_ids": [int(kind[row])], "candidate_weights": [1.0]}
        if row % 9
        else {"image_id": row, "candidate_ids": [], "candidate_weights": []}
        for row in range(COUNT)
    ]
    failures = [Failure(Reason.CORRUPT, "cut off") if row == 30 else None for row in range(COUNT)]
    named = write_table(folder, "labels", pa.Table.from_pylist(labels, schema=schemas.LABELS), 100)
    space = {"labels": [f"kind {number}" for number in range(12)], "counts": [1] * 12}
    storage.write_bytes(named.path("label_space.json"), json.dumps(space).encode())
    embedded = embedding_rows(np.arange(COUNT), vectors, failures)
    return (
        write_table(folder, "samples", pa.Table.from_pylist(samples, schema=schemas.SAMPLES), 64),
        named,
        write_table(folder, "embeddings", embedded, 70, dim=DIM),
    )


def candidates_with(folder: Path, inputs: tuple[Table, Table, Table], **search) -> Table:
    workers = {"num_cpus": 1, "rows_per_part": 50}
    values = {"run": {"folder": str(folder)}, "neighbours": {"workers": workers, **search}}
    given = {table.name: table for table in inputs}
    return Run(RunContext(build(values), str(folder), NoTracking()), given).table("candidates")


def run_parts_here(job, ids, **_):
    """What Ray's actors do with the parts, one after the other in this process."""
    worker, size = job.worker(**job.arguments), job.workers.rows_per_part
    firsts = range(0, len(ids), size)
    for number, first in enumerate(firsts):
        if number not in tables.finished_parts(job.folder):
            rows = worker.process(job.samples.take(ids[first : first + size], list(job.columns)))
            tables.write_part(job.folder, number, rows)
    return PartSummary(rows=len(ids), parts=len(firsts))


@pytest.fixture
def without_ray(monkeypatch):
    monkeypatch.setattr(stage, "run_parts", run_parts_here)
    monkeypatch.setattr("cluster.parts.run_parts", run_parts_here)
    monkeypatch.setattr("cluster.once.run_once", lambda function, *arguments, **_: function(*arguments))


def check_same(one: Table, other: Table) -> None:
    assert one.read().drop("neighbour_scores").equals(other.read().drop("neighbour_scores"))


def test_tasks_and_shards_give_the_candidates_of_the_driver(tmp_path, without_ray):
    inputs = make_tables(tmp_path)
    here = candidates_with(tmp_path / "here", inputs)
    assert not (tmp_path / "here/tables/neighbours").exists()
    check_same(candidates_with(tmp_path / "one", inputs, tasks=True), here)
    # 213 photos with a label, 48 bytes each, where 4,608 fit into memory: three shards.
    three = candidates_with(tmp_path / "three", inputs, tasks=True, memory_gb=4608 / 2**30)
    check_same(three, here)
    search = three.extra["search"]
    assert (search["shards"], search["tasks"], search["recall"], search["method"]) == (3, True, 1.0, "exact")
    assert any("3 shards" in reason for reason in search["reasons"])
    (folder,) = (tmp_path / "three/tables/neighbours").iterdir()
    found = Table.load(str(folder))
    assert (found.rows, found.parts, found.extra["metrics"]["recall"]) == (COUNT - 1, 5, 1.0)
    assert not (folder / "files").exists()


def test_an_inverted_file_in_tasks(tmp_path, without_ray):
    lists = candidates_with(tmp_path / "lists", make_tables(tmp_path), tasks=True, method="ivf", recall=0.9)
    assert lists.extra["search"]["recall"] >= 0.9
    assert lists.extra["search"]["method"] == "ivf"


def test_a_search_that_died_goes_on_with_its_plan_and_its_finished_parts(tmp_path, without_ray, monkeypatch):
    inputs, processed = make_tables(tmp_path), []

    class Dying(SearchWorker):
        def process(self, rows):
            processed.append(rows["image_id"][0].as_py())
            if len(processed) == 3:
                raise KeyboardInterrupt
            return super().process(rows)

    monkeypatch.setattr("fgvr.neighbours.search_worker.SearchWorker", Dying)
    with pytest.raises(KeyboardInterrupt):
        candidates_with(tmp_path / "run", inputs, tasks=True)
    monkeypatch.setattr("fgvr.neighbours.machine.this_machine", None)  # nothing is measured again
    table = candidates_with(tmp_path / "run", inputs, tasks=True)
    assert processed == [0, 51, 101, 101, 151, 201]  # image 30 has no vector
    check_same(table, candidates_with(tmp_path / "here", inputs))


GPU = Machine(Product("cuda", "float16"), rate=400e12, fp32_rate=50e12, memory=80 * 2.0**30)
SLOW_DRIVER = Machine(Product("cpu", "float32"), rate=1e9, fp32_rate=1e9, memory=8 * 2.0**30)
QUICK_DRIVER = Machine(Product("cpu", "float32"), rate=1e12, fp32_rate=1e12, memory=8 * 2.0**30)


def planned(folder: Path, monkeypatch, driver: Machine, **search):
    """The plan for 10,000 images where the workers have GPUs and the driver has none: 1.02e11 operations."""
    monkeypatch.setattr("cluster.once.run_once", lambda *_, **__: GPU)
    monkeypatch.setattr("fgvr.neighbours.machine.this_machine", lambda *_: driver)
    values = {"run": {"folder": str(folder)}, "neighbours": {"workers": {"num_gpus": 1, "num_cpus": 1}, **search}}
    context = RunContext(build(values), str(folder), NoTracking())
    return neighbours.plan_search(Run(context), "neighbours", Size(10_000, 10_000, 512))


def test_what_is_planned_for_a_gpu_is_not_done_in_the_driver(tmp_path, monkeypatch):
    tasks = planned(tmp_path / "slow", monkeypatch, SLOW_DRIVER)
    assert (tasks.tasks, tasks.product.device) == (True, "cuda")
    assert tasks.reasons[-1] == "in tasks on the cluster: this process has no GPU of its own"
    here = planned(tmp_path / "quick", monkeypatch, QUICK_DRIVER)
    assert (here.tasks, here.product.device, here.method) == (False, "cpu", "exact")
    asked = planned(tmp_path / "asked", monkeypatch, SLOW_DRIVER, tasks=False)
    assert (asked.tasks, asked.product.device, asked.method) == (False, "cpu", "ivf")  # 205 s here are too many
    assert planned(tmp_path / "tasks", monkeypatch, QUICK_DRIVER, tasks=True).product.device == "cuda"


def test_a_run_that_goes_on_with_a_plan_of_before_searches_where_it_can(tmp_path, monkeypatch):
    planned(tmp_path, monkeypatch, SLOW_DRIVER)
    place = tmp_path / "neighbours_plan.json"
    known = json.loads(place.read_text())
    known["plan"]["tasks"] = False  # as it was made for every set below seven million
    place.write_text(json.dumps(known))
    assert planned(tmp_path, monkeypatch, QUICK_DRIVER).product.device == "cpu"


def test_looking_for_what_is_there_measures_and_keeps_no_plan(tmp_path, monkeypatch):
    size = Size(10_000, 10_000, 512)
    config = build({"run": {"folder": str(tmp_path)}, "neighbours": {"workers": {"num_gpus": 1, "num_cpus": 1}}})
    with monkeypatch.context() as patch:
        patch.setattr("cluster.once.run_once", lambda *_, **__: pytest.fail("Ray would be started"))
        with pytest.raises(NotThere):
            neighbours.plan_search(Look(config, str(tmp_path)), "neighbours", size)
    assert list(tmp_path.iterdir()) == []
    how = planned(tmp_path, monkeypatch, SLOW_DRIVER)
    assert neighbours.plan_search(Look(config, str(tmp_path)), "neighbours", size) == how


def test_the_driver_searches_on_its_cpu_whatever_the_plan_says():
    random = np.random.default_rng(1)
    vectors = random.standard_normal((50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    everyone = np.ones(50, bool)
    how = Plan("exact", Product("cuda", "float16"), reasons=("as a GPU's",))
    found = labelled_neighbours(vectors, everyone, everyone, 3, how=how)
    assert (found.ids == np.argsort(-vectors @ vectors.T, axis=1)[:, :3]).all()
    assert found.facts["device"] == "cpu"


@pytest.mark.slow
def test_tasks_on_ray(tmp_path, ray_session_of_two):
    inputs = make_tables(tmp_path)
    here = candidates_with(tmp_path / "here", inputs)
    check_same(candidates_with(tmp_path / "three", inputs, tasks=True, memory_gb=4608 / 2**30), here)
