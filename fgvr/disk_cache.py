"""What this machine keeps on its disk because it can be fetched or computed again: bounded, shared, and cleaned.

Everything lies below `root()`, a folder for each kind, and in it an entry (a folder) for each thing. Two files beside
an entry say who is at it: `<key>.lock` is held while it is made, updated or removed, `<entry>.use` is shared by all
processes that read it. The system frees both when a process dies. What was used longest ago goes first where room is
needed, and nothing that a living process reads.
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
"""Of what is fetched, where FGVR_CACHE_GB does not say; at most a quarter of the disk."""
FETCHED, IMAGES = "folders", "images"
KINDS = {FETCHED: "fetched from object stores: models, checkpoints, vectors", IMAGES: "decoded training images"}
LOCK, USE = ".lock", ".use"
_KEY = re.compile(r"\.?[0-9a-f]{16,20}(?![^.-])")
_PHOTOS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".heic", ".webp", ".gif", ".bmp", ".dng", ".cr2", ".nef", ".arw")
LOOK_SECONDS = 0.2
HOW_TO_CLEAN = "python pipelines/cache.py shows and cleans what lies there, and FGVR_CACHE names another folder"


class CacheError(UserError, OSError):
    """The cache folder cannot be used, or its bound is no number; the message names the variable."""


@dataclass(frozen=True)
class Entry:
    """A thing that is kept.

    Attributes:
        folder: where it lies.
        bytes: of its files.
        used: when it was last asked for, seconds since 1970.
        busy: a process reads it or makes it.
        source: what it is a copy of, where that is known.
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
    """Bytes that all that is fetched into `folder` may take: FGVR_CACHE_GB, or what is usual on such a disk.

    Raises CacheError where FGVR_CACHE_GB is no number above 0.
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
    """The folder, or the nearest one above it that is there."""
    return next((place for place in [folder, *folder.parents] if place.exists()), Path("/"))


def free_bytes(folder: Path) -> int:
    """What this user may still write to the disk of `folder`."""
    return shutil.disk_usage(_there(folder)).free


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """One process at a time. BlockingIOError without `wait`.

    Who waits gives signs of life: the one that works has a watchdog of its own.
    """
    descriptor = _lock(path, fcntl.LOCK_EX, wait=wait)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, kind: int, *, wait: bool) -> int:
    """A descriptor of the locked file; its lock ends with it."""
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
    """The lock of an entry: of its versions (`key-1`), and of the folders in which it is made (`.key.1`), too."""
    return entry.parent / f"{re.split('[.-]', entry.name.lstrip('.'))[0]}{LOCK}"


class Use:
    """An entry in use: nobody removes it until `end`, or until this process and its children end."""

    def __init__(self, entry: Path, source: str = "") -> None:
        """To be called under the entry's lock; raises OSError where the folder takes no file.

        Args:
            entry: in use from now on.
            source: what it is a copy of, for people.
        """
        self._descriptor: int | None = _lock(_use_of(entry), fcntl.LOCK_SH, wait=True)
        if source and not os.fstat(self._descriptor).st_size:
            os.write(self._descriptor, masked(source).encode())
        os.utime(entry)

    def end(self) -> None:
        """Others may remove it; the second time nothing happens."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            self.end()


def _is_somebodys(entry: Path) -> bool:
    """Whether a folder was not made here: photos in it, and nothing beside it that says who made or uses it.

    FGVR_CACHE may name a folder that holds an `images` of somebody's, whose photos must not be what makes room.
    """
    if entry.is_symlink():  # never made here; whatever it leads to stays
        return True
    if _KEY.match(entry.name) or _use_of(entry).exists() or lock_of(entry).exists():
        return False
    names = (name for _, _, files in os.walk(entry) for name in files)
    return any(name.lower().endswith(_PHOTOS) for name in names)


def _use_of(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}{USE}")


def entries(folder: Path) -> list[Entry]:
    """What is kept in a kind's folder, longest unused first; without a person's photos."""
    folders: list[Path] = []
    with suppress(FileNotFoundError):
        folders = [entry for entry in folder.iterdir() if entry.is_dir() and not _is_somebodys(entry)]
    found = [Entry(each, _size(each), _last_used(each), _busy(each), _source(each)) for each in folders]
    return sorted(found, key=lambda entry: entry.used)


def remove(entry: Entry, *, in_use: bool = False) -> bool:
    """Remove an entry unless a process makes it, or reads it; says whether it is gone.

    Args:
        entry: to be removed.
        in_use: also one that is read, by processes that keep its files open.
    """
    lock, use = lock_of(entry.folder), _use_of(entry.folder)
    try:
        with locked(lock, wait=False):
            if not in_use and _is_locked(use):
                return False
            gone = entry.folder.with_name(f".{entry.folder.name.lstrip('.')}.{uuid.uuid4().hex[:8]}")
            with suppress(FileNotFoundError):
                entry.folder.rename(gone)  # at once: nobody finds half of it
                shutil.rmtree(gone, ignore_errors=True)
            if not in_use:
                use.unlink(missing_ok=True)
            if not any(lock_of(other) == lock for other in entry.folder.parent.iterdir() if other.is_dir()):
                lock.unlink(missing_ok=True)
    except OSError:  # BlockingIOError: it is being made; others: it is not ours
        return False
    return not entry.folder.exists()


def make_room(folder: Path, max_bytes: int, *, keep: Path | None = None, needed: int = 0, in_use: bool = False) -> None:
    """Remove what was used longest ago until `needed` more bytes stay below the bound, and on the disk.

    Args:
        folder: of a kind.
        max_bytes: bound of all its entries.
        keep: an entry that stays.
        needed: bytes that are about to be written.
        in_use: entries that are read may go, too, but after all others.
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
    """Bytes of all of them."""
    return sum(entry.bytes for entry in kept)


def _source(entry: Path) -> str:
    with suppress(OSError):
        return _use_of(entry).read_text(errors="replace")
    return ""


def _busy(entry: Path) -> bool:
    return _is_locked(lock_of(entry)) or _is_locked(_use_of(entry))


def _is_locked(path: Path) -> bool:
    """Whether a process holds it, in any way."""
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
