"""Where an export is written: a folder that appears whole, and whose last file says what it holds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import fgvr
from fgvr import storage
from fgvr.errors import UserError
from fgvr.storage_errors import full_disk

FACTS: Final = "export.json"
"""Written last: a folder without it is no finished export."""
BEGUN: Final = "export-unfinished.json"
"""Says that a folder is an export that is being written, or was interrupted."""
PARTIAL: Final = ".partial"
"""Ending of the folder in which an export on a disk is written."""


class ExportError(UserError):
    """Something that cannot be exported; the message says what to do."""


class Destination:
    """The folder of one export, on a disk or in an object store.

    On a disk everything is written into `FOLDER.partial`, which gets its name when it is whole. An object store cannot
    rename folders: there the files are written in place, and `export.json` comes last. An interrupted export is
    removed by the next one into the same folder, which starts over.

    Attributes:
        uri: the folder, as it is called at the end.
        folder: the folder in which files are written.
    """

    def __init__(self, uri: str, kind: str, *, overwrite: bool = False) -> None:
        """Prepare the folder.

        Args:
            uri: a local path or a URL.
            kind: of the export, such as `coco`.
            overwrite: replace a finished export that is there; on a disk, only when the new one is whole.

        Raises:
            ExportError: something else is there, or a finished export that may not be overwritten.
        """
        self.uri, self.kind = storage.absolute(uri).rstrip("/"), kind
        self._local = storage.is_local(self.uri)
        self.folder = f"{self.uri}{PARTIAL}" if self._local else self.uri
        finished = _is_ours(self.uri, FACTS)
        if finished and not overwrite:
            raise ExportError(f"{self.uri} holds a finished export; name another folder with --out, or add --overwrite")
        for each in dict.fromkeys((self.uri, self.folder)):
            if not (_is_ours(each, BEGUN) or _is_ours(each, FACTS)) and _holds_files(each):
                raise ExportError(f"{each} holds other files; name a folder with --out that is empty or not there")
        self.write(BEGUN, self._content({}))
        if not self._local:
            storage.remove(self.path(FACTS))  # first: what is left of a removal must not look finished
        for name in (name for names in storage.list_entries(self.folder) for name in names):
            if name != BEGUN:
                storage.remove(self.path(name))

    def path(self, *names: str) -> str:
        """URI of a file in the folder in which files are written."""
        return storage.join(self.folder, *names)

    def local(self, *names: str) -> Path:
        """The same as a path on this machine's disk; raises ExportError in an object store."""
        if not self._local:
            raise ExportError(f"{self.uri} is not on this machine's disk, where links could be made; copy the photos")
        return storage.local_path(self.path(*names))

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole."""
        if not self._local:
            storage.write_bytes(self.path(name), data)
            return
        # Without a wait for the disk per file, of which there may be ten million: `finish` waits once.
        file = storage.local_path(self.path(name))
        with full_disk(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A large file that is written piece by piece."""
        with storage.new_file(self.path(name)) as file:
            yield file

    def finish(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write `export.json`, and give the folder its name; returns the file's content and the `folder`."""
        self.write(FACTS, self._content(facts))
        storage.remove(self.path(BEGUN))
        if self._local:
            os.sync()
            self._rename()
        return {**json.loads(self._content(facts)), "folder": self.uri}

    def _rename(self) -> None:
        """Put the whole export in the place of what is there: nothing, an empty folder, or an older export."""
        target, old = storage.local_path(self.uri), storage.local_path(f"{self.uri}.old")
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        storage.local_path(self.folder).rename(target)
        shutil.rmtree(old, ignore_errors=True)

    def _content(self, facts: Mapping[str, Any]) -> bytes:
        content = {"kind": self.kind, "made_with": f"fgvr {fgvr.__version__}", **facts}
        return json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "replace")


def _is_ours(folder: str, name: str) -> bool:
    """Whether a folder has a file of that name that an export wrote."""
    try:
        facts = json.loads(storage.read_bytes(storage.join(folder, name)))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and str(facts.get("made_with")).startswith("fgvr ")


def _holds_files(folder: str) -> bool:
    if storage.is_local(folder):
        path = storage.local_path(folder)
        return path.exists() and (not path.is_dir() or any(path.iterdir()))
    return any(storage.list_entries(folder))
