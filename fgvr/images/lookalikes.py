"""Other spellings of a path or key at which nothing exists: how other systems write the same name.

macOS writes `ü` as two characters where others write one (Unicode's forms NFD and NFC), exports percent-encode names,
and Windows puts backslashes between folders. These are tried only if nothing exists at a URI as written, so a file of
exactly this name always wins, and reading existing files costs nothing extra.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from unicodedata import normalize
from urllib.parse import quote, unquote_to_bytes

from fgvr import storage
from fgvr.images.web_addresses import without_scheme

_DRIVE: Final = re.compile(r"(?:^|/)(?:[A-Za-z]:[\\/]|\\\\\w)")


def local_lookalike(uri: str) -> Path | None:
    """The existing file that a local `uri` probably means if nothing exists at `uri` itself; None if there is none."""
    path = str(storage.local_path(uri))
    for text in dict.fromkeys([path, path.replace("\\", "/")]):
        if text != path and ".." in text.split("/"):  # access was checked for the path as written
            continue
        found = _found("/" if text.startswith("/") else "", [name for name in text.split("/") if name])
        if found is not None:
            return Path(found)
    return None


def key_lookalikes(key: str) -> list[str]:
    """Other spellings of an object's key (the part after the bucket), likeliest first; none for a plain ASCII key."""
    slashes = key.replace("\\", "/")
    decoded = ["/".join(map(_decoded, text.split("/"))) for text in (key, slashes)]
    spellings = [*decoded, slashes, key if "%" in key else quote(key)]
    spellings += [normalize(form, text) for text in (key, *decoded) for form in ("NFC", "NFD")]
    return [text for text in dict.fromkeys(spellings) if text != key]


def hint(uri: str) -> str:
    """What may be wrong with a `uri` at which nothing exists, to be added to a message; "" if unknown."""
    if _DRIVE.search(uri):
        return " (a path of a Windows drive, which is not on this machine: write it as it is called here)"
    if "\\" in uri:
        return " (nor with / for \\: a Windows path?)"
    if not storage.is_local(uri):
        return ""
    path = storage.local_path(uri)
    if "://" not in uri and without_scheme(uri) and not path.parent.is_dir():  # mirrors have folders named like hosts
        return " (a web address without https:// before it?)"
    stem, dot, ending = path.name.rpartition(".")
    names = [f"{stem}{dot}{ending.upper()}", f"{stem}{dot}{ending.lower()}", path.name.lower(), path.name.upper()]
    there = next((name for name in names if name != path.name and os.path.lexists(path.with_name(name))), None)
    return "" if there is None else f" (there is {there}: capital letters count)"


def _found(start: str, names: list[str]) -> str | None:
    """The first file or folder below `start` whose path has each of `names` in one of its spellings."""
    if not names:
        return start
    for form in _forms(names[0]):
        place = f"{start.rstrip('/')}/{form}" if start else form
        if os.path.lexists(place):
            found = _found(place, names[1:])
            if found is not None:
                return found
    return None


def _forms(name: str) -> list[str]:
    """A name as it is, percent-decoded and percent-encoded, each in both Unicode forms."""
    if name.isalnum() and name.isascii():
        return [name]
    spellings = [name, _decoded(name), quote(os.fsencode(name))]
    return list(dict.fromkeys([name, *(normalize(form, text) for text in spellings for form in ("NFC", "NFD"))]))


def _decoded(name: str) -> str:
    """A percent-decoded name; unchanged if decoding would turn it into a path, or leave nothing."""
    if "%" not in name:
        return name
    decoded = os.fsdecode(unquote_to_bytes(os.fsencode(name)))
    return name if set(decoded) & set("/\\\0") or decoded in {"", ".", ".."} else decoded
