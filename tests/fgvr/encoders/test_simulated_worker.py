from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fgvr import schemas
from fgvr.config import ImageLimits, SimulatedVectors
from fgvr.encoders.embed_worker import SimulatedEmbedWorker
from fgvr.simulation import kind_of
from fgvr.tables import vectors


def worker(spread: float = 0.7, dim: int = 512) -> SimulatedEmbedWorker:
    return SimulatedEmbedWorker(vectors=SimulatedVectors(dim=dim, names=5, spread=spread), limits=ImageLimits())


def test_images_of_a_kind_lie_together() -> None:
    ids = [f"{number:032x}" for number in range(100)]
    made = np.stack([worker(spread=0.7).vector(content) for content in ids])
    assert np.linalg.norm(made, axis=1) == pytest.approx(np.ones(100), abs=1e-5)
    kinds = np.array([kind_of(content, 5, 0) for content in ids])
    cosines = made @ made.T
    same = (kinds[:, None] == kinds) & ~np.eye(100, dtype=bool)
    assert cosines[same].mean() == pytest.approx(1 / (1 + 0.7**2), abs=0.03)
    assert cosines[kinds[:, None] != kinds].mean() == pytest.approx(0, abs=0.05)


def test_rows_of_the_embeddings_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    uris = [str(tmp_path / name) for name in ("a.png", "missing.png", "a.png")]
    made = worker(dim=16)
    rows = made.process(pa.table({"image_id": [3, 4, 5], "uri": uris}))
    assert rows.schema.equals(schemas.embeddings(16))
    assert rows["error"].to_pylist()[1]["reason"] == "not_found"
    good = vectors(rows.filter(rows["vector"].is_valid())["vector"])
    assert np.array_equal(good[0], good[1])  # the same pixels, the same vector, in every run
    assert np.array_equal(
        good, vectors(worker(dim=16).process(pa.table({"image_id": [3], "uri": uris[:1]}))["vector"])[[0, 0]]
    )
    assert "NO CLIP IS USED" in caplog.text
