"""A run on planted vectors and labels, whose further tables are computed without Ray."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.stage import RunContext
from fgvr import schemas, storage, tables
from fgvr.clip.vectors import embedding_rows
from fgvr.config import Config, build
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table
from pipelines.run_tables import Run
from tests.fgvr.heads.planted_rows import random_vectors
from tests.untracked import NoTracking

CLASSES = ("auk", "booby", "crane", "dipper")
DIM, TRAIN, TEST = 128, 60, 20
UNEMBEDDED, UNLABELLED = 7, 9


def config_of(folder: Path, **parts: Any) -> Config:
    values = {
        "run": {"folder": str(folder), "max_error_share": 0.2},
        "clip": {"model": "demo"},
        "tracking": {"log_models": False},
        "evaluate": {"methods": ["label_prototypes", "heads"], "report_images": 4},
    }
    return build(values | parts)


def written(folder: Path, name: str, rows: pa.Table, extra: dict[str, Any] | None = None) -> Table:
    table = Table(str(folder / name), name, "f", rows.num_rows, 0, 1, max(1, rows.num_rows), 0.0, extra=extra or {})
    tables.write_part(table.uri, 0, rows)
    return table


def planted(folder: Path) -> tuple[dict[str, Table], np.ndarray]:
    """Samples, labels (one in five wrong), embeddings and candidates of 80 photos around four directions; the truth."""
    rng = np.random.default_rng(0)
    truth = np.arange(TRAIN + TEST) % len(CLASSES)
    vectors = random_vectors(len(CLASSES), DIM, seed=3)[truth] + 0.04 * rng.normal(size=(len(truth), DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rows = [
        {
            "image_id": n,
            "uri": f"/photos/{n}.jpg",
            "split": "train" if n < TRAIN else "test",
            "class_id": int(truth[n]),
            "class_name": CLASSES[truth[n]],
            "metadata": "{}",
        }
        for n in range(len(truth))
    ]
    samples = written(
        folder,
        "samples",
        pa.Table.from_pylist(rows, schema=schemas.SAMPLES),
        {"splits": {"train": TRAIN, "test": TEST}, "classes": len(CLASSES)},
    )
    failures = [Failure(Reason.CORRUPT, "x") if n == UNEMBEDDED else None for n in range(len(truth))]
    embedded = embedding_rows(np.arange(len(truth)), vectors, failures)
    said = [(t + 1 + n % 3) % 4 if n % 5 == 4 else t for n, t in enumerate(truth[:TRAIN].tolist())]
    named = [
        {
            "image_id": n,
            "label": None if n == UNLABELLED else CLASSES[label],
            "label_id": None if n == UNLABELLED else label,
            "candidate_ids": [] if n == UNLABELLED else [label],
            "candidate_weights": [] if n == UNLABELLED else [1.0],
            "error": {"reason": "refused", "detail": "no"} if n == UNLABELLED else None,
        }
        for n, label in enumerate(said)
    ]
    labels = written(folder, "labels", pa.Table.from_pylist(named, schema=schemas.LABELS))
    space = {"labels": [*CLASSES, "never said"], "counts": [15, 15, 15, 15, 0]}
    storage.write_bytes(labels.path("label_space.json"), json.dumps(space).encode())
    storage.write_bytes(labels.path("aliases.csv"), b"answer,label,count\n")
    sets = [
        {"image_id": n, "label_ids": [label, (label + 1 + n % 3) % 4], "weights": [0.5, 0.5]}
        for n, label in enumerate(said)
    ]
    made = {
        "samples": samples,
        "labels": labels,
        "embeddings": written(folder, "embeddings", embedded, {"dim": DIM}),
        "candidates": written(folder, "candidates", pa.Table.from_pylist(sets, schema=schemas.CANDIDATES)),
    }
    for table in made.values():
        table.commit()
    return made, truth


def run_of(given: tuple[dict[str, Table], np.ndarray], folder: Path, **parts: Any) -> Run:
    config = config_of(folder, **parts)
    return Run(RunContext(config, str(folder), NoTracking()), given[0])
