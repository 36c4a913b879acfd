"""Checkpoints in an object store: what a worker sends, another one goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fgvr import storage
from fgvr.adapt.job import _fetched, _send
from fgvr.adapt.training import last_checkpoint


def checkpoint(folder: Path, step: int, *, whole: bool = True) -> Path:
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    (place / "optimizer.pt").write_bytes(b"state")
    if whole:
        (place / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    return place


@pytest.mark.slow
def test_the_last_whole_checkpoint_of_a_store_is_fetched(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    s3.mkdir("adapting")
    training = "s3://adapting/tables/adaptation/1/training"
    assert last_checkpoint(_fetched(training, tmp_path / "first")) is None  # nothing is there yet
    for step, whole in ((2, True), (10, True), (12, False)):
        _send(checkpoint(tmp_path / "sent", step, whole=whole), training)
    fetched = _fetched(training, tmp_path / "second")
    assert last_checkpoint(fetched) == fetched / "checkpoint-10"
    assert (fetched / "checkpoint-10" / "optimizer.pt").read_bytes() == b"state"
    assert [place.name for place in fetched.iterdir()] == ["checkpoint-10"]


def test_on_a_disk_the_folder_itself_is_used(tmp_path: Path) -> None:
    assert _fetched(storage.file_uri(tmp_path / "training"), tmp_path / "temporary") == tmp_path / "training"
    assert not (tmp_path / "temporary").exists()
