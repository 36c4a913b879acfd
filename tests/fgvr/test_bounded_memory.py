"""What a process holds does not grow with the pool: bytes a row, as a slope between two sizes.

NumPy's and Python's memory is counted by tracemalloc, Arrow's by a memory pool of its own; mapped files by neither.
"""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fgvr import schemas, tables
from fgvr.clip.vectors import read_vectors
from fgvr.evaluation.images import choose_images, names_of
from fgvr.sources.sampling import split_ids
from fgvr.tables import Table
from fgvr.training.assemble import HeldOut, TrainingSet, answers_of, assemble, class_rows, true_classes
from fgvr.training.examples import Examples
from fgvr.training.targets import true_targets

SMALL, LARGE = 20_000, 200_000
PART, QUESTIONS, DIM, SOME = 4096, 50, 64, 500
Work = Callable[[Path], object]
POOLS: list[pa.MemoryPool] = []
"""Kept: what was allocated in one may live on, and must be freed there."""


def make(folder: Path, rows: int) -> Path:
    """Samples in three splits, answers to 50 questions about 500 of them, and vectors of 64 numbers."""
    classes = np.arange(rows) % 97
    names = np.array([f"Species {number}" for number in range(97)], dtype=object)
    splits = np.array(["train", "spare", "test"], dtype=object)
    samples = pa.table(
        {
            "image_id": np.arange(rows),
            "uri": [f"s3://bucket/a/rather/long/folder/{n:09d}.jpg" for n in range(rows)],
            "split": splits[np.arange(rows) % 3],
            "class_id": pa.array(classes, pa.int32()),
            "class_name": names[classes],
        }
    )
    halfs = np.random.default_rng(0).standard_normal((rows, DIM)).astype("<f2")
    cells = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * DIM), rows, [None, pa.py_buffer(halfs.tobytes())])
    vectors = pa.table({"image_id": np.arange(rows), "vector": cells})
    asked = np.arange(SOME) * 3
    p_yes = pa.array(list(np.full((SOME, QUESTIONS), 0.5, np.float32)))
    aspects = pa.table({"image_id": asked, "p_yes": p_yes, "error": pa.nulls(SOME, schemas.ERROR.type)})
    for name, table in (("samples", samples), ("embeddings", vectors), ("aspects", aspects)):
        for number, start in enumerate(range(0, table.num_rows, PART)):
            tables.write_part(str(folder / name), number, table.slice(start, PART))
        parts = -(-table.num_rows // PART)
        Table(str(folder / name), name, "f", table.num_rows, 0, parts, PART, 0.0).commit()
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bounded")
    return make(folder / "small", SMALL), make(folder / "large", LARGE)


def peak(work: Work, folder: Path) -> int:
    """Bytes that it holds at most."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        work(folder)
        return tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def bytes_a_row(work: Work, places: tuple[Path, Path]) -> float:
    work(places[0])  # imports and caches
    # What threads of other tests allocate meanwhile counts, too: the least of three peaks is the work's own.
    small, large = (min(peak(work, place) for _ in range(3)) for place in places)
    return (large - small) / (LARGE - SMALL)


def opened(folder: Path, name: str) -> Table:
    return Table.load(str(folder / name))


def training_set(folder: Path) -> TrainingSet:
    samples = opened(folder, "samples")
    rows = class_rows(samples, "train")
    answers = answers_of(rows["image_id"].to_numpy(), opened(folder, "aspects"), QUESTIONS)
    return assemble(rows, true_targets(true_classes(rows)), answers, HeldOut(0.1, 0), "v1", samples=samples)


def assembled(folder: Path) -> None:
    found = training_set(folder)
    found.examples.write(str(folder / "examples"))
    found.table({})


def opened_by_a_worker(folder: Path) -> None:
    examples = Examples.read(str(folder / "examples"))
    positions = np.arange(0, len(examples), 100)
    assert examples.p_yes[positions].shape == (len(positions), QUESTIONS)
    assert len(examples.uris.read(positions)) == len(examples.classes[positions])


def evaluated(folder: Path) -> None:
    columns = ["image_id", "split", "class_name"]
    samples = opened(folder, "samples")
    chosen = choose_images(samples.batches(columns), np.arange(9), split="test", max_images=300, seed=0)
    found = samples.find(chosen.ids, ["class_name"]).rename_columns(["image_id", "label"])
    assert len(names_of(found, chosen.ids)) == 300


@pytest.mark.parametrize(
    ("work", "bound"),
    [
        (assembled, 75.0),  # a third of the rows are learned from: 225 for each of these; 820 of all when all was held
        (lambda folder: split_ids(opened(folder, "samples"), ["train"]), 9.5),
        (lambda folder: split_ids(opened(folder, "samples"), None), 8.5),
        (evaluated, 9.5),
        (lambda folder: read_vectors(opened(folder, "embeddings"), np.arange(5000, 5500)), 1.0),
        (
            lambda folder: read_vectors(opened(folder, "embeddings"), np.arange(500) * 30),
            15.0,
        ),  # parts that are read at once
        (lambda folder: opened(folder, "samples").take(np.arange(500) * 30, ["uri"]), 15.0),
    ],
    ids=["makd", "split", "all", "evaluate", "near vectors", "scattered vectors", "take"],
)
def test_bytes_a_row_are_few(places: tuple[Path, Path], work: Work, bound: float) -> None:
    assert bytes_a_row(work, places) < bound


def test_a_worker_holds_nothing_of_its_examples_but_what_it_reads(places: tuple[Path, Path]) -> None:
    for folder in places:
        training_set(folder).examples.write(str(folder / "examples"))
    assert bytes_a_row(opened_by_a_worker, places) < 1.5


def test_what_is_assembled_is_what_the_tables_say(places: tuple[Path, Path]) -> None:
    found = training_set(places[0])
    ids = np.arange(0, SMALL, 3)
    assert found.examples.image_ids.tolist() == ids.tolist()
    assert found.examples.uris == [f"s3://bucket/a/rather/long/folder/{n:09d}.jpg" for n in ids]
    assert [found.targets.labels[c] for c in found.examples.classes] == [f"Species {n % 97}" for n in ids]
    assert found.examples.answers.answered.tolist() == [True] * SOME + [False] * (len(ids) - SOME)
    per_class = np.bincount(ids % 97)
    held = np.bincount(found.examples.image_ids[found.examples.held_out] % 97)
    assert (abs(held - 0.1 * per_class) <= 1).all()
