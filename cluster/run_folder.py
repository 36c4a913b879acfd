"""Whether a run may work in a folder: one that is empty or a run's, never one that holds something of a person's."""

from __future__ import annotations

import re

from cluster import lease, outbox, run_record, tracking, tracking_store
from cluster.run_record import Session
from fgvr import storage
from fgvr.config.yaml_text import YamlError, read_yaml
from fgvr.errors import UserError
from fgvr.text_files import decoded

CONFIG_FILE = "config.yaml"
_LEFT = frozenset({lease.FOLDER, outbox.FOLDER, run_record.FILE, tracking.RUN_FILE, tracking_store.FILE})
"""What is a run's by its name: left by one that was cut off before it wrote its config, or whose config was removed."""
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


class RunFolderError(UserError):
    """The run's folder is somebody's."""


def check_run_folder(folder: str) -> None:
    """Raise RunFolderError where `folder` is not empty and holds no run: a run writes and removes files there."""
    if is_run(folder):
        return
    files, folders = storage.list_entries(folder)
    others = [name for name in [*files, *folders] if name not in _LEFT and not name.endswith(".lock")]
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
        _FINGERPRINT.fullmatch(version)
        for name in storage.list_entries(tables)[1]
        for version in storage.list_entries(storage.join(tables, name))[1]
    )
