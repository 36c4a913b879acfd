"""The Grocery Store benchmark as a config: its own tiny models, and `test` split into a discovery and an evaluation
half.

A photo belongs to the discovery half (split `train` in the written CSV) if the SHA-256 of its path in the data set,
e.g. `test/Fruit/Lemon/Lemon_003.jpg`, is even; otherwise to the evaluation half (split `test`). The halves need no
seed.
"""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.grocery.questions import SUBJECT, read_table
from fgvr.config.data import LayoutSource
from fgvr.errors import UserError
from fgvr.sources.source import read_source


def is_discovery(path: str) -> bool:
    """Whether a photo, by its path in the data set, belongs to the discovery half."""
    return hashlib.sha256(path.encode()).digest()[-1] % 2 == 0


def write_halves(data: Path, file: Path) -> None:
    """Write the CSV (uri, split, class_name) of the `test` photos."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["uri", "split", "class_name"])
        for row in photos_of_test(data):
            writer.writerow([row["uri"], "train" if is_discovery(path_of(row)) else "test", row["class_name"]])


def discovery_rows(data: Path) -> np.ndarray:
    """Which of the `test` photos, in the order of `load_photos`, belong to the discovery half: bool [N]."""
    return np.array([is_discovery(path_of(row)) for row in photos_of_test(data)])


def photos_of_test(data: Path) -> list[dict[str, Any]]:
    """Rows of the samples table, `test` alone."""
    rows = read_source(LayoutSource(name="grocery", path=str(data)), "").rows.to_pylist()
    return [row for row in rows if row["split"] == "test"]


def path_of(row: dict[str, Any]) -> str:
    """A photo's path in the data set."""
    return str(row["uri"]).rsplit("/dataset/", 1)[1]


def write_captions(data: Path, file: Path) -> None:
    """Write CaSED's caption database: the product's name and one sentence, for each sentence of its description."""
    root = data / "dataset" if (data / "dataset").is_dir() else data
    with (root / "classes.csv").open(newline="") as listed:
        classes = list(csv.reader(listed))[1:]
    lines = []
    for name, *_, description in classes:
        text = " ".join((root / description.lstrip("/")).read_text(errors="replace").split())
        lines += [f"{name.replace('-', ' ')}. {sentence}" for sentence in re.split(r"(?<=[.!?]) ", text) if sentence]
    file.write_text("\n".join(lines) + "\n")


def grocery_tree(data: Path, models: Path, folder: Path) -> dict[str, Any]:
    """The benchmark's config; writes halves, captions and questions into `folder`.

    Raises:
        UserError: the tiny models have not been trained yet.
    """
    for name in ("mllm", "clip"):
        if not (models / name).exists():
            raise UserError(
                f"--config grocery: there is no model at {models / name}; train it:"
                f" python -m benchmarks.grocery.models --model {name} --out {models}"
            )
    halves, captions = folder / "grocery-halves.csv", folder / "grocery-captions.txt"
    if not halves.exists():
        write_halves(data, halves)
    if not captions.exists():
        write_captions(data, captions)
    questions = folder / "grocery-questions.txt"
    questions.write_text("".join(f"{text}\n" for text in read_table().texts))
    return {
        "ingest": {"source": {"kind": "table", "path": str(halves)}},
        "baselines": {
            "cased": {"captions": str(captions)},
            "findr": asdict(SUBJECT),  # no tiny MLLM can answer the question about it
        },
        "questions": {"file": str(questions), "subject": "groceries"},
        "label": {"images": {"max_images": None}},
        "mllm": {"kind": "vllm", "model": str(models / "mllm")},
        "clip": {"model": f"local-dir:{models / 'clip'}"},
        # As in the demo (docs/demo.md): one batch holds all images.
        "near": {"batch_size": 2048, "epochs": 250, "lr": 0.02, "warmup_epochs": 0, "workers": {"num_cpus": 1}},
        "cluster": {"num_cpus": 2},
    }
