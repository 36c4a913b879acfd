"""The drawn field guide as a source; drawings go into their own folder or an empty one, never beside user files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from fgvr import storage
from fgvr.config.data import FieldGuideSource, TableSource
from fgvr.demo.drawn_files import QUESTIONS_FILE, SAMPLES, first_entry, is_field_guide
from fgvr.sources.rows import SourceError
from fgvr.sources.table_file import read_table_file

log = logging.getLogger(__name__)


SETTINGS = "settings.json"
"""File in a drawn folder: the settings of the drawings. Written first, so that an interrupted drawing is recognised."""


def drawn_with(folder: str, wanted: Mapping[str, Any], what: str) -> dict[str, Any] | None:
    """The settings of the drawings in a folder; None if it is empty or missing.

    Args:
        folder: the folder of existing or future drawings.
        wanted: all settings that determine the drawings, JSON types.
        what: the drawings, in words.

    Raises:
        SourceError: the folder holds other files, and nothing is drawn beside them.
    """
    try:
        drawn = json.loads(storage.read_bytes(storage.join(folder, SETTINGS)))
    except (OSError, ValueError):
        drawn = None
    if isinstance(drawn, dict) and set(drawn) == set(wanted):  # other programs may also write a file of this name
        return drawn
    if first := first_entry(folder):
        raise SourceError(
            f"ingest.source.draw_to = {folder}: {what} would be drawn there, but it is neither empty ({first} …) nor "
            "a folder of such drawings; name another one. Or are these photos to be read? Then give "
            "--ingest.source.kind folder and --ingest.source.path"
        )
    return None


# The field guide is drawn on first use, and only read afterwards.


def field_guide_folder(source: FieldGuideSource, run_folder: str) -> str:
    """The drawings' folder: `source.draw_to`, else a folder in the run named after the settings."""
    if source.draw_to is not None:
        return storage.absolute(source.draw_to)
    digest = hashlib.sha256(json.dumps(settings(source), sort_keys=True).encode()).hexdigest()[:8]
    return storage.join(run_folder, "field_guide", digest)


def read_field_guide(source: FieldGuideSource, run_folder: str) -> Iterator[pa.Table]:
    """Chunks of the field guide's samples; draws it if it does not exist yet.

    Raises:
        SourceError: the folder holds a field guide drawn with other settings, or other files.
    """
    folder = field_guide_folder(source, run_folder)
    if source.draw_to is not None:
        check_field_guide(source, folder)
    if not storage.exists(storage.join(folder, SAMPLES)):
        _draw(source, folder)
    yield from read_table_file(TableSource(path=storage.join(folder, SAMPLES)), class_id_column="class_id")


def check_field_guide(source: FieldGuideSource, folder: str) -> None:
    """Raises SourceError if the field guide can neither be read from `folder` nor drawn into it."""
    from fgvr.demo.field_guide import has_own_questions

    if not storage.exists(storage.join(folder, SETTINGS)) and is_field_guide(folder):
        return  # drawn by `python -m fgvr.demo.field_guide`, which writes no settings: used as it is
    wanted = settings(source)
    drawn = drawn_with(folder, wanted, "a field guide") or wanted
    if drawn != wanted:
        keys = [key for key in wanted if drawn[key] != wanted[key]]
        differing = ", ".join(f"{key} {drawn[key]} (asked for: {wanted[key]})" for key in keys)
        raise SourceError(
            f"ingest.source.draw_to = {folder}: the field guide there was drawn with {differing}; name another folder "
            "or remove this one"
        )
    if not storage.exists(storage.join(folder, SAMPLES)) and not has_own_questions(folder):
        raise SourceError(
            f"ingest.source.draw_to = {folder}: the field guide there is unfinished, and its "
            f"{QUESTIONS_FILE} was changed, which drawing the rest would undo; move this file, or name another folder"
        )


def _draw(source: FieldGuideSource, folder: str) -> None:
    from fgvr.demo.field_guide import write_field_guide
    from fgvr.demo.species import SPECIES

    count = (source.train_per_class + source.test_per_class) * len(SPECIES)
    log.info("ingest: drawing %s birds into %s", f"{count:,}", folder)
    # The settings first, the split file last: an interrupted drawing counts as missing and is drawn again.
    storage.write_bytes(storage.join(folder, SETTINGS), json.dumps(settings(source), indent=1).encode())
    difficulty = {} if source.difficulty is None else {"difficulty": source.difficulty}
    write_field_guide(
        folder,
        per_class={"train": source.train_per_class, "test": source.test_per_class},
        seed=source.seed,
        workers=min(8, len(os.sched_getaffinity(0))) if storage.is_local(folder) else 1,
        **difficulty,
    )


def settings(source: FieldGuideSource) -> dict[str, object]:
    """All settings that determine the drawings; the demo's difficulty is resolved, so that changing it redraws."""
    from fgvr.demo.samples import DEMO_DIFFICULTY

    values = source.model_dump(mode="json", exclude={"kind", "draw_to"})
    return {**values, "difficulty": source.difficulty or DEMO_DIFFICULTY}
