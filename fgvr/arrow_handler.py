"""The object stores of fsspec for pyarrow and Ray, by exactly the names that they give.

pyarrow's own handler removes, moves and copies through functions of fsspec that take `*`, `?` and `[` in a path for a
pattern (`fgvr.store_removal`). A module of its own, so that it can be pickled and scripts without tables import no
pyarrow.
"""

from __future__ import annotations

import pyarrow.fs as pafs

from fgvr.store_removal import remove_content, remove_exactly


class ExactNames(pafs.FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
    """`pyarrow.fs.FSSpecHandler` without patterns."""

    def delete_dir(self, path: str) -> None:
        """Remove a folder with its content; raises FileNotFoundError."""
        if not self.fs.isdir(path):
            raise FileNotFoundError(path)
        remove_exactly(self.fs, path)

    def delete_file(self, path: str) -> None:
        """Remove a file; raises FileNotFoundError."""
        if not self.fs.isfile(path):
            raise FileNotFoundError(path)
        self.fs.rm_file(path)

    def _delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        if self.fs.isdir(path):
            remove_content(self.fs, path)
        elif not missing_dir_ok:
            raise FileNotFoundError(path)

    def move(self, src: str, dest: str) -> None:
        """Copy a file or folder to `dest` and remove it at `src`; raises FileNotFoundError."""
        start, files = self.fs._strip_protocol(src), self.fs.find(src)
        if not files:
            raise FileNotFoundError(src)
        for name in files:
            self.fs.cp_file(name, dest + name.removeprefix(start))
        remove_exactly(self.fs, src)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy a file; raises FileNotFoundError."""
        self.fs.cp_file(src, dest)
