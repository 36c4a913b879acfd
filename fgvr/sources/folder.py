"""A folder of images, on a disk or in an object store, searched recursively and listed as a stream.

Hidden files and folders (`.cache`, macOS's `._photo.jpg`) are no photos, nor is what NAS devices and systems put beside
them (`ingest.source.exclude`); what is left out is counted. A folder named `x.jpg` is a folder. Links that lead
nowhere, pipes and devices with an image's name are listed: reading them fails with a reason, and nothing is lost.
Links to what lies outside of the folder are followed where `ingest.limits.allowed_roots` names the place: a folder may
have come out of a stranger's archive. Those to folders are counted, those to photos are rows that fail.
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
    """A file: its URI, the names of the folders between the source's folder and it, and what a store says of it.

    `mark` tells it from the next version; it is empty on this machine, where a listing says nothing but names.
    `refused` is the URI of a row that fails in its place: a link to where the source may not lead.
    """

    uri: str
    folders: tuple[str, ...]
    mark: str = ""
    refused: str = ""


def list_folder(source: FolderSource, omissions: Omissions, allowed_roots: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Chunks of images below `source.path`, whose names end in one of the extensions.

    Args:
        source: the folder.
        omissions: counts what is left out.
        allowed_roots: as in `ingest.limits`; links may lead there.

    Raises:
        SourceError: no such folder, a folder that may not be read, or no image in it.
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
    """Those of `ingest.source.extensions` whose format this machine reads, in small letters."""
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
        # A photo that lies directly in a split's folder, or in the source's own, has no class.
        shortest = 1 if by_split else 0
        columns["class_name"] = [file.folders[-1] if len(file.folders) > shortest else None for file in found]
    return chunk(**columns)


def walk(path: str, names: LeftOutNames | None = None, allowed_roots: Sequence[str] = ()) -> Iterator[Found]:
    """All files below a folder or prefix as a stream, but those whose names, or a folder's above them, `names` has.

    Raises:
        SourceError: no such folder, or one that may not be read.
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
        except OSError as error:  # no permission, a disk's error, a folder that was removed meanwhile
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
    except OSError:  # a link in a circle, or to where nobody may look: its row will fail with the reason
        return False


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


def _walk_remote(path: str, left_out: LeftOutNames) -> Iterator[Found]:
    fs, root = storage.resolve(path)
    protocol = path.split("://", 1)[0].lower()
    if "s3" in fs.protocol:
        return _walk_s3(fs, root.rstrip("/"), protocol, path, left_out)
    return _walk_folders(fs, root.rstrip("/"), protocol, left_out)


def _walk_folders(fs: fsspec.AbstractFileSystem, root: str, protocol: str, left_out: LeftOutNames) -> Iterator[Found]:
    """Folder by folder, the names of one in memory at a time."""
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
    """Page by page of 1,000 keys, in the order of the keys: s3fs would hold all objects of a folder, as dictionaries.

    Ten million keys are ten thousand requests. s3fs repeats one that fails for a passing reason.
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
            if not left_out.has_within(inside) and name:  # a key that ends in a slash is a folder
                mark = f"{entry.get('ETag')}:{entry.get('Size')}"
                yield Found(f"{protocol}://{bucket}/{key}", tuple(part for part in folders if part), mark)
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]
