"""Which of a checkpoint's files hold its weights: many repositories hold them twice, in two formats or layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

SAFETENSORS_INDEX, BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
_LAYOUTS: tuple[tuple[str | None, str], ...] = (
    (SAFETENSORS_INDEX, "model*.safetensors"),
    (None, "*.safetensors"),
    (BIN_INDEX, "pytorch_model*.bin"),
    (None, "*.bin"),
    (None, "*.pt"),
    (None, "*.pth"),
    (None, "*.gguf"),
)
"""In the order in which they are taken: an index that says which files, and their usual names."""
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".ot", ".onnx")
_NO_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"})
"""What a trainer leaves beside the weights."""
Read = Callable[[str], bytes]
"""The content of a file by its name in the folder; raises OSError where there is none."""


def weight_files(names: Iterable[str], read: Read) -> list[str]:
    """Names of the files that are loaded, sorted; empty where a folder has no weights.

    Args:
        names: of the files directly in a folder.
        read: gives the index's content.
    """
    there = {name for name in names if name not in _NO_WEIGHTS}
    for index, pattern in _LAYOUTS:
        found = _indexed(index, read) & there if index in there else set()
        found = found or {name for name in there if fnmatch(name, pattern)}
        if found:
            return sorted(found)
    return []


def weights_in(folder: Path) -> list[Path]:
    """The same of a folder on this machine."""
    names = [file.name for file in folder.iterdir() if file.is_file()]
    return [folder / name for name in weight_files(names, lambda name: (folder / name).read_bytes())]


def needed_files(names: Sequence[str], read: Read) -> list[str]:
    """All files of a checkpoint that an engine needs: the weights once, and everything that is no weights.

    Args:
        names: of its files, relative, with `/`. Weights in folders below (`original/`, `onnx/`) are other copies.
        read: as in `weight_files`.
    """
    weights = set(weight_files([name for name in names if "/" not in name], read))
    if not weights:
        return list(names)
    return [name for name in names if name in weights or not name.endswith(_ENDINGS)]


def _indexed(index: str | None, read: Read) -> set[str]:
    """Files that an index names; none where it cannot be read."""
    try:
        facts: Any = json.loads(read(index or ""))
        return {str(name) for name in facts["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()  # strangers write these files
