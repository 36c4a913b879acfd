"""Other spellings of a path or key that names nothing: how the same name looks on another system.

macOS writes `ü` as two characters where others write one (Unicode's forms NFD and NFC), exports percent-encode names,
and Windows has backslashes between folders. Asked for only where nothing is at a URI as it stands, so that a file of
exactly this name always goes first, and reading what is there costs nothing more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

from fgvr import storage

_DRIVE: Final = re.compile(r"(?:^|/)(?:[A-Za-z]:[\\/]|\\\\\w)")


def local_lookalike(uri: str) -> Path | None:
    """The file that is meant by a local `uri` at which there is nothing; None where there is none either."""
    path = str(storage.local_path(uri))
    starts = [path, uri[len(storage.FILE) :]] if uri[: len(storage.FILE)].lower() == storage.FILE else [path]
    decodable = len(starts) == 1  # what stands in a file:// URI has been decoded once
    for start in starts:
        for spelling in _spellings(start) if decodable else [start, start.replace("\\", "/")]:
            found = _in_any_form(spelling)
            if found is not None:
                return found
    return None


def key_lookalikes(key: str) -> list[str]:
    """Other spellings of an object's key (what follows the bucket), likeliest first; none for a plain ASCII key."""
    found = [normalize(form, spelling) for spelling in _spellings(key) for form in ("NFC", "NFD")]
    return [spelling for spelling in dict.fromkeys([*_spellings(key), *found]) if spelling != key]


def hint(uri: str) -> str:
    """What may be wrong with a `uri` at which there is nothing, to be added to a message; "" where nobody knows."""
    if _DRIVE.search(uri):
        return " (a path of a Windows drive, which is not on this machine: write it as it is called here)"
    if "\\" in uri:
        return " (nor with / for \\: a Windows path?)"
    if not storage.is_local(uri):
        return ""
    path = storage.local_path(uri)
    stem, dot, ending = path.name.rpartition(".")
    names = [f"{stem}{dot}{ending.upper()}", f"{stem}{dot}{ending.lower()}", path.name.lower(), path.name.upper()]
    there = next((name for name in names if name != path.name and os.path.lexists(path.with_name(name))), None)
    return "" if there is None else f" (there is {there}: capital letters count)"


def _spellings(path: str) -> Iterator[str]:
    """The path as it is, decoded, with slashes, and both."""
    slashes = path.replace("\\", "/")
    yield from dict.fromkeys([path, _decoded(path), slashes, _decoded(slashes)])


def _decoded(path: str) -> str:
    """Each name without percent-encoding; one that would become a path itself, or none, stays as it is."""
    if "%" not in path:
        return path
    names = []
    for name in path.split("/"):
        decoded = os.fsdecode(unquote_to_bytes(os.fsencode(name)))
        wrong = "/" in decoded or "\\" in decoded or "\0" in decoded or decoded in {"", ".", ".."}
        names.append(name if wrong else decoded)
    return "/".join(names)


def _in_any_form(path: str) -> Path | None:
    """The file or folder at `path`, of whose names each may stand in another of Unicode's forms."""
    if path.isascii() or os.path.lexists(path):
        return Path(path) if os.path.lexists(path) else None
    start = "/" if path.startswith("/") else ""
    for name in path.split("/"):
        forms = [name] if name.isascii() else [name, normalize("NFC", name), normalize("NFD", name)]
        found = next((place for form in forms if os.path.lexists(place := os.path.join(start, form))), None)  # noqa: PTH118
        if found is None:
            return None
        start = found
    return Path(start)
