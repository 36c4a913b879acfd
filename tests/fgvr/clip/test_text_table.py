"""Text vectors as a table: the same as CLIP's own, in parts of which none is done twice."""

from pathlib import Path

import numpy as np
import pytest

from fgvr.clip import vectors
from fgvr.clip.model import load_clip
from fgvr.clip.vectors import read_texts, write_texts
from fgvr.config import Clip
from fgvr.tables import Table


def test_parts_are_written_once_and_hold_clips_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "TEXTS_A_PART", 2)
    texts = ["Azure Finch", "Masked Owl", "x", "Grey Heron", "Tern"]
    assert write_texts(Clip(), texts, "a {}.", str(tmp_path)) == 3
    before = (tmp_path / "part-00000000.parquet").stat().st_mtime_ns
    (tmp_path / "part-00000001.parquet").unlink()
    assert write_texts(Clip(), texts, "a {}.", str(tmp_path)) == 3
    assert (tmp_path / "part-00000000.parquet").stat().st_mtime_ns == before

    found, read = read_texts(Table(str(tmp_path), "texts", "f", 5, 0, 3, 2, 0.0))
    assert found == texts
    expected = load_clip(Clip()).encode_texts([f"a {text}." for text in texts])
    assert np.abs(read.astype(np.float32) - expected).max() < 1e-3
