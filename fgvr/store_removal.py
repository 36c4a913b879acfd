"""Removal of files and folders of an object store by exactly their names.

fsspec's `rm` (and `cat`, `get`, `put`, `copy`, `mv`) take `*`, `?` and `[` in a path for a pattern: a run in
`s3://birds/run?` would remove files of `run1`. What works on one file (`rm_file`, `cp_file`, `cat_file`) and what lists
(`info`, `ls`, `find`) takes names as they are, in s3fs, gcsfs and adlfs, too.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import fsspec

AT_ONCE = 16
"""Requests at a time; s3fs's one for a thousand keys would hide that the store refused to remove some of them."""


def remove_exactly(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Remove the file or, with its content, the folder at `path` inside `fs`; nothing happens if there is none."""
    try:
        kind = fs.info(path)["type"]
    except FileNotFoundError:
        return
    if kind != "directory":
        _remove_file(fs, path)
        return
    remove_content(fs, path)
    if "/" in path.strip("/"):  # else it is the bucket
        _remove_empty_folder(fs, path)


def remove_content(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Remove all below the folder at `path` inside `fs`."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda name: _remove_file(fs, name), fs.find(path)):
            pass  # an error is raised here
    folders = [name for name in fs.find(path, withdirs=True) if name.rstrip("/") != path.rstrip("/")]
    for folder in sorted(folders, reverse=True):  # the deepest first
        _remove_empty_folder(fs, folder)


def _remove_file(fs: fsspec.AbstractFileSystem, path: str) -> None:
    with suppress(FileNotFoundError):  # another process was faster
        fs.rm_file(path)


def _remove_empty_folder(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Remove what a store keeps of a folder by itself: nothing in most, in Azure a file with a mark."""
    _remove_file(fs, path)
    with suppress(OSError):
        fs.rmdir(path)
