import io
import json
import time
from pathlib import Path

import pytest

from cluster.progress import ProgressWriter, TrainingLine, training_shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_line_tells_epoch_metrics_and_time_left() -> None:
    line = TrainingLine("makd", 10)
    first = line.text({"epoch": 2, "loss": 1.23456, "learning_rate": 0.1}, now=100.0)
    assert first == "makd: epoch 2 of 10, loss 1.235"
    # Three epochs in 30 s since it was first seen: ten seconds for each of the five that are left.
    later = line.text(
        {"epoch": 5, "loss": 0.5, "consistency_loss": 0.1, "train_top1": 0.75, "images_per_second": 812.3}, now=130.0
    )
    assert (
        later
        == "makd: epoch 5 of 10, 50 s left, loss 0.5, consistency loss 0.1, train top1 0.75, images per second 812.3"
    )
    assert TrainingLine("near", None).text({"epoch": 1.5}, now=0.0) == "near: epoch 1.5"


def test_what_the_worker_leaves_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.progress.LOCAL_SECONDS", 0.02)
    folder, terminal, log = str(tmp_path / "training"), Terminal(), io.StringIO()
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "progress.json").write_text('{"epoch": 99}')  # of an earlier session
    with training_shown(folder, "makd", 4, terminal), training_shown(folder, "makd", 4, log):
        ProgressWriter(folder).write({"epoch": 1, "loss": 2.0})
        time.sleep(0.3)
    assert "\r\x1b[Kmakd: epoch 1 of 4, loss 2" in terminal.getvalue()
    assert "99" not in terminal.getvalue()
    assert log.getvalue() == ""  # a log gets a line a minute


def test_the_worker_writes_no_more_often_than_anyone_looks(tmp_path: Path) -> None:
    writer = ProgressWriter(str(tmp_path))
    for epoch in range(100):
        writer.write({"epoch": float(epoch)})
    assert json.loads((tmp_path / "progress.json").read_text()) == {"epoch": 0}
