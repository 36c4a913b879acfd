"""Make the kept run folders of this folder anew: see README.md here. Takes minutes, and a quiet machine.

PYTHONPATH=$PWD .venv/bin/python -m tests.golden.keep_run /tmp/kept          # or goes on where that was interrupted
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
NAME = "kept"
COMMON = {
    "run.name": NAME,
    "ingest.source.kind": "field_guide",
    "ingest.source.train_per_class": "2",
    "ingest.source.test_per_class": "1",
    "mllm.kind": "simulated",
    "mllm.names": "12",
    "mllm.accuracy": "0.8",
    "label.images.per_class": "2",
    "label.workers.rows_per_part": "16",
    "embed.workers.rows_per_part": "32",
    "aspects.workers.rows_per_part": "16",
    "infer.workers.rows_per_part": "32",
    "near.epochs": "3",
    "near.views": "2",
    "makd.epochs": "2",
    "makd.checkpoint_epochs": "1",
    "makd.batch_size": "16",
    "evaluate.bootstrap": "20",
    "evaluate.report_images": "4",
    "cluster.num_cpus": "2",
    "evaluate.methods": "[mllm, zs_clip, prototypes, near, base, makd]",
    # What the preset of the demo has said otherwise since the runs were made.
    "aspects.max_images": "20000",
    "makd.target": "auto",
    "makd.weights": "null",
    "makd.min_crop": "0.5",
    "makd.lr": "0.2",
}
FINISHED: dict[str, str] = {}
INTERRUPTED = {
    # A student of some 30,000 weights, whose checkpoint is small, and epochs enough to be killed in.
    "makd.backbone": "resnet10t",
    "makd.backbone_args": "{channels: [8, 8, 16, 16], stem_width: 8}",
    "makd.base": "false",
    "makd.epochs": "6",
    "evaluate.methods": "[near, makd]",
}
STUDENT = ("base", "makd", "predictions", "eval_base", "eval_makd", "eval_aspects", "report")
"""Tables that are of another student there."""
GONE = ("mlflow.db", "mlartifacts", "mlflow_run.json", "owner", "outbox", "session.json", "replies")
"""Of the machine on which the run was made: who worked on it, and where MLflow's store is."""


def arguments(folder: Path, more: dict[str, str]) -> list[str]:
    """The command line of a run in this folder."""
    values = {"run.folder": str(folder)} | COMMON | more
    return [word for name, value in values.items() for word in (f"--{name}", value)]


def make(place: Path) -> None:
    """Both runs, and what is kept of them in this folder."""
    finished, interrupted = place / "finished", place / "interrupted"
    command = [sys.executable, str(ROOT / "pipelines" / "full.py")]
    subprocess.run(
        [*command, *arguments(finished, FINISHED)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )
    shutil.rmtree(interrupted, ignore_errors=True)
    shutil.copytree(finished, interrupted)
    for name in GONE:
        _remove(interrupted / NAME / name)
    for name in STUDENT:
        _remove(interrupted / NAME / "tables" / name)
    _kill_in_training([*command, *arguments(interrupted, INTERRUPTED)], interrupted / NAME / "tables" / "makd")
    pack(finished / NAME, FOLDER / "run_finished.tar.gz", NAME)
    pack(interrupted / NAME / "tables" / "makd", FOLDER / "student_interrupted.tar.gz", "makd")


def _kill_in_training(command: list[str], table: Path) -> None:
    """SIGKILL a driver as soon as there is a checkpoint, and wait until its workers have ended themselves."""
    driver = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while driver.poll() is None and not list(table.glob("*/training*/**/checkpoint*/**/*")):
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(15)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def pack(folder: Path, archive: Path, name: str) -> None:
    """A folder of a run without what is large and never read again, or of this machine."""

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(entry.name).parts
        if len(parts) > 1 and parts[1] in GONE:
            return None
        # Weights of finished students decide nothing; NeaR's CLIP is the shipped one, which the test puts back.
        if "training" not in entry.name and entry.name.endswith(".safetensors") and "near" not in parts:
            return None
        if entry.name.endswith("open_clip_model.safetensors"):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, arcname=name, filter=kept)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
