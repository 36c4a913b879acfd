"""The disk cache of this machine: what can be fetched or computed again; bounded, shared by processes, and cleaned.

Everything lies below `root()`, in one folder per kind, which holds one folder per entry. Two files beside an entry
say which processes work with it: `<key>.lock` is held exclusively while the entry is made, updated or removed;
`<entry>.use` is shared by all processes that read it. The system frees both when a process dies. When room is needed,
the least recently used entry goes first, but never one that a living process reads.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fgvr import liveness
from fgvr.errors import UserError
from fgvr.redact import masked

GIB = 2**30
BOUND_GIB = 100.0
"""Limit for what is fetched, if FGVR_CACHE_GB is not set; at most a quarter of the disk."""
FETCHED, IMAGES = "folders", "images"
KINDS = {FETCHED: "fetched from object stores: models, checkpoints, vectors", IMAGES: "decoded training images"}
LOCK, USE = ".lock", ".use"
_KEY = re.compile(r"\.?[0-9a-f]{16,20}(?![^.-])")
_PHOTOS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".heic", ".webp", ".gif", ".bmp", ".dng", ".cr2", ".nef", ".arw")
LOOK_SECONDS = 0.2
HOW_TO_CLEAN = "python pipelines/cache.py shows and cleans what lies there, and FGVR_CACHE names another folder"


class CacheError(UserError, OSError):
    """The cache folder cannot be used, or its size limit is not a number; the message names the variable."""


@dataclass(frozen=True)
class Entry:
    """One cache entry.

    Attributes:
        folder: where the entry lies.
        bytes: total size of its files.
        used: when it was last used, in seconds since 1970.
        busy: whether a process reads it or is making it.
        source: what it is a copy of, if known.
    """

    folder: Path
    bytes: int
    used: float
    busy: bool
    source: str = ""

    @property
    def kind(self) -> str:
        """The name of the folder that holds it."""
        return self.folder.parent.name


def root() -> Path:
    """FGVR_CACHE, or ~/.cache/fgvr."""
    return Path(os.environ.get("FGVR_CACHE") or Path.home() / ".cache" / "fgvr").expanduser()


def bound(folder: Path) -> int:
    """The most bytes that fetched entries in `folder` may take: FGVR_CACHE_GB, or a default that depends on the disk.

    Raises CacheError if FGVR_CACHE_GB is not a number above 0.
    """
    asked = os.environ.get("FGVR_CACHE_GB")
    if not asked:
        return int(min(BOUND_GIB * GIB, shutil.disk_usage(_there(folder)).total / 4))
    try:
        gib = float(asked)
    except ValueError:
        gib = 0.0
    if not 0 < gib < float("inf"):
        raise CacheError(f"FGVR_CACHE_GB = {asked!r} is no size; name the GiB that fetched folders may take, e.g. 50")
    return int(gib * GIB)


def _there(folder: Path) -> Path:
    """The folder, or its nearest ancestor that exists."""
    return next((place for place in [folder, *folder.parents] if place.exists()), Path("/"))


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the disk of `folder`."""
    return shutil.disk_usage(_there(folder)).free


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock file, one process at a time. Raises BlockingIOError if it is taken and `wait` is False.

    A waiting process sends heartbeats: whether the work makes progress is for the lock holder's own watchdog to tell.
    """
    descriptor = _lock(path, fcntl.LOCK_EX, wait=wait)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, kind: int, *, wait: bool) -> int:
    """A descriptor of the locked file; closing it frees the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not wait:
                        raise
                    liveness.beat()
                    time.sleep(LOOK_SECONDS)
            with suppress(FileNotFoundError):  # whoever cleaned up may have removed the file while we waited for it
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def lock_of(entry: Path) -> Path:
    """The lock of an entry; also that of its versions (`key-1`) and of the folders in which it is made (`.key.1`)."""
    return entry.parent / f"{re.split('[.-]', entry.name.lstrip('.'))[0]}{LOCK}"


class Use:
    """An entry in use: it is not removed until `end`, or until this process and its children end."""

    def __init__(self, entry: Path, source: str = "") -> None:
        """Call this while holding the entry's lock; raises OSError if no file can be written in the folder.

        Args:
            entry: the entry, in use from now on.
            source: what it is a copy of, shown to people.
        """
        self._descriptor: int | None = _lock(_use_of(entry), fcntl.LOCK_SH, wait=True)
        if source and not os.fstat(self._descriptor).st_size:
            os.write(self._descriptor, masked(source).encode())
        os.utime(entry)

    def end(self) -> None:
        """Others may remove the entry now; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            self.end()


def _is_somebodys(entry: Path) -> bool:
    """Whether a folder was not made by this cache: it holds photos, and no lock or use file lies beside it.

    FGVR_CACHE may name a folder that holds somebody's own `images`; their photos must never be deleted to make room.
    """
    if entry.is_symlink():  # never made by this cache; what it points to stays
        return True
    if _KEY.match(entry.name) or _use_of(entry).exists() or lock_of(entry).exists():
        return False
    names = (name for _, _, files in os.walk(entry) for name in files)
    return any(name.lower().endswith(_PHOTOS) for name in names)


def _use_of(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}{USE}")


def entries(folder: Path) -> list[Entry]:
    """The entries in a kind's folder, least recently used first; a person's own photos are left out."""
    folders: list[Path] = []
    with suppress(FileNotFoundError):
        folders = [entry for entry in folder.iterdir() if entry.is_dir() and not _is_somebodys(entry)]
    found = [Entry(each, _size(each), _last_used(each), _busy(each), _source(each)) for each in folders]
    return sorted(found, key=lambda entry: entry.used)


def remove(entry: Entry, *, in_use: bool = False) -> bool:
    """Remove an entry unless a process is making or reading it; returns whether it is gone.

    Args:
        entry: the entry to remove.
        in_use: also remove one that is being read, by processes that keep its files open.
    """
    lock, use = lock_of(entry.folder), _use_of(entry.folder)
    try:
        with locked(lock, wait=False):
            if not in_use and _is_locked(use):
                return False
            gone = entry.folder.with_name(f".{entry.folder.name.lstrip('.')}.{uuid.uuid4().hex[:8]}")
            with suppress(FileNotFoundError):
                entry.folder.rename(gone)  # atomic: nobody finds half an entry
                shutil.rmtree(gone, ignore_errors=True)
            if not in_use:
                use.unlink(missing_ok=True)
            if not any(lock_of(other) == lock for other in entry.folder.parent.iterdir() if other.is_dir()):
                lock.unlink(missing_ok=True)
    except OSError:  # BlockingIOError: it is being made; any other: no permission
        return False
    return not entry.folder.exists()


def make_room(folder: Path, max_bytes: int, *, keep: Path | None = None, needed: int = 0, in_use: bool = False) -> None:
    """Remove the least recently used entries until `needed` more bytes fit below the limit and on the disk.

    Args:
        folder: the folder of one kind.
        max_bytes: limit for all its entries together.
        keep: an entry that must stay.
        needed: bytes that are about to be written.
        in_use: entries that are being read may go too, but after all others.
    """
    kept = entries(folder)
    total = needed + sum(entry.bytes for entry in kept)
    removable = [entry for entry in kept if entry.folder != keep and (in_use or not entry.busy)]
    for entry in sorted(removable, key=lambda entry: (entry.busy, entry.used)):
        if total <= max_bytes and free_bytes(folder) >= needed:
            return
        if remove(entry, in_use=in_use):
            total -= entry.bytes


def sweep(folder: Path) -> None:
    """Remove lock files whose entry is gone."""
    names = {lock_of(entry) for entry in folder.iterdir() if entry.is_dir()}
    for file in folder.iterdir():
        alone = file not in names if file.suffix == LOCK else not file.with_suffix("").is_dir()
        if file.suffix in {LOCK, USE} and alone and file.is_file():
            with suppress(OSError), locked(file, wait=False):
                file.unlink()


def total(kept: Iterable[Entry]) -> int:
    """Bytes of all these entries."""
    return sum(entry.bytes for entry in kept)


def _source(entry: Path) -> str:
    with suppress(OSError):
        return _use_of(entry).read_text(errors="replace")
    return ""


def _busy(entry: Path) -> bool:
    return _is_locked(lock_of(entry)) or _is_locked(_use_of(entry))


def _is_locked(path: Path) -> bool:
    """Whether any process holds a lock on the file, shared or exclusive."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _last_used(entry: Path) -> float:
    with suppress(FileNotFoundError):  # another process may just have renamed or removed it
        return entry.stat().st_mtime
    return time.time()


def _size(entry: Path) -> int:
    size = 0
    for file in entry.rglob("*"):
        with suppress(OSError):
            size += 0 if file.is_dir() else file.lstat().st_size
    return size
