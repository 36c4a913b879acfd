r"""Paths in a table that was written on Windows: `images\0.png` is read as images/0.png where the photos lie so."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fgvr import storage

TRIED: Final = 5
"""Paths that are looked for; a question a row would take hours for millions."""


class Backslashes:
    """Turns the backslashes of a table's paths, once a few of the first are found that way and not as they stand.

    Elsewhere than on Windows a backslash may be part of a name.
    """

    def __init__(self, folder: str) -> None:
        """Relative paths start at `folder`."""
        self._folder = folder
        self._turns: bool | None = None
        self._count = 0
        self._example = ""
        self._there = False

    def turned(self, uris: pa.Array) -> pa.Array:
        """URIs as text, with `/` for a backslash where the photos lie so."""
        windows = pc.and_(
            pc.match_substring_regex(uris, r"\\|^[A-Za-z]:/"), pc.invert(pc.match_substring(uris, "://"))
        ).fill_null(False)
        count = pc.sum(windows).as_py() or 0
        if not count:
            return uris
        self._count += count
        if self._turns is None:
            self._look(uris.filter(windows).slice(0, TRIED).to_pylist())
        return pc.if_else(windows, pc.replace_substring(uris, "\\", "/"), uris) if self._turns else uris

    def remarks(self) -> list[str]:
        """What became of them."""
        if not self._count or self._there:
            return []
        what = f"{self._count:,} paths are written as on Windows, e.g. {self._example}"
        if self._turns:
            return [f"{what}: read with / for each backslash"]
        return [f"{what}: there is no such file here, nor one with / for each backslash below {self._folder}"]

    def _look(self, paths: list[str]) -> None:
        self._example = paths[0].strip()
        self._there = any(self._exists(path) for path in paths)
        self._turns = not self._there and any(self._exists(path.replace("\\", "/")) for path in paths)

    def _exists(self, path: str) -> bool:
        path = path.strip()
        return storage.exists(path if path.startswith("/") else storage.join(self._folder, path))
