"""Whether a run may work in a folder: one that is empty or a run's, never one that holds something of a person's."""

from __future__ import annotations

import re

from cluster import lease
from cluster.run_record import Session
from fgvr import storage
from fgvr.config.yaml_text import YamlError, read_yaml
from fgvr.errors import UserError
from fgvr.text_files import decoded

CONFIG_FILE = "config.yaml"
_BESIDE = (".json", ".db", ".lock", lease.FOLDER)  # what sessions leave that were cut off before they wrote the config
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


class RunFolderError(UserError):
    """The run's folder is somebody's."""


def check_run_folder(folder: str) -> None:
    """Raise RunFolderError where `folder` is not empty and holds no run: a run writes and removes files there."""
    if is_run(folder):
        return
    others = [name for name in _entries(folder) if not name.startswith(".") and not name.endswith(_BESIDE)]
    if others:
        raise RunFolderError(
            f"run.folder, run.name: {folder} holds something that is no run ({min(others)} …), and a run would write "
            "into it; name another run.name or run.folder"
        )


def is_run(folder: str) -> bool:
    """Whether a run has left its config, its record or its tables in a folder."""
    return _is_config(folder) or Session.read(folder) is not None or _has_tables(folder)


def _is_config(folder: str) -> bool:
    try:
        tree = read_yaml(decoded(storage.read_bytes(storage.join(folder, CONFIG_FILE))))
    except (OSError, YamlError, UnicodeDecodeError):
        return False
    return isinstance(tree, dict) and {"run", "ingest", "mllm"} <= set(tree)


def _has_tables(folder: str) -> bool:
    tables = storage.join(folder, "tables")
    return any(
        _FINGERPRINT.fullmatch(version) for name in _entries(tables) for version in _entries(storage.join(tables, name))
    )


def _entries(folder: str) -> list[str]:
    """Names in a folder; that of a file in its place; nothing where nothing is."""
    fs, path = storage.resolve(folder)
    try:
        found = fs.ls(path, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found if str(entry).rstrip("/") != path.rstrip("/")]
