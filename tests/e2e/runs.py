"""Whole runs of the demo at the smallest size that every stage can work with, as processes of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from fgvr import storage
from fgvr.tables import MANIFEST, Table

ROOT = Path(__file__).parents[2]

TRUE_CLASSES = {
    "aspects.max_images": "20000",
    "makd.target": "auto",
    "makd.weights": "null",
    "makd.lr": "0.2",
    "evaluate.methods": "[mllm, zs_clip, near, base, makd]",
}
"""Students from scratch, on true classes, as in the papers; the demo's learn what prototypes name."""
# 36 species with two training images and one test image each; parts of 16, so that a stage has several.
SIZES = {
    "ingest.source.kind": "field_guide",
    "ingest.source.train_per_class": "2",
    "ingest.source.test_per_class": "1",
    "label.images.per_class": "2",
    "label.workers.rows_per_part": "16",
    "embed.workers.rows_per_part": "32",
    "aspects.workers.rows_per_part": "16",
    "near.epochs": "3",
    "makd.epochs": "2",
    "makd.batch_size": "16",
    "evaluate.bootstrap": "20",
    "evaluate.report_images": "4",
    "cluster.num_cpus": "2",
}
TINY = TRUE_CLASSES | SIZES


def flags(folder: str, **more: str) -> list[str]:
    """The command line of a tiny run in `folder`; double underscores stand for dots."""
    values = TINY | {"run.folder": folder, "run.name": "tiny"}
    values |= {name.replace("__", "."): value for name, value in more.items()}
    return [word for name, value in values.items() for word in (f"--{name}", value)]


def environment(**more: str) -> dict[str, str]:
    """Of a run's process: offline, and without what the test's own process or machine says of Ray and MLflow, but for
    what tests/conftest.py sets to save time.
    """
    kept = {k: v for k, v in os.environ.items() if not re.match("RAY_(?!TRAIN_|USAGE_)|MLFLOW_|AWS_", k)}
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | more


def run(script: str, arguments: list[str], env: dict[str, str] | None = None, timeout: float = 900) -> str:
    """Run a script of pipelines/ to its end and return what it wrote to stderr; the test fails where it fails."""
    command = [sys.executable, str(ROOT / "pipelines" / f"{script}.py"), *arguments]
    done = subprocess.run(
        command, env=env or environment(), cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0, f"{script}: exit status {done.returncode}\n{done.stderr[-4000:]}"
    return done.stderr


def table(folder: str, name: str) -> Table:
    """The finished table of a run."""
    (found,) = tables_of(folder, name)
    return Table.load(found)


def tables_of(folder: str, name: str) -> list[str]:
    """URIs of the stage's finished folders."""
    fs, path = storage.resolve(storage.join(folder, "tiny", "tables", name))
    fs.invalidate_cache()
    names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False)]
    folders = [storage.join(folder, "tiny", "tables", name, found) for found in names]
    return [found for found in folders if storage.exists(storage.join(found, MANIFEST))]


def rows(folder: str, name: str) -> pa.Table:
    """All rows of a finished table."""
    return table(folder, name).read()


def metrics(folder: str) -> dict[str, Any]:
    """The run's metrics.json."""
    found: dict[str, Any] = json.loads(storage.read_bytes(storage.join(folder, "tiny", "report", "metrics.json")))
    return found
