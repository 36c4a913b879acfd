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
from fgvr.config import build
from fgvr.embeddings import embedding_rows
from fgvr.neighbours.search_worker import SearchWorker
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table
from pipelines import candidates, neighbours
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
    return candidates.run(RunContext(build(values), str(folder), NoTracking()), *inputs)


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
    monkeypatch.setattr(neighbours, "run_parts", run_parts_here)
    monkeypatch.setattr(neighbours, "run_once", lambda function, *arguments, **_: function(*arguments))


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

    monkeypatch.setattr(neighbours, "SearchWorker", Dying)
    with pytest.raises(KeyboardInterrupt):
        candidates_with(tmp_path / "run", inputs, tasks=True)
    monkeypatch.setattr(neighbours, "this_machine", None)  # nothing is measured again
    table = candidates_with(tmp_path / "run", inputs, tasks=True)
    assert processed == [0, 51, 101, 101, 151, 201]  # image 30 has no vector
    check_same(table, candidates_with(tmp_path / "here", inputs))


@pytest.mark.slow
def test_tasks_on_ray(tmp_path, ray_session_of_two):
    inputs = make_tables(tmp_path)
    here = candidates_with(tmp_path / "here", inputs)
    check_same(candidates_with(tmp_path / "three", inputs, tasks=True, memory_gb=4608 / 2**30), here)
