"""The drawn field guide as a source: drawn on first use, read ever after."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator

import pyarrow as pa

from fgvr import storage
from fgvr.config.data import FieldGuideSource, TableSource
from fgvr.datasets.rows import SourceError
from fgvr.datasets.table_file import read_table_file

SETTINGS = "settings.json"
"""Beside samples.csv: what the drawings were made with."""


def field_guide_folder(source: FieldGuideSource, run_folder: str) -> str:
    """Where the drawings lie: `source.path`, else a folder in the run named after the settings."""
    if source.path is not None:
        return storage.absolute(source.path)
    digest = hashlib.sha256(json.dumps(settings(source), sort_keys=True).encode()).hexdigest()[:8]
    return storage.join(run_folder, "field_guide", digest)


def questions_file(source: FieldGuideSource, run_folder: str) -> str:
    """URI of the field guide's aspect questions, one a line."""
    return storage.join(field_guide_folder(source, run_folder), "questions.txt")


def read_field_guide(source: FieldGuideSource, run_folder: str) -> Iterator[pa.Table]:
    """Chunks of the field guide's samples; draws it when it is not there yet.

    Raises:
        SourceError: the folder holds a field guide that was drawn with other settings.
    """
    folder = field_guide_folder(source, run_folder)
    wanted = settings(source)
    if storage.exists(storage.join(folder, "samples.csv")):
        _check_settings(folder, wanted)
    else:
        _draw(source, folder, wanted)
    yield from read_table_file(TableSource(path=storage.join(folder, "samples.csv")), class_id_column="class_id")


def _draw(source: FieldGuideSource, folder: str, wanted: dict[str, object]) -> None:
    from fgvr.demo.field_guide import write_field_guide

    # The settings first, the split file last: a drawing that was cut short is seen as not there, and drawn again.
    storage.write_bytes(storage.join(folder, SETTINGS), json.dumps(wanted, indent=1).encode())
    difficulty = {} if source.difficulty is None else {"difficulty": source.difficulty}
    write_field_guide(
        folder,
        per_class={"train": source.train_per_class, "test": source.test_per_class},
        seed=source.seed,
        workers=min(8, len(os.sched_getaffinity(0))) if storage.is_local(folder) else 1,
        **difficulty,
    )


def settings(source: FieldGuideSource) -> dict[str, object]:
    """All that decides the drawings; the demo's difficulty is resolved, so that its change draws anew."""
    from fgvr.demo.samples import DEMO_DIFFICULTY

    values = source.model_dump(mode="json", exclude={"kind", "path"})
    return {**values, "difficulty": source.difficulty or DEMO_DIFFICULTY}


def _check_settings(folder: str, wanted: dict[str, object]) -> None:
    try:
        drawn = json.loads(storage.read_bytes(storage.join(folder, SETTINGS)))
    except FileNotFoundError:
        return  # drawn by `python -m fgvr.demo.field_guide`: taken as it is
    if drawn != wanted:
        keys = [key for key in wanted if drawn.get(key) != wanted[key]]
        differing = ", ".join(f"{key} {drawn.get(key)} (asked for: {wanted[key]})" for key in keys)
        raise SourceError(
            f"ingest.source.path = {folder}: the field guide there was drawn with {differing}; name another folder or "
            "remove this one"
        )
