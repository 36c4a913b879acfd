"""A folder of images, on a disk or in an object store, searched recursively and listed as a stream.

Hidden files and folders (`.cache`, macOS's `._photo.jpg`) are no photos. A folder named `x.jpg` is a folder. Links that
lead nowhere, pipes and devices with an image's name are listed: reading them fails with a reason, and nothing is lost.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pyarrow as pa

from fgvr import storage
from fgvr.config.data import FolderSource
from fgvr.datasets.rows import CHUNK, SourceError, chunk


@dataclass(frozen=True)
class Found:
    """A file: its URI, and the names of the folders between the source's folder and it."""

    uri: str
    folders: tuple[str, ...]


def list_folder(source: FolderSource) -> Iterator[pa.Table]:
    """Chunks of images below `source.path`, whose names end in one of the extensions.

    Raises:
        SourceError: no such folder, a folder that may not be read, or no image in it.
    """
    endings = tuple(extension.lower() for extension in source.extensions)
    others: Counter[str] = Counter()
    images = 0
    pending: list[Found] = []
    for found in walk(source.path):
        if not found.uri.lower().endswith(endings):
            others[Path(found.uri).suffix.lower() or "no extension"] += 1
            continue
        images += 1
        pending.append(found)
        if len(pending) == CHUNK:
            yield _as_chunk(pending, source)
            pending = []
    if images == 0:
        there = ", ".join(f"{count} {ending}" for ending, count in others.most_common(5)) or "it is empty"
        raise SourceError(
            f"ingest.source.path = {source.path}: no file ends in {', '.join(source.extensions)} (found: {there})"
        )
    yield _as_chunk(pending, source)


def _as_chunk(found: list[Found], source: FolderSource) -> pa.Table:
    columns: dict[str, object] = {"uri": [file.uri for file in found]}
    by_split = source.split_from == "top"
    if by_split:
        columns["split"] = [file.folders[0] if file.folders else None for file in found]
    if source.class_from == "parent":
        # A photo that lies directly in a split's folder, or in the source's own, has no class.
        shortest = 1 if by_split else 0
        columns["class_name"] = [file.folders[-1] if len(file.folders) > shortest else None for file in found]
    return chunk(**columns)


def walk(path: str) -> Iterator[Found]:
    """All files below a folder or prefix that are not hidden, as a stream; raises SourceError."""
    return _walk_local(path) if storage.is_local(path) else _walk_remote(path)


def _walk_local(path: str) -> Iterator[Found]:
    root = storage.local_path(path).expanduser().absolute()
    if not root.is_dir():
        what = "is a file; `kind: table` reads lists of URIs" if root.is_file() else "is not there"
        raise SourceError(f"ingest.source.path = {path}: {what}")
    trees = [root.resolve()]
    waiting: list[tuple[str, tuple[str, ...]]] = [(str(root), ())]
    while waiting:
        folder, names = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if not entry.is_dir():
                        uri = entry.path if entry.path.isascii() else storage.file_uri(Path(entry.path))
                        yield Found(uri, names)
                    elif not entry.is_symlink() or _is_new_tree(Path(entry.path), trees):
                        waiting.append((entry.path, (*names, _text(entry.name))))
        except PermissionError as error:
            raise SourceError(f"ingest.source.path = {path}: {folder} may not be read ({error.strerror})") from error


def _is_new_tree(link: Path, trees: list[Path]) -> bool:
    """Whether a link leads out of all trees that are searched anyway, so that links in a circle come to an end."""
    target = link.resolve()
    if any(target.is_relative_to(tree) for tree in trees):
        return False
    trees.append(target)
    return True


def _text(name: str) -> str:
    """A folder's name as text; bytes that are not UTF-8 become replacement characters."""
    return os.fsencode(name).decode(errors="replace")


def _walk_remote(path: str) -> Iterator[Found]:
    fs, root = storage.resolve(path)
    if "s3" in fs.protocol:
        return _walk_s3(fs, root.rstrip("/"), path)
    return _walk_folders(fs, root.rstrip("/"), path.split("://", 1)[0])


def _walk_folders(fs: fsspec.AbstractFileSystem, root: str, protocol: str) -> Iterator[Found]:
    """Folder by folder, the names of one in memory at a time."""
    for folder, folders, files in fs.walk(root, detail=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = tuple(part for part in folder.removeprefix(root).split("/") if part)
        for name in files:
            if name and not name.startswith("."):
                yield Found(f"{protocol}://{folder}/{name}", inside)
        fs.invalidate_cache(folder)


def _walk_s3(fs: fsspec.AbstractFileSystem, root: str, path: str) -> Iterator[Found]:
    """Page by page of 1,000 keys, in the order of the keys: s3fs would hold all objects of a folder, as dictionaries.

    Ten million keys are ten thousand requests. s3fs repeats one that fails for a passing reason.
    """
    protocol = path.split("://", 1)[0]
    bucket, _, prefix = root.partition("/")
    request = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", **fs.req_kw}
    while True:
        try:
            page = fs.call_s3("list_objects_v2", **request)
        except (FileNotFoundError, PermissionError) as error:
            raise SourceError(f"ingest.source.path = {path}: {error}") from error
        for entry in page.get("Contents", ()):
            key = entry["Key"]
            *folders, name = key.removeprefix(request["Prefix"]).split("/")
            if name and not any(part.startswith(".") for part in (*folders, name)):
                yield Found(f"{protocol}://{bucket}/{key}", tuple(part for part in folders if part))
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]
