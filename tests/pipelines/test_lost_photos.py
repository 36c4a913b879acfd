"""Photos that are lost while a student trains, told by the stage, without Ray."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.checkpoints import TrainResult
from cluster.stage import RunContext
from fgvr.config import build
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import train_student
from fgvr.training.student_data import StudentJob
from pipelines.run_tables import Run
from tests.untracked import NoTracking


def test_the_stage_says_how_many_were_lost_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    photos = [tmp_path / "photos" / name / f"{number}.png" for name in ("Teal", "Wren") for number in range(4)]
    for photo in photos:
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 100, np.uint8)).save(photo)

    class Loses(LocalReporter):
        def report(self, metrics, save=None):
            super().report(metrics, save)
            photos[2].unlink(missing_ok=True)

    def train(loop: object, job: StudentJob, *, folder: str, **_: object) -> TrainResult:
        reporter = Loses(Path(folder) / "training")
        train_student(job, reporter)
        return TrainResult(reporter.history[-1], str(reporter.checkpoint))

    monkeypatch.setattr("cluster.train.train", train)
    makd = {"backbone": "test_byobnet", "image_size": 32, "epochs": 2, "batch_size": 8, "validation_share": 0}
    tree = {
        "ingest": {"source": {"kind": "folder", "path": str(tmp_path / "photos"), "class_from": "parent"}},
        "makd": makd | {"cache_gb": 1e-9},  # no photo is kept: each is read in every epoch
        "run": {"max_error_share": 0.5},
        "tracking": {"log_models": False},
    }
    flow = Run(RunContext(build(tree), str(tmp_path / "run"), NoTracking()))
    table = flow.table("base")
    assert "base: 1 of 8 training images could not be read in some epoch (not_found 1)" in caplog.text
    assert "not_found (1), e.g. there is nothing at" in caplog.text
    assert "Teal/2.png" in caplog.text
    assert table.extra["lost"] == {"not_found": 1}
    assert table.extra["lost_examples"]["not_found"]["image_id"] == 2
    assert (table.rows, table.failed) == (8, 0)
