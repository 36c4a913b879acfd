"""Files on local disks and object stores, addressed alike: paths, `file://`, `s3://` and whatever else fsspec knows.

Object stores have no rename, and a PUT is atomic there; on a local disk a rename is atomic and a write is not.
`write_bytes` hides the difference: a reader sees the whole new file or none of it. That holds for a machine that loses
its power, too: a renamed file whose bytes the system had not written yet would be there, and empty.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import fsspec
from fsspec import asyn
from fsspec.core import url_to_fs

from fgvr import disk_cache, liveness
from fgvr.errors import UserError
from fgvr.storage_errors import StorageFull, cannot_write, full_disk, patient

if TYPE_CHECKING:
    import pyarrow.fs as pafs


# What object stores say of a file's version, by the names that fsspec's implementations give it.
CHANGE_MARKS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")

_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""What disks without hard links answer (exFAT, some network drives)."""

FILE = "file://"
_KERNEL = re.compile(r"/(?:proc|sys|dev(?!/shm/))(?:/|$)")
_CHAIN = re.compile(r"::[a-z][a-z0-9+.-]*://", re.IGNORECASE)
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf", "memory"})
"""Protocols of fsspec that lead to the store of the environment's credentials, and to no host that the URI names."""


def resolve(uri: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of `uri` and the path inside it.

    Credentials and endpoints come from the environment as for every AWS tool (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT_URL` …), so that they never stand in a config.
    """
    if is_local(uri):  # not through url_to_fs, to which "::" in a name is a chain of file systems
        return fsspec.filesystem("file"), str(local_path(uri).expanduser().absolute())
    text = small_scheme(uri)
    # Others write to the same folders: a listing from a while ago hides their files, and shows what is gone.
    fresh = {} if "::" in text and not is_object_store(text) else {"use_listings_cache": False}
    if is_object_store(text):  # "::" is a part of the key
        kind = fsspec.get_filesystem_class(text.partition("://")[0])
        given = {**kind._get_kwargs_from_urls(text), **fresh, **patient(text)}
        return fsspec.filesystem(text.partition("://")[0], **given), str(kind._strip_protocol(text))
    fs, path = url_to_fs(text, **fresh, **patient(text))
    return fs, path


def small_scheme(uri: str | Path) -> str:
    """`uri` with its scheme in small letters, as it counts (RFC 3986, 3.1): s3:// for S3://."""
    text = str(uri)
    scheme, separator, rest = text.partition("://")
    return f"{scheme.lower()}://{rest}" if separator else text


def is_local(uri: str | Path) -> bool:
    """Whether `uri` is a plain path or `file://`."""
    text = str(uri)
    return "://" not in text or text[:7].lower() == FILE


def is_object_store(uri: str | Path) -> bool:
    """Whether `uri` leads to an object store, where "::" belongs to the key (`s3://bucket/a::b.jpg`).

    What looks like one of fsspec's chains (`simplecache::http://…`, `s3://bucket/x::http://…`) could lead anywhere.
    """
    protocol, separator, rest = str(uri).partition("://")
    return bool(separator) and protocol.lower() in OBJECT_STORES and _CHAIN.search(rest) is None


def local_path(uri: str | Path) -> Path:
    """The path of a local `uri`: a plain path literally, `file://` with percent-encoded bytes decoded.

    So a name that is not UTF-8 has a URI too: file:///photos/caf%E9.jpg. Raises ValueError for a remote `uri`.
    """
    text = str(uri)
    if not is_local(uri):
        raise ValueError(f"{text} is not on this machine's file system")
    if text[:7].lower() != FILE:
        return Path(text)
    return Path(os.fsdecode(unquote_to_bytes(text[7:].removeprefix("localhost"))))


def file_uri(path: Path) -> str:
    """The absolute path itself as text or, where it is not UTF-8, a `file://` URI with those bytes percent-encoded."""
    try:
        text = str(path.absolute())
        text.encode()
    except UnicodeEncodeError:
        return path.absolute().as_uri()
    return text


class NotRegular(OSError):
    """Not a regular file, or one of the kernel's: reading it could wait for ever, or do something."""


def open_regular(path: Path) -> IO[bytes]:
    """A local file for reading, without a buffer; never opens a pipe, a socket or a device, and never waits.

    Files below /proc and /sys, and below /dev but for shared memory, are the kernel's, and some that call themselves
    regular wait for events. Links are followed. Raises FileNotFoundError, and OSError for what may not be read.
    """
    facts = path.stat()
    real = os.path.realpath(path)
    if not stat.S_ISREG(facts.st_mode) or _KERNEL.match(real):
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
        raise NotRegular(f"{path} is {kind}")
    # It may be exchanged between the look and the opening, which must not wait then either.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegular(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def join(uri: str | Path, *parts: str) -> str:
    """`uri` extended by path segments, with `/` between them."""
    return "/".join([str(uri).rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(uri: str | Path) -> str:
    """A local path made absolute (workers have other working directories); a remote one unchanged."""
    return str(local_path(uri).expanduser().absolute()) if is_local(uri) else small_scheme(uri).rstrip("/")


def canonical(uri: str | Path) -> str:
    """The place that a URI means, however it is spelled: for fingerprints.

    A local one against the working directory, with its links followed: a link that leads elsewhere now is another
    place. Of a remote one the key as it is, without the slashes at its end.
    """
    if not is_local(uri):
        return absolute(uri)
    return file_uri(Path(os.path.realpath(local_path(uri).expanduser())))


def exists(uri: str | Path) -> bool:
    """Whether a file or folder is there."""
    fs, path = resolve(uri)
    return bool(fs.exists(path))


def read_bytes(uri: str | Path, start: int | None = None, end: int | None = None) -> bytes:
    """The whole file, or its bytes from `start` to before `end` (those that there are); raises FileNotFoundError."""
    fs, path = resolve(uri)
    return bytes(fs.cat_file(path, start=start, end=end))


class TooSlow(OSError):
    """A store did not give a file's bytes in the time that there was."""


def cat_within(
    fs: fsspec.AbstractFileSystem, path: str, start: int | None, end: int | None, seconds: float = math.inf
) -> bytes:
    """As `fs.cat_file`, in so many seconds at most, all tries included, and in less where it could be taken for a hang.

    For images: one of them may fail. What all rows need is read by `read_bytes`, which waits as long as tries last.

    Raises:
        TooSlow: that time is over. A store's library waits for each piece, and a piece may be a byte.
    """
    seconds = liveness.longest_wait(seconds)
    if math.isinf(seconds) or not getattr(fs, "async_impl", False):
        return bytes(fs.cat_file(path, start=start, end=end))
    try:
        return bytes(asyn.sync(fs.loop, fs._cat_file, path, start=start, end=end, timeout=seconds))
    except asyn.FSTimeoutError as error:
        raise TooSlow(
            f"{path}: not read in {seconds:.0f} s (ingest.limits.web.total_seconds, or half of "
            "cluster.limits.silent_minutes)"
        ) from error


def write_bytes(uri: str | Path, data: bytes) -> None:
    """Write a whole file atomically, its folders included; replaces what was there."""
    if is_local(uri):
        target = local_path(uri)
        with _beside(target, data) as whole:
            whole.replace(target)
        return
    fs, path = resolve(uri)
    fs.pipe_file(path, data)


def create_bytes(uri: str | Path, data: bytes) -> bool:
    """Write a whole file where none is, its folders included; False where one is there, or another was quicker.

    Of any number of writers at once, on however many machines, one alone is told True: a hard link on local disks and
    NFS, `If-None-Match: *` on S3. `data` must differ from what any other writer would write (a token in it), since an
    answer that is lost on the network is asked for again, and then what is there says whose it is.
    """
    if not is_local(uri):
        fs, path = resolve(uri)
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return read_bytes(uri) == data
        return read_bytes(uri) == data  # a store that knows no conditions overwrites: the last writer has it
    target = local_path(uri)
    with _beside(target, data) as whole:
        return _linked(whole, target)


@contextmanager
def _beside(target: Path, data: bytes) -> Iterator[Path]:
    """A whole file on the disk beside `target`, whose folders are made; gone after the block. A full disk is told.

    Hidden and unique: a killed writer leaves nothing that a listing would take for data.
    """
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        with full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                _to_disk(file)
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _linked(whole: Path, target: Path) -> bool:
    """Give a file that is whole its name, if nobody has that name."""
    try:
        os.link(whole, target)
    except FileExistsError:
        return whole.stat().st_nlink == 2  # NFS: the first answer was lost, and the link is ours
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            with target.open("xb") as file:  # a reader may see it before it is whole
                file.write(whole.read_bytes())
                _to_disk(file)
        except FileExistsError:
            return False
    return True


@contextmanager
def new_file(uri: str | Path) -> Iterator[IO[bytes]]:
    """A file that is written piece by piece, for what should not be held whole; atomic as `write_bytes`.

    An object store gets it from a temporary file on this machine when all is written; where writing raises, nothing
    appears at `uri`. A full disk is told as one.
    """
    local = local_path(uri) if is_local(uri) else None
    with full_disk(local or Path(tempfile.gettempdir())):
        if local is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=None if local is None else local.parent, prefix=".") as folder:
            temporary = Path(folder) / "file"
            with temporary.open("wb") as file:
                yield file
                if local is not None:
                    _to_disk(file)
            if local is not None:
                temporary.replace(local)
            else:
                fs, path = resolve(uri)
                fs.put_file(str(temporary), path)


def _to_disk(file: IO[bytes]) -> None:
    """Wait until the bytes are on the disk, before the file gets its name."""
    file.flush()
    os.fsync(file.fileno())


def remove(uri: str | Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens when it is not there."""
    fs, path = resolve(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def list_files(folder: str | Path, suffix: str = "") -> list[str]:
    """Names (not paths) of the files directly in `folder` that end in `suffix`, sorted; empty when there is none."""
    return [name for name in list_entries(folder)[0] if name.endswith(suffix)]


def list_entries(folder: str | Path) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders directly in `folder`, sorted, without hidden ones; empty where none is."""
    fs, path = resolve(folder)
    try:
        if is_local(folder):
            with os.scandir(path) as found:  # fsspec asks the disk about each file: 40 times as long
                there = [(entry.name, entry.is_dir(), entry.is_file()) for entry in found]
        else:
            fs.invalidate_cache(path)  # another process may have written since the last listing
            kinds = [(entry["name"].rstrip("/"), entry["type"]) for entry in fs.ls(path, detail=True)]
            own = path.rstrip("/")  # a file in the folder's place, and what consoles make of an empty folder
            there = [(Path(name).name, kind == "directory", kind == "file") for name, kind in kinds if name != own]
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    shown = [entry for entry in there if not entry[0].startswith(".")]
    return sorted(name for name, _, is_file in shown if is_file), sorted(name for name, is_dir, _ in shown if is_dir)


def arrow_filesystem(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """The same place for pyarrow and Ray, which want a `pyarrow.fs.FileSystem`."""
    import pyarrow.fs as pafs

    fs, path = resolve(uri)
    if is_local(uri):
        return pafs.LocalFileSystem(), path
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), path


def cache_folder(name: str) -> Path:
    """Where this machine keeps what can be fetched or computed again: FGVR_CACHE, or ~/.cache/fgvr."""
    return disk_cache.root() / name


class NameLeadsOut(UserError, ValueError):
    """A name of a stranger's listing that would be a path to elsewhere on this machine."""


def leads_out(name: str) -> bool:
    """Whether a relative name of a listing, an index or a manifest, with `/`, may be a path out of its folder.

    By the rules of every system, since a folder that one machine fetches may be read by another: `..`, absolute
    parts, backslashes, drive letters, and what no path can hold. Object stores and archives allow them all.
    """
    parts = name.split("/")
    odd = any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in parts)
    return odd or re.match(r"[A-Za-z]:", name) is not None


def check_below(names: Iterable[str], uri: str | Path) -> None:
    """Raises NameLeadsOut where one of the names below `uri` cannot be a file below a local folder."""
    known = set(names)
    for name in sorted(known):
        above = next((part for part in _folders_above(name) if part in known), None)
        if leads_out(name) or above is not None:
            what = "leads out of its folder" if above is None else f"makes a folder of {above!r}, which is a file, too"
            raise NameLeadsOut(
                f"{uri}: the name {name!r} {what}, so nothing of it was fetched. Who keeps that place has to remove "
                "it; a copy without it serves as well"
            )


def _folders_above(name: str) -> Iterator[str]:
    """`a/b` and `a` of `a/b/c`."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


_IN_USE: dict[Path, disk_cache.Use] = {}
"""Copies that this process was given: nobody removes them while it lives."""
Choose = Callable[[list[str]], Iterable[str]]
"""Those of a folder's file names (relative, with `/`) that are wanted."""


def fetch_folder(uri: str | Path, choose: Choose | None = None) -> Path:
    """A local copy of a folder (a model, a checkpoint): the folder itself if it is local, else a cached download.

    The cache key holds names, sizes and time stamps, so a changed remote folder is fetched again. Copies that were
    not used for the longest time make room for it (`fgvr.disk_cache`); this one stays while this process lives.

    Args:
        uri: of the folder.
        choose: which files are needed; None: all.

    Raises:
        FileNotFoundError: nothing is there.
        NameLeadsOut: a wanted file's name leads out of the folder, or two of them cannot both be files.
        StorageFull: the cache's disk has no room for it.
        CacheError: the cache's folder cannot be written, or its bound is no number.
    """
    if is_local(uri):
        folder = local_path(uri)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder")
        return folder
    fs, path = resolve(uri)
    found = fs.find(path, detail=True)
    if not found:
        raise FileNotFoundError(f"there is nothing at {uri}")
    files = {name.removeprefix(path).removeprefix("/"): info for name, info in found.items()}
    # What consoles make of an empty folder: a key of no bytes that ends in a slash.
    files = {name: info for name, info in files.items() if info["size"] or (name and not name.endswith("/"))}
    if choose is not None:
        files = {name: files[name] for name in choose(list(files))}
    check_below(files, uri)
    marks = [(name, info["size"], *(str(info.get(mark)) for mark in CHANGE_MARKS)) for name, info in files.items()]
    key = hashlib.sha256(repr([str(uri), sorted(marks)]).encode()).hexdigest()[:16]
    cache = cache_folder(disk_cache.FETCHED) / key
    with _cache_errors(cache, str(uri)):
        cache.parent.mkdir(parents=True, exist_ok=True)
        # Workers of one machine start together: one fetches the model, the others wait for its copy.
        with disk_cache.locked(disk_cache.lock_of(cache)):
            if not cache.is_dir():
                _fetch(fs, files, cache)
            if cache not in _IN_USE:
                _IN_USE[cache] = disk_cache.Use(cache, str(uri))
    return cache


def fetch_file(uri: str | Path) -> Path:
    """A local copy of one file, as `fetch_folder` keeps them; a local file itself. Raises FileNotFoundError, too."""
    if is_local(uri):
        return local_path(uri).expanduser()
    folder, _, name = str(uri).rpartition("/")

    def alone(names: list[str]) -> list[str]:
        if name not in names:
            raise FileNotFoundError(f"there is no file {uri}")
        return [name]

    return fetch_folder(folder, alone) / name


def forget_folder(folder: Path) -> None:
    """Remove what `fetch_folder` gave, unless another process uses it; nothing happens to a folder that was local."""
    use = _IN_USE.pop(folder, None)
    if use is not None:
        use.end()
        for entry in disk_cache.entries(folder.parent):
            if entry.folder == folder:
                disk_cache.remove(entry)


@contextmanager
def _cache_errors(cache: Path, uri: str) -> Iterator[None]:
    """What the cache's disk refuses, in words; a copy that is there can be read where nothing can be written."""
    try:
        with full_disk(cache, f"It is to hold a copy of {uri}: {disk_cache.HOW_TO_CLEAN}"):
            yield
    except (StorageFull, FileNotFoundError):
        raise
    except OSError as error:
        if not cannot_write(error):
            raise
        if not cache.is_dir():
            raise disk_cache.CacheError(
                f"{cache}: a copy of {uri} cannot be written there ({error.strerror}): set FGVR_CACHE to a folder "
                "that can be written"
            ) from error


def _fetch(fs: fsspec.AbstractFileSystem, files: dict[str, dict[str, Any]], cache: Path) -> None:
    """Copy `files`, by their names in the folder, to `cache`, which is there only when it is whole."""
    needed = sum(int(info["size"] or 0) for info in files.values())
    disk_cache.make_room(cache.parent, disk_cache.bound(cache.parent), needed=needed)
    with tempfile.TemporaryDirectory(dir=cache.parent, prefix=f".{cache.name}.") as temporary:
        fetched = Path(temporary) / "folder"
        for name, info in files.items():
            inside = fetched / name
            inside.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(info["name"], str(inside))
        try:
            fetched.rename(cache)
        except OSError:
            if not cache.is_dir():  # another machine that shares this folder was quicker: its copy serves as well
                raise


def put_folder(local: Path, uri: str | Path) -> None:
    """Copy the files of a local folder to `uri`, each atomically, replacing files of the same names."""
    for file in sorted(local.rglob("*")):
        if file.is_file():
            target = join(uri, file.relative_to(local).as_posix())
            if is_local(uri):
                with file.open("rb") as source, new_file(target) as copy:
                    shutil.copyfileobj(source, copy, 2**20)
            else:
                fs, path = resolve(target)
                fs.put_file(str(file), path)
