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
    Draw,
    EncoderExamples,
    EncoderTrainingError,
    of_network,
    of_vectors,
)

IMAGES, DIM = 40, 6
ALL = Draw(None, 1000, 0)
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
    vectors = drawn()
    vectors[4] = np.nan
    vectors[8, 2] = np.inf
    vectors[10] = 0
    vectors[11] = np.nan  # of the other split
    found = of_vectors(SPLIT, samples, embedded(tmp_path, vectors, failed=(6, 30)), ALL)
    good = [n for n in SPLIT.tolist() if n not in {4, 6, 8, 10, 30}]
    assert found.examples.image_ids.tolist() == good
    assert {n: failure.reason.value for n, failure in found.refused.items()} == {
        6: "no_input",
        30: "no_input",
        4: "bad_vector",
        8: "bad_vector",
        10: "bad_vector",
    }
    found.examples.write(str(tmp_path / "examples"))
    read = EncoderExamples.read(str(tmp_path / "examples"))
    assert np.array_equal(read.vectors, vectors[good].astype(np.float16))
    assert list(read.uris) == [f"/photos/{n}.jpg" for n in good]
    assert np.array_equal(read.image_ids, good)
    assert read.identity == samples.version
    assert read.held_out.sum() == 1  # a tenth of 15
    held = int(read.image_ids[read.held_out][0])
    first = int(np.flatnonzero(~read.held_out)[0])
    rows = found.table({first: Failure(Reason.NOT_FOUND, "no file")})
    assert rows.schema.equals(schemas.ENCODER_TARGETS)
    assert rows["image_id"].to_pylist() == SPLIT.tolist()
    for row in rows.to_pylist():
        reason = row["error"] and row["error"]["reason"]
        image = row["image_id"]
        if image == good[first]:
            assert (reason, row["held_out"]) == ("not_found", None)
        elif image in found.refused:
            assert (reason, row["held_out"]) == (found.refused[image].reason.value, None)
        else:
            assert (reason, row["held_out"]) == (None, image == held)


def test_images_that_embed_was_not_asked_about_are_not_missed(tmp_path: Path, samples: Table) -> None:
    found = of_vectors(SPLIT, samples, embedded(tmp_path, drawn()[20:], first=20), ALL)
    assert found.examples.image_ids.tolist() == list(range(20, 40, 2))
    assert found.refused == {}


def test_no_image_with_a_vector(tmp_path: Path, samples: Table) -> None:
    table = embedded(tmp_path, np.full((IMAGES, DIM), np.nan, np.float32), failed=(0, 2))
    with pytest.raises(EncoderTrainingError, match=r"none of its 20 images has a vector .* \(20 failed there\)"):
        of_vectors(SPLIT, samples, table, ALL)
    few = embedded(tmp_path / "few", drawn()[:2])
    with pytest.raises(EncoderTrainingError, match=r"none of its 18 images .*; see embed\.splits"):
        of_vectors(SPLIT[2:], samples, few, ALL)
    with pytest.raises(EncoderTrainingError, match="no image is in this split"):
        of_network(np.zeros(0, np.int64), samples, ALL)


def test_a_larger_sample_contains_a_smaller_one(tmp_path: Path, samples: Table) -> None:
    table = embedded(tmp_path, drawn(), failed=(2,))
    few, more = (
        set(of_vectors(SPLIT, samples, table, Draw(most, 0, 5)).examples.image_ids.tolist()) for most in (5, 12)
    )
    assert (len(few), len(more)) == (5, 12)
    assert few < more
    network = of_network(SPLIT, samples, Draw(12, 3, 5)).examples
    assert network.vectors is None
    assert network.held_out.sum() == 1
    network.write(str(tmp_path / "network"))
    assert EncoderExamples.read(str(tmp_path / "network")).vectors is None


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        EncoderExamples(np.arange(3), ["a", "b", "c"], np.zeros(3, bool), "v", np.zeros((2, 4), np.float16))
