"""File names of a drawn field guide, and checks of a folder before something is written into it."""

from __future__ import annotations

import re
from typing import Final

from fgvr import storage

SAMPLES: Final = "samples.csv"
QUESTIONS_FILE: Final = "questions.txt"
HEADER: Final = ("uri", "split", "class_id", "class_name")
_FIRST_LINES = re.compile(rb"uri,split,class_id,class_name\n(images/[^/\n]+/\d{4}/\d{7}\.jpg,|$)")


def is_field_guide(folder: str) -> bool:
    """Whether the split file in `folder` belongs to a field guide: other data may also have a samples.csv."""
    try:
        return _FIRST_LINES.match(storage.read_bytes(storage.join(folder, SAMPLES), 0, 1000)) is not None
    except OSError:
        return False


def first_entry(folder: str) -> str | None:
    """The first visible entry of a folder, or the name of a file in the folder's place; None if nothing exists."""
    fs, path = storage.resolve(folder)
    try:
        if fs.isfile(path):
            return path.rsplit("/", 1)[-1]
        names = [str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False)]
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return f"{folder} lies below a file"
    return min((name for name in names if not name.startswith(".") and name != "lost+found"), default=None)
