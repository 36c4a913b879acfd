"""What a distilled encoder learns from: images with a vector, written to files, and rows about all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fgvr import schemas, tables
from fgvr.clip.vectors import embedding_rows
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table
from fgvr.training.encoder_examples import (
    EncoderExamples,
    EncoderSet,
    EncoderTrainingError,
    encoder_examples,
    with_vectors,
)

IMAGES, DIM = 40, 6
SPLIT = np.arange(0, IMAGES, 2)
"""Images of the split."""


def written(folder: Path, name: str, rows: pa.Table, per_part: int = 16) -> Table:
    parts = -(-rows.num_rows // per_part)
    table = Table(str(folder / name), name, "f", rows.num_rows, 0, parts, per_part, 0.0, extra={"dim": DIM})
    for number in range(parts):
        tables.write_part(table.uri, number, rows.slice(number * per_part, per_part))
    table.commit()
    return table


@pytest.fixture
def samples(tmp_path: Path) -> Table:
    rows = [
        {"image_id": n, "uri": f"/photos/{n}.jpg", "split": "test" if n % 2 else "train", "metadata": "{}"}
        for n in range(IMAGES)
    ]
    return written(tmp_path, "samples", pa.Table.from_pylist(rows, schema=schemas.SAMPLES))


def embedded(folder: Path, vectors: np.ndarray, failed: tuple[int, ...] = (), first: int = 0) -> Table:
    failures = [Failure(Reason.CORRUPT, "x") if n + first in failed else None for n in range(len(vectors))]
    return written(folder, "embeddings", embedding_rows(np.arange(first, first + len(vectors)), vectors, failures))


def drawn() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(IMAGES, DIM)).astype(np.float32)


def test_missing_and_impossible_vectors_are_left_out_and_counted(tmp_path: Path, samples: Table) -> None:
    made = drawn()
    made[4] = np.nan
    made[8, 2] = np.inf
    made[10] = 0
    made[11] = np.nan  # of the other split
    table = embedded(tmp_path, made, failed=(6, 30))
    usable, refused = with_vectors(SPLIT, table)
    good = [n for n in SPLIT.tolist() if n not in {4, 6, 8, 10, 30}]
    assert usable.tolist() == good
    assert {n: failure.reason.value for n, failure in refused.items()} == {
        6: "no_input",
        30: "no_input",
        4: "bad_vector",
        8: "bad_vector",
        10: "bad_vector",
    }
    examples = encoder_examples(usable, np.array([18]), samples, table)
    examples.write(str(tmp_path / "examples"))
    read = EncoderExamples.read(str(tmp_path / "examples"))
    assert np.array_equal(read.vectors, made[good].astype(np.float16))
    assert list(read.uris) == [f"/photos/{n}.jpg" for n in good]
    assert np.array_equal(read.image_ids, good)
    assert read.identity == samples.version
    assert np.array_equal(read.image_ids[read.held_out], [18])
    rows = EncoderSet(examples, refused).table({0: Failure(Reason.NOT_FOUND, "no file")})
    assert rows.schema.equals(schemas.ENCODER_TARGETS)
    assert rows["image_id"].to_pylist() == SPLIT.tolist()
    reasons = {row["image_id"]: row["error"]["reason"] for row in rows.to_pylist() if row["error"]}
    assert reasons == {n: failure.reason.value for n, failure in refused.items()} | {0: "not_found"}
    held = {row["image_id"]: row["held_out"] for row in rows.to_pylist()}
    assert held == {n: None if n in reasons else n == 18 for n in SPLIT.tolist()}


def test_images_that_embed_was_not_asked_about_are_not_missed(tmp_path: Path) -> None:
    usable, refused = with_vectors(SPLIT, embedded(tmp_path, drawn()[20:], first=20))
    assert usable.tolist() == list(range(20, 40, 2))
    assert refused == {}


def test_no_image_with_a_vector(tmp_path: Path) -> None:
    table = embedded(tmp_path, np.full((IMAGES, DIM), np.nan, np.float32), failed=(0, 2))
    with pytest.raises(EncoderTrainingError, match=r"none of its 20 images has a vector .* \(20 failed there\)"):
        with_vectors(SPLIT, table)
    with pytest.raises(EncoderTrainingError, match=r"none of its 18 images .*; see embed\.splits"):
        with_vectors(SPLIT[2:], embedded(tmp_path / "few", drawn()[:2]))


def test_a_network_needs_no_vectors(tmp_path: Path, samples: Table) -> None:
    examples = encoder_examples(SPLIT, SPLIT[:2], samples)
    examples.write(str(tmp_path / "network"))
    read = EncoderExamples.read(str(tmp_path / "network"))
    assert read.vectors is None
    assert read.held_out.tolist() == [True] * 2 + [False] * 18


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        EncoderExamples(np.arange(3), ["a", "b", "c"], np.zeros(3, bool), "v", np.zeros((2, 4), np.float16))
