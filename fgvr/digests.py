"""Digests that name a file's content in fingerprints: SHA-256 over all bytes, computed once per state of a file.

Weights are gigabytes, and every command needs their digests. So a digest is cached in the user's cache folder, keyed by
the file's path, with its size, times and inode: as long as none of these changes, the bytes are not read again. The
inode's change time (ctime) is included because no program can set it: a file replaced by another one of the same size
and modification time (`cp -p`, an unpacked archive) is still recognised as a different file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from fgvr import disk_cache, storage
from fgvr.errors import UserError

KEPT = "digests"
"""Folder of the cached digests below `fgvr.disk_cache.root()`: one small file per digest."""
BOUND = 4096
"""How many digests are kept; beyond that, those written first are removed."""
SMALL = 2**20
"""Files of up to this many bytes are read every time: that is as quick as looking up a digest."""
SETTLED_SECONDS = 5.0
"""A digest is cached only if the file's last change is at least this old: a later change then has another time."""
TRIES = 3
MANY = 64 * 2**20
"""From this many unread bytes on, several files are read in parallel."""
LARGE = 4 * 2**30
"""From this many unread bytes on, the log says that they are being read: it takes many seconds."""
_FOR_PEOPLE = re.compile(r"(licen[cs]e|notice|use_policy|acceptable_use)\b.*|.*\.(md|rst)", re.IGNORECASE)
_LEFT_BEHIND = re.compile(r"thumbs\.db|desktop\.ini|.*\.pyc", re.IGNORECASE)
"""Files that looking at a folder, or running its Python, leaves in it."""
_HEX = re.compile(r"[0-9a-f]{64}")
Mark = list[int]
"""Size, modification time and inode change time (both in nanoseconds), inode number."""

log = logging.getLogger(__name__)


class FileChanging(UserError, OSError):
    """A file was written to every time it was read."""


def file_digest(path: str | Path) -> str:
    """SHA-256 of all bytes of a file on this machine, 64 hex digits.

    Raises:
        FileNotFoundError: there is no such file.
        FileChanging: the file is being written all the time.
    """
    real = Path(os.path.realpath(path))
    for _ in range(TRIES):
        mark = _mark(real)
        kept = _read(real, mark) if mark[0] > SMALL else None
        if kept is not None:
            return kept
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        now = time.time()
        if _mark(real) == mark:
            if mark[0] > SMALL and now - max(mark[1:3]) / 1e9 > SETTLED_SECONDS:
                _keep(real, mark, digest)
            return digest
    raise FileChanging(f"{real}: it was changed while it was read, {TRIES} times; start again when it is written")


def content_of(uri: str | Path) -> str:
    """What distinguishes this version of a file: its digest on this machine, the store's own mark elsewhere.

    Raises FileNotFoundError.
    """
    if storage.is_local(uri):
        return file_digest(storage.local_path(uri).expanduser())
    fs, path = storage.resolve(uri)
    fs.invalidate_cache(path)
    return version_of(fs.info(path))


def version_of(facts: Mapping[str, Any]) -> str:
    """An object's version as its store states it, with its size: the ETag or checksum, else the time it was written."""
    mark = next((str(facts[name]) for name in storage.CHANGE_MARKS if facts.get(name)), "")
    return f"{mark}:{facts.get('size')}"


def folder_digest(place: str | Path) -> str:
    """Name of a folder's content, 16 hex digits, computed from the names and contents of all its files.

    On this machine all bytes count, so that copies agree; in an object store only the marks of its objects, and nothing
    is fetched. Texts for people (*.md, LICENSE), hidden files (.git, what a download leaves) and what looking at a
    folder leaves in it (Thumbs.db, __pycache__) do not count.

    Raises:
        FileNotFoundError: there is nothing at this place.
    """
    return digest_of_files(folder_files(place))


def folder_files(place: str | Path) -> dict[str, str]:
    """What `folder_digest` counts: the content of each file by its name in the folder; raises FileNotFoundError."""
    found = _local_files(storage.local_path(place).expanduser()) if storage.is_local(place) else _objects(str(place))
    if not found:
        raise FileNotFoundError(f"there is nothing at {place}")
    return found


def digest_of_files(files: Mapping[str, str]) -> str:
    """Name of these contents by name, 16 hex digits."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:16]


def counts(name: str) -> bool:
    """Whether a file in a model's folder belongs to the model; `name` is relative to the folder, with `/`."""
    *folders, last = name.split("/")
    if last.startswith(".") or any(folder.startswith(".") or folder == "__pycache__" for folder in folders):
        return False
    return _FOR_PEOPLE.fullmatch(last) is None and _LEFT_BEHIND.fullmatch(last) is None


def _local_files(folder: Path) -> dict[str, str]:
    files = {name: file for name, file in _walk(folder) if counts(name)}
    unknown = sum(_unread_bytes(file) for file in files.values())
    if unknown >= LARGE:
        log.info("%s: reading its %.0f GiB once, to identify this model by its content", folder, unknown / 2**30)
    if unknown < MANY:
        return {name: file_digest(file) for name, file in files.items()}
    with ThreadPoolExecutor(4) as pool:  # hashing releases the GIL
        return dict(zip(files, pool.map(file_digest, files.values()), strict=True))


def _walk(folder: Path, within: str = "", above: tuple[str, ...] = ()) -> Iterator[tuple[str, Path]]:
    """Files below a folder with their names in it; links are followed, but not to a folder that is being walked."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for entry in entries:
        name = within + entry.name
        if entry.is_file():
            yield name, entry
        elif entry.is_dir() and counts(f"{name}/any"):
            yield from _walk(entry, f"{name}/", (*above, real))


def _objects(uri: str) -> dict[str, str]:
    fs, path = storage.resolve(uri)
    found = {name.removeprefix(path).lstrip("/"): facts for name, facts in fs.find(path, detail=True).items()}
    return {name: version_of(facts) for name, facts in found.items() if counts(name)}


def _mark(path: Path) -> Mark:
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def _unread_bytes(path: Path) -> int:
    real = Path(os.path.realpath(path))
    mark = _mark(real)
    return 0 if mark[0] > SMALL and _read(real, mark) is not None else mark[0]


def _place(path: Path) -> Path:
    return disk_cache.root() / KEPT / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _read(path: Path, mark: Mark) -> str | None:
    """The cached digest of the file in this state; None if there is none or the cache entry cannot be read."""
    try:
        facts = json.loads(_place(path).read_bytes())
        digest = facts["digest"]
        return str(digest) if facts["mark"] == mark and _HEX.fullmatch(digest) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(path: Path, mark: Mark, digest: str) -> None:
    """Write a temporary file and rename it, so that others see whole entries only. Errors only mean no cache entry."""
    place = _place(path)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}")
        try:
            beside.write_text(json.dumps({"path": os.fsdecode(path), "mark": mark, "digest": digest}))
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)
        _bound(place.parent)


def _bound(folder: Path) -> None:
    entries = [entry for entry in os.scandir(folder) if entry.name.endswith(".json")]
    if len(entries) <= BOUND:
        return
    ages: dict[str, float] = {}
    for entry in entries:
        with suppress(OSError):  # another process was faster
            ages[entry.path] = entry.stat().st_mtime
    for path in sorted(ages, key=ages.__getitem__)[: len(ages) - BOUND * 3 // 4]:
        with suppress(OSError):
            Path(path).unlink()
