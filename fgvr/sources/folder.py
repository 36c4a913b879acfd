"""A folder of images, on a disk or in an object store, searched recursively and listed as a stream.

Left out and counted: hidden files and folders (`.cache`, macOS's `._photo.jpg`), and files that NAS devices and systems
put beside photos (`ingest.source.exclude`). A folder named `x.jpg` is a folder. Broken links, pipes and devices with an
image's name are listed: reading them fails with a reason, so nothing disappears. Links out of the folder are followed
only if `ingest.limits.allowed_roots` names their target, since the folder may come from an untrusted archive;
otherwise links to folders are counted, and links to photos become failing rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pyarrow as pa

from fgvr import storage
from fgvr.config.data import FolderSource
from fgvr.digests import version_of
from fgvr.images.formats import not_read_here
from fgvr.sources.allowed_places import AllowedPlaces, refused_uri
from fgvr.sources.omissions import LeftOutNames, Omissions, Why, ending_of, listed, sentences
from fgvr.sources.rows import CHUNK, SourceError, chunk


@dataclass(frozen=True)
class Found:
    """A file: its URI, the names of the folders between it and the source's folder, and its mark in the store.

    `mark` distinguishes versions of the file; it is empty for local files, whose listing gives names only.
    `refused` is the URI of a failing row that replaces it: a link to a place that the source may not read.
    """

    uri: str
    folders: tuple[str, ...]
    mark: str = ""
    refused: str = ""


def list_folder(source: FolderSource, omissions: Omissions, allowed_roots: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Chunks of the images below `source.path` whose names end in one of the extensions.

    Args:
        source: the folder.
        omissions: counts what is left out.
        allowed_roots: as in `ingest.limits`; places where links may lead.

    Raises:
        SourceError: the folder does not exist, cannot be read, or holds no image.
    """
    endings = readable_endings(source.extensions)
    images = 0
    pending: list[Found] = []
    for found in walk(source.path, LeftOutNames(source.exclude, omissions), allowed_roots):
        if not found.uri.lower().endswith(endings):
            omissions.count(Why.ENDING, ending_of(found.uri))
            continue
        images += 1
        pending.append(found)
        if len(pending) == CHUNK:
            yield _as_chunk(pending, source)
            pending = []
    if images == 0:
        raise _no_image(source, omissions)
    yield _as_chunk(pending, source)


def readable_endings(extensions: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `ingest.source.extensions` whose format this machine can read, in lower case."""
    unread = not_read_here(extensions)
    return tuple(ending for ending in map(str.lower, extensions) if ending not in unread)


def _no_image(source: FolderSource, omissions: Omissions) -> SourceError:
    facts = omissions.facts()
    others = facts.pop(Why.ENDING, {})
    there = [f"found: {listed(others)}"] if others else [] if facts else ["it is empty"]
    there += [*sentences(facts).values(), *sorted({not_read_here(source.extensions).get(what, "") for what in others})]
    return SourceError(
        f"ingest.source.path = {source.path}: no file ends in {', '.join(source.extensions)} "
        f"({'; '.join(filter(None, there))})"
    )


def _as_chunk(found: list[Found], source: FolderSource) -> pa.Table:
    columns: dict[str, object] = {"uri": [file.refused or file.uri for file in found]}
    by_split = source.split_from == "top"
    if by_split:
        columns["split"] = [file.folders[0] if file.folders else None for file in found]
    if source.class_from == "parent":
        # A photo directly in a split's folder, or in the source's folder, has no class.
        shortest = 1 if by_split else 0
        columns["class_name"] = [file.folders[-1] if len(file.folders) > shortest else None for file in found]
    return chunk(**columns)


def walk(path: str, names: LeftOutNames | None = None, allowed_roots: Sequence[str] = ()) -> Iterator[Found]:
    """All files below a folder or prefix as a stream, except those excluded by `names`, or inside an excluded folder.

    Raises:
        SourceError: a folder does not exist or cannot be read.
    """
    names = names or LeftOutNames((), Omissions())
    return _walk_local(path, names, allowed_roots) if storage.is_local(path) else _walk_remote(path, names)


def _walk_local(path: str, left_out: LeftOutNames, allowed_roots: Sequence[str]) -> Iterator[Found]:
    root = storage.local_path(path).expanduser().absolute()
    if not root.is_dir():
        what = "is a file; `kind: table` reads lists of URIs" if root.is_file() else "is not there"
        raise SourceError(f"ingest.source.path = {path}: {what}")
    trees, allowed = [root.resolve()], AllowedPlaces(str(root), str(root), allowed_roots, lists_own_files=True)
    waiting: list[tuple[str, tuple[str, ...]]] = [(str(root), ())]
    while waiting:
        folder, names = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if left_out.has(entry.name):
                        continue
                    outside = entry.is_symlink() and not allowed.allows_path(entry.path)
                    if not _is_folder(entry):
                        yield _found(entry, names, str(root) if outside else "")
                    elif outside:
                        left_out.omissions.count(Why.LINK, "folders")
                    elif not entry.is_symlink() or _is_new_tree(Path(entry.path), trees):
                        waiting.append((entry.path, (*names, _text(entry.name))))
        except OSError as error:  # no permission, a disk error, or a folder just removed
            raise SourceError(
                f"ingest.source.path = {path}: {folder} may not be read ({error.strerror}). Mend that, or leave it out "
                "by its name (ingest.source.exclude)"
            ) from error


def _found(entry: os.DirEntry[str], folders: tuple[str, ...], leads_out_of: str) -> Found:
    uri = entry.path if entry.path.isascii() else storage.file_uri(Path(entry.path))
    if not leads_out_of:
        return Found(uri, folders)
    target = _text(os.path.realpath(entry.path))
    return Found(uri, folders, refused=refused_uri(uri, target, leads_out_of))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link, or no permission: its row will fail with the reason
        return False


def _is_new_tree(link: Path, trees: list[Path]) -> bool:
    """Whether a link leads out of all trees that are searched anyway, so that circular links end."""
    target = link.resolve()
    if any(target.is_relative_to(tree) for tree in trees):
        return False
    trees.append(target)
    return True


def _text(name: str) -> str:
    r"""A folder's name as text; bytes that are not UTF-8 become `\xe4`, so that two folders stay two classes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _walk_remote(path: str, left_out: LeftOutNames) -> Iterator[Found]:
    fs, root = storage.resolve(path)
    protocol = path.split("://", 1)[0].lower()
    if "s3" in fs.protocol:
        return _walk_s3(fs, root.rstrip("/"), protocol, path, left_out)
    return _walk_folders(fs, root.rstrip("/"), protocol, left_out)


def _walk_folders(fs: fsspec.AbstractFileSystem, root: str, protocol: str, left_out: LeftOutNames) -> Iterator[Found]:
    """Folder by folder, with the names of only one in memory at a time."""
    for folder, folders, files in fs.walk(root, detail=True):
        for name in [name for name in folders if left_out.has(name)]:
            del folders[name]
        inside = tuple(part for part in folder.removeprefix(root).split("/") if part)
        for name, facts in files.items():
            if name and not left_out.has(name):
                yield Found(f"{protocol}://{folder}/{name}", inside, version_of(facts))
        fs.invalidate_cache(folder)


def _walk_s3(
    fs: fsspec.AbstractFileSystem, root: str, protocol: str, path: str, left_out: LeftOutNames
) -> Iterator[Found]:
    """Page by page of 1,000 keys, in key order; s3fs would hold all objects of a folder in memory, as dictionaries.

    Ten million keys need ten thousand requests. s3fs retries transient errors.
    """
    bucket, _, prefix = root.partition("/")
    request = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", **fs.req_kw}
    while True:
        try:
            page = fs.call_s3("list_objects_v2", **request)
        except (FileNotFoundError, PermissionError) as error:
            raise SourceError(f"ingest.source.path = {path}: {error}") from error
        for entry in page.get("Contents", ()):
            key = entry["Key"]
            inside = key.removeprefix(request["Prefix"])
            *folders, name = inside.split("/")
            if not left_out.has_within(inside) and name:  # a key that ends in a slash stands for a folder
                mark = f"{entry.get('ETag')}:{entry.get('Size')}"
                yield Found(f"{protocol}://{bucket}/{key}", tuple(part for part in folders if part), mark)
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]
