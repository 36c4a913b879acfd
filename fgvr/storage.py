"""Files on local disks and in object stores under one interface: paths, `file://`, `s3://` and what else fsspec knows.

Object stores have no rename, but a PUT is atomic; on a local disk a rename is atomic, but a write is not.
`write_bytes` hides the difference: a reader sees the whole new file or none of it. It also syncs the bytes to disk
first: otherwise a power loss could leave a file that was renamed but is empty.
"""

from __future__ import annotations

import errno
import hashlib
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
from fsspec.core import url_to_fs

from fgvr import disk_cache, store_waits
from fgvr.errors import UserError
from fgvr.storage_errors import StorageFull, cannot_write, full_disk, patient
from fgvr.store_removal import remove_exactly

if TYPE_CHECKING:
    import pyarrow.fs as pafs


# The fields in which object stores state a file's version, as fsspec's implementations name them.
CHANGE_MARKS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")

_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""Errors of disks that do not support hard links (exFAT, some network drives)."""

FILE = "file://"
_KERNEL = re.compile(r"/(?:proc|sys|dev(?!/shm/))(?:/|$)")
_CHAIN = re.compile(r"::[a-z][a-z0-9+.-]*://", re.IGNORECASE)
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf", "memory"})
"""fsspec protocols that use the environment's credentials and endpoint, and no host named in the URI."""

_SAME_STORE = {"s3a": "s3", "gcs": "gs", "abfss": "abfs"}
"""Protocols that are other names of one."""


def resolve(uri: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of `uri` and the path inside it.

    Credentials and endpoints come from the environment, as for every AWS tool (`AWS_ACCESS_KEY_ID`,
    `AWS_ENDPOINT_URL` …), so that they never have to be written in a config. No call to a store waits without limit
    (`fgvr.store_waits`).
    """
    if is_local(uri):  # not through url_to_fs, which takes "::" in a name for a chain of file systems
        return fsspec.filesystem("file"), str(local_path(uri).expanduser().absolute())
    store_waits.limit_waits()
    text = small_scheme(uri)
    # Other processes write to the same folders: an old listing lacks new files, and shows removed ones.
    fresh = {} if "::" in text and not is_object_store(text) else {"use_listings_cache": False}
    if is_object_store(text):  # "::" is part of the key
        kind = fsspec.get_filesystem_class(text.partition("://")[0])
        given = {**kind._get_kwargs_from_urls(text), **fresh, **patient(text)}
        return fsspec.filesystem(text.partition("://")[0], **given), str(kind._strip_protocol(text))
    fs, path = url_to_fs(text, **fresh, **patient(text))
    return fs, path


def small_scheme(uri: str | Path) -> str:
    """`uri` with its scheme in lower case, since schemes ignore case (RFC 3986, 3.1): s3:// for S3://."""
    text = str(uri)
    scheme, separator, rest = text.partition("://")
    return f"{scheme.lower()}://{rest}" if separator else text


def is_local(uri: str | Path) -> bool:
    """Whether `uri` is a plain path or `file://`."""
    text = str(uri)
    return "://" not in text or text[:7].lower() == FILE


def is_object_store(uri: str | Path) -> bool:
    """Whether `uri` is in an object store, where "::" belongs to the key (`s3://bucket/a::b.jpg`).

    What looks like an fsspec chain (`simplecache::http://…`, `s3://bucket/x::http://…`) could lead to any host.
    """
    protocol, separator, rest = str(uri).partition("://")
    return bool(separator) and protocol.lower() in OBJECT_STORES and _CHAIN.search(rest) is None


def local_path(uri: str | Path) -> Path:
    """The path of a local `uri`: a plain path is taken literally, in `file://` percent-encoded bytes are decoded.

    So names that are not UTF-8 have a URI too: file:///photos/caf%E9.jpg. Raises ValueError for a remote `uri`.
    """
    text = str(uri)
    if not is_local(uri):
        raise ValueError(f"{text} is not on this machine's file system")
    if text[:7].lower() != FILE:
        return Path(text)
    return Path(os.fsdecode(unquote_to_bytes(text[7:].removeprefix("localhost"))))


def file_uri(path: Path) -> str:
    """The absolute path as text or, if it is not UTF-8, as a `file://` URI with those bytes percent-encoded."""
    try:
        text = str(path.absolute())
        text.encode()
    except UnicodeEncodeError:
        return path.absolute().as_uri()
    return text


class NotRegular(OSError):
    """Not a regular file, or one of the kernel's: reading it could block for ever, or have side effects."""


def open_regular(path: Path) -> IO[bytes]:
    """Open a local file for reading, unbuffered; never opens a pipe, socket or device, and never blocks.

    Files below /proc and /sys, and below /dev except shared memory, belong to the kernel; some of them are marked as
    regular but block until an event. Links are followed. Raises FileNotFoundError, or OSError if it cannot be read.
    """
    facts = path.stat()
    real = os.path.realpath(path)
    if not stat.S_ISREG(facts.st_mode) or _KERNEL.match(real):
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
        raise NotRegular(f"{path} is {kind}")
    # The file may be replaced between the check and the opening, which must not block then either.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegular(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def join(uri: str | Path, *parts: str) -> str:
    """`uri` extended by path segments, with `/` between them."""
    return "/".join([str(uri).rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(uri: str | Path) -> str:
    """A local path made absolute, since workers have other working directories; a remote one unchanged."""
    return str(local_path(uri).expanduser().absolute()) if is_local(uri) else small_scheme(uri).rstrip("/")


def canonical(uri: str | Path) -> str:
    """The place that a URI refers to, however it is spelled: for fingerprints.

    A local path is made absolute and its links are followed: if a link leads elsewhere now, it is another place. A
    remote key is kept as it is, without trailing slashes; s3a:// is s3://, and a web server's name has small letters.
    """
    if is_local(uri):
        return file_uri(Path(os.path.realpath(local_path(uri).expanduser())))
    scheme, _, rest = absolute(uri).partition("://")
    if scheme in {"http", "https"}:
        host, slash, path = rest.partition("/")
        user, at, server = host.rpartition("@")
        rest = f"{user}{at}{server.lower()}{slash}{path}"
    return f"{_SAME_STORE.get(scheme, scheme)}://{rest}"


def exists(uri: str | Path) -> bool:
    """Whether a file or folder exists."""
    fs, path = resolve(uri)
    return bool(fs.exists(path))


def read_bytes(uri: str | Path, start: int | None = None, end: int | None = None) -> bytes:
    """The whole file, or its bytes [start, end) as far as they exist; raises FileNotFoundError."""
    fs, path = resolve(uri)
    return bytes(fs.cat_file(path, start=start, end=end))


def write_bytes(uri: str | Path, data: bytes) -> None:
    """Write a whole file atomically and make its folders; replaces an existing file."""
    if is_local(uri):
        target = local_path(uri)
        with _beside(target, data) as whole:
            whole.replace(target)
        return
    fs, path = resolve(uri)
    fs.pipe_file(path, data)


def create_bytes(uri: str | Path, data: bytes) -> bool:
    """Create a file with all its bytes and make its folders; False if the file exists or another writer was faster.

    Of any number of concurrent writers, on any number of machines, exactly one gets True: by a hard link on local
    disks and NFS, by `If-None-Match: *` on S3. `data` must differ from what any other writer would write (put a token
    into it): after a reply lost on the network the request is repeated, and the content then says whose file it is.
    """
    if not is_local(uri):
        fs, path = resolve(uri)
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return read_bytes(uri) == data
        return read_bytes(uri) == data  # a store without conditional writes overwrites: the last writer wins
    target = local_path(uri)
    with _beside(target, data) as whole:
        return _linked(whole, target)


@contextmanager
def _beside(target: Path, data: bytes) -> Iterator[Path]:
    """A temporary file with `data` beside `target`, removed after the block; makes folders; reports a full disk.

    Its name is hidden and unique: a killed writer leaves nothing that a listing would take for data.
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
    """Give a complete file its final name, unless that name exists."""
    try:
        os.link(whole, target)
    except FileExistsError:
        return whole.stat().st_nlink == 2  # NFS: the first reply was lost, but the link was made
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            with target.open("xb") as file:  # not atomic: a reader may see part of it
                file.write(whole.read_bytes())
                _to_disk(file)
        except FileExistsError:
            return False
    return True


@contextmanager
def new_file(uri: str | Path) -> Iterator[IO[bytes]]:
    """A file written piece by piece, for content that should not be held in memory; atomic as `write_bytes`.

    An object store receives it at the end, from a temporary file on this machine; if writing raises, nothing appears
    at `uri`. A full disk is reported as such.
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
                _put_file(temporary, uri)


def _to_disk(file: IO[bytes]) -> None:
    """Wait until the bytes are on the disk, before the file gets its final name."""
    file.flush()
    os.fsync(file.fileno())


def remove(uri: str | Path) -> None:
    """Remove a file, or a folder with its content; does nothing if it does not exist."""
    fs, path = resolve(uri)
    if not is_local(uri):
        remove_exactly(fs, path)
    elif fs.exists(path):
        fs.rm(path, recursive=True)


def list_files(folder: str | Path, suffix: str = "") -> list[str]:
    """Sorted names (not paths) of the files directly in `folder` that end in `suffix`; empty if there is no folder."""
    return [name for name in list_entries(folder)[0] if name.endswith(suffix)]


def list_entries(folder: str | Path) -> tuple[list[str], list[str]]:
    """Sorted names of the files and of the folders directly in `folder`, without hidden ones; empty if none exists."""
    fs, path = resolve(folder)
    try:
        if is_local(folder):
            with os.scandir(path) as found:  # fsspec stats every file: 40 times slower
                there = [(entry.name, entry.is_dir(), entry.is_file()) for entry in found]
        else:
            fs.invalidate_cache(path)  # another process may have written since the last listing
            kinds = [(entry["name"].rstrip("/"), entry["type"]) for entry in fs.ls(path, detail=True)]
            own = path.rstrip("/")  # not the folder itself: a file of that name, or a console's empty key
            there = [(Path(name).name, kind == "directory", kind == "file") for name, kind in kinds if name != own]
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    shown = [entry for entry in there if not entry[0].startswith(".")]
    return sorted(name for name, _, is_file in shown if is_file), sorted(name for name, is_dir, _ in shown if is_dir)


def arrow_filesystem(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """The same place for pyarrow and Ray, which need a `pyarrow.fs.FileSystem`."""
    import pyarrow.fs as pafs

    from fgvr.arrow_handler import ExactNames

    fs, path = resolve(uri)
    if is_local(uri):
        return pafs.LocalFileSystem(), path
    return pafs.PyFileSystem(ExactNames(fs)), path


def cache_folder(name: str) -> Path:
    """The folder on this machine for what can be fetched or computed again: FGVR_CACHE, or ~/.cache/fgvr."""
    return disk_cache.root() / name


class NameLeadsOut(UserError, ValueError):
    """A name in a stranger's listing that cannot be that of a file below a local folder."""


MAX_PART = 255
"""Bytes of a file's or folder's name on all usual file systems."""
MAX_NAME = 3_800
"""Bytes of a whole name; a path may have 4,095, with the folder before it."""
SHOWN = 120
"""Characters of a name that a message shows."""


def leads_out(name: str) -> bool:
    """Whether a relative name (with `/`) in a listing, index or manifest could lead out of its folder.

    The rules of all systems apply, since a folder fetched on one machine may be read on another: `..`, absolute
    parts, backslashes, drive letters, and characters that no path can hold. Object stores and archives allow them all.
    """
    parts = name.split("/")
    odd = any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in parts)
    return odd or re.match(r"[A-Za-z]:", name) is not None


def check_below(names: Iterable[str], uri: str | Path) -> None:
    """Raises NameLeadsOut if one of the names below `uri` could not be a file below a local folder."""
    known = set(names)
    for name in sorted(known):
        wrong = "leads out of its folder" if leads_out(name) else _unlike_a_file(name)
        above = next((part for part in _folders_above(name) if part in known), None)
        if above is not None and wrong is None:
            wrong = f"makes a folder of {above[:SHOWN]!r}, which is a file, too"
        if wrong is not None:
            shown = f"{name[:SHOWN]!r}{' …' if len(name) > SHOWN else ''}"
            raise NameLeadsOut(
                f"{uri}: the name {shown} {wrong}, so nothing of it was fetched. Have its owner remove it, or use a "
                "copy without it"
            )


def _unlike_a_file(name: str) -> str | None:
    """Why no local path can have this name; None if one can."""
    try:
        sizes = [len(os.fsencode(part)) for part in name.split("/")]
    except UnicodeEncodeError:
        return "has characters that no file's name can have"
    if max(sizes) > MAX_PART:
        return f"has a part of {max(sizes):,} bytes, where file systems allow {MAX_PART}"
    whole = sum(sizes) + len(sizes) - 1
    return f"has {whole:,} bytes, more than a path may have" if whole > MAX_NAME else None


def _folders_above(name: str) -> Iterator[str]:
    """`a/b` and `a` for `a/b/c`."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


_IN_USE: dict[Path, disk_cache.Use] = {}
"""Copies that this process received: they are not removed while it lives."""
Choose = Callable[[list[str]], Iterable[str]]
"""A function that selects files: from all names in a folder (relative, with `/`) those that are wanted."""


def fetch_folder(uri: str | Path, choose: Choose | None = None) -> Path:
    """A local copy of a folder (a model, a checkpoint): the folder itself if it is local, else a cached download.

    The cache key holds names, sizes and time stamps, so a changed remote folder is fetched again. The least recently
    used copies make room for it (`fgvr.disk_cache`); this one stays while this process lives.

    Args:
        uri: of the folder.
        choose: selects the files that are needed; None: all.

    Raises:
        FileNotFoundError: there is nothing at `uri`.
        NameLeadsOut: a wanted file's name leads out of the folder, or is longer than a path may be, or two of them
            cannot both be files.
        StorageFull: the cache's disk has no room for it.
        CacheError: the cache folder cannot be written, or its limit is not a number.
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
    # The key that consoles create for an empty folder: zero bytes, and a name that ends in a slash.
    files = {name: info for name, info in files.items() if info["size"] or (name and not name.endswith("/"))}
    if choose is not None:
        files = {name: files[name] for name in choose(list(files))}
    check_below(files, uri)
    marks = [(name, info["size"], *(str(info.get(mark)) for mark in CHANGE_MARKS)) for name, info in files.items()]
    key = hashlib.sha256(repr([str(uri), sorted(marks)]).encode()).hexdigest()[:16]
    cache = cache_folder(disk_cache.FETCHED) / key
    with _cache_errors(cache, str(uri)):
        cache.parent.mkdir(parents=True, exist_ok=True)
        # Workers on one machine start together: one fetches the model, the others wait for its copy.
        with disk_cache.locked(disk_cache.lock_of(cache)):
            if not cache.is_dir():
                _fetch(fs, files, cache)
            if cache not in _IN_USE:
                _IN_USE[cache] = disk_cache.Use(cache, str(uri))
    return cache


def fetch_file(uri: str | Path) -> Path:
    """A local copy of one file, cached as by `fetch_folder`; a local file itself. Also raises FileNotFoundError."""
    if is_local(uri):
        return local_path(uri).expanduser()
    folder, _, name = str(uri).rpartition("/")

    def alone(names: list[str]) -> list[str]:
        if name not in names:
            raise FileNotFoundError(f"there is no file {uri}")
        return [name]

    return fetch_folder(folder, alone) / name


def forget_folder(folder: Path) -> None:
    """Remove a copy made by `fetch_folder`, unless another process uses it; a folder that was local is left alone."""
    use = _IN_USE.pop(folder, None)
    if use is not None:
        use.end()
        for entry in disk_cache.entries(folder.parent):
            if entry.folder == folder:
                disk_cache.remove(entry)


@contextmanager
def _cache_errors(cache: Path, uri: str) -> Iterator[None]:
    """Turns errors of the cache's disk into CacheError; an existing copy can be read even if nothing can be written."""
    try:
        with full_disk(cache, f"It is to hold a copy of {uri}: {disk_cache.HOW_TO_CLEAN}"):
            yield
    except (StorageFull, FileNotFoundError):
        raise
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise NameLeadsOut(
                f"{uri}: a name in it is too long for the disk of {cache.parent} ({str(error.filename)[-SHOWN:]}): set "
                "FGVR_CACHE to a shorter folder, or to one on another disk"
            ) from error
        if not cannot_write(error):
            raise
        if not cache.is_dir():
            raise disk_cache.CacheError(
                f"{cache}: a copy of {uri} cannot be written there ({error.strerror}): set FGVR_CACHE to a folder "
                "that can be written"
            ) from error


def _fetch(fs: fsspec.AbstractFileSystem, files: dict[str, dict[str, Any]], cache: Path) -> None:
    """Copy `files` (by their names in the folder) to `cache`, which appears only when it is complete."""
    needed = sum(int(info["size"] or 0) for info in files.values())
    disk_cache.make_room(cache.parent, disk_cache.bound(cache.parent), needed=needed)
    with tempfile.TemporaryDirectory(dir=cache.parent, prefix=f".{cache.name}.") as temporary:
        fetched = Path(temporary) / "folder"
        for name, info in files.items():
            inside = fetched / name
            inside.parent.mkdir(parents=True, exist_ok=True)
            with store_waits.transfer(int(info["size"] or 0)) as beats:
                fs.get_file(info["name"], str(inside), callback=beats)
        try:
            fetched.rename(cache)
        except OSError:
            if not cache.is_dir():  # another machine that shares this folder was faster: its copy is as good
                raise


def put_folder(local: Path, uri: str | Path) -> None:
    """Copy the files of a local folder to `uri`, each atomically; files of the same names are replaced."""
    for file in sorted(local.rglob("*")):
        if file.is_file():
            target = join(uri, file.relative_to(local).as_posix())
            if is_local(uri):
                with file.open("rb") as source, new_file(target) as copy:
                    shutil.copyfileobj(source, copy, 2**20)
            else:
                _put_file(file, target)


def _put_file(local: Path, uri: str | Path) -> None:
    """Upload a file; each sent piece of it counts as progress."""
    fs, path = resolve(uri)
    with store_waits.transfer(local.stat().st_size) as beats:
        fs.put_file(str(local), path, callback=beats)
