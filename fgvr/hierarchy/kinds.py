"""What stands above each name, as a file or WordNet says it, before it becomes the tree of some names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fgvr import storage
from fgvr.errors import UserError
from fgvr.hierarchy.tree import HierarchyError, Tree, build_tree
from fgvr.names.spelling import fold_name
from fgvr.text_files import CsvRow, EditedCsvError, decoded, read_edited_csv

NAME, PARENT = "name", "parent"
"""Columns of a file of links; any other file has a column per level."""


class KindsError(UserError, ValueError):
    """A file of kinds cannot be used; the message names the file, the line and what to do."""


class Source(Protocol):
    """Where the kinds above names come from; picklable, since workers build the tree of their model's labels."""

    def tree(self, names: Sequence[str]) -> Tree:
        """The tree with these names in it; those that the source does not know hang below the root."""
        ...

    def digest(self) -> str:
        """Changes where the source says something else; for fingerprints."""
        ...


@dataclass(frozen=True)
class Kinds:
    """The content of a file. Names are keys as `fold_name` makes them, so that spellings of a name are one.

    Attributes:
        parents: name → the name above it; "" for one at the top.
        written: name → as it was first written.
        levels: names of the levels, coarsest first; empty: levels are depths.
        spans: name → its coarsest and its finest level, as places in `levels`. A name may stand in several columns of
            a row, as that of a kind with one member.
    """

    parents: Mapping[str, str]
    written: Mapping[str, str]
    levels: tuple[str, ...] = ()
    spans: Mapping[str, tuple[int, int]] | None = None

    def tree(self, names: Sequence[str]) -> Tree:
        """See Source."""
        return build_tree(self.parents, self.written, names, self.levels, self.spans)

    def digest(self) -> str:
        """See Source; the order of lines does not matter."""
        spans = None if self.spans is None else sorted(self.spans.items())
        said = [sorted(self.parents.items()), sorted(self.written.items()), self.levels, spans]
        return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()


def read_kinds(uri: str, levels: Sequence[str] | None = None) -> Kinds:
    """Read a CSV of links (`name,parent`) or one with a column per level (`species,genus,family`).

    Equal rows count once. A parent without a row of its own stands at the top, so that no root is needed.

    Args:
        uri: the file.
        levels: columns of the levels, finest first; None: `name,parent` where the file has both, else all columns in
            the order of the file.

    Raises:
        KindsError: there is no such file, it is no such CSV or has no row, a name stands below two others or below
            itself, or in two levels with another name between.
    """
    try:
        data = storage.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError):
        raise KindsError(f"hierarchy.path: there is no file {uri}") from None
    try:
        columns = list(levels) if levels is not None else _columns(data)
        links = levels is None and {NAME, PARENT} <= set(columns)
        needed = [NAME, PARENT] if links else columns
        if len(needed) < 2:
            raise KindsError(
                f"hierarchy.path: {uri} has the columns {', '.join(needed) or '(none)'}; it needs `name,parent`, or a "
                "column per level, finest first (species,genus,family)"
            )
        rows = list(read_edited_csv(data, uri, needed))
    except EditedCsvError as error:
        raise KindsError(f"hierarchy.path: {error}") from None
    found = _Reading(uri)
    for row in rows:
        found.add(row, needed, wide=not links)
    if not found.parents:
        raise KindsError(f"hierarchy.path: {uri} has no row with a name")
    kinds = Kinds(found.parents, found.written, () if links else tuple(reversed(needed)), found.spans or None)
    try:
        kinds.tree(())
    except HierarchyError as error:
        raise KindsError(f"hierarchy.path: {uri}: {error}") from None
    return kinds


def _columns(data: bytes) -> list[str]:
    """The columns of the first line, by whichever separator splits it into most."""
    try:
        text = decoded(data)
    except UnicodeDecodeError:
        text = data.replace(b"\0", b"").decode(errors="replace")  # reading the rows says on which line
    first = text.splitlines()[:1]
    cells = max((first[0].split(mark) for mark in ",;\t"), key=len) if first else []
    return [cell.strip(' \r"') for cell in cells]


class _Reading:
    """What the rows of a file say so far."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.parents: dict[str, str] = {}
        self.written: dict[str, str] = {}
        self.spans: dict[str, tuple[int, int]] = {}
        self._lines: dict[str, int] = {}

    def add(self, row: CsvRow, columns: Sequence[str], *, wide: bool) -> None:
        """Add a row; cells go from the name to what stands above it, empty ones are left out."""
        path: list[str] = []
        for place, column in enumerate(columns):
            text = " ".join(row.fields.get(column, "").split())
            key = fold_name(text)
            if not key:
                if text or (place == 0 and not wide):
                    raise KindsError(f"hierarchy.path: {self.uri}, line {row.line}: {text!r} is no name ({column})")
                continue
            self.written.setdefault(key, text)
            if wide:
                level = len(columns) - 1 - place
                low, high = self.spans.get(key, (level, level))
                self.spans[key] = min(low, level), max(high, level)
                if path and path[-1] == key:
                    continue
            path.append(key)
        for below, above in zip(path, [*path[1:], ""], strict=True):
            self._link(below, above, row.line)

    def _link(self, below: str, above: str, line: int) -> None:
        earlier = self.parents.setdefault(below, above)
        if not earlier and above:
            self.parents[below] = above  # a row that said nothing of what stands above
        elif above and earlier != above:
            names = [repr(self.written[key]) for key in (below, above, earlier)]
            raise KindsError(
                f"hierarchy.path: {self.uri}, line {line}: {names[0]} stands below {names[1]}, and on line "
                f"{self._lines[below]} below {names[2]}; a name stands below one other: remove a row, or rename one"
            )
        if above:
            self._lines.setdefault(below, line)
