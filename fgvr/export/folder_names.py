"""Names as folders: what is safe on every disk, and different for different names."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Final

LONGEST: Final = 200
"""Bytes of a folder's name; disks take 255."""
NAMELESS: Final = "unnamed"
"""Folder of a name of which no character can be kept."""
_UNSAFE: Final = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029<>:"/\\|?*\[\]]+')
_DEVICES: Final = frozenset(
    {
        *("con", "prn", "aux", "nul", "conin$", "conout$"),
        *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"),
    }
)
"""Windows takes these for devices, whatever their ending."""
_FORMATS: Final = frozenset({"Cf", "Cs", "Co", "Cn"})
"""Categories of characters that are not seen, or no characters."""


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """A folder per name, distinct also on disks that do not tell capitals from small letters.

    Characters that a disk or a shell may take otherwise become `_`; a folder that another name has already gets a
    number. No folder begins with a dot or an underscore: Hugging Face's `imagefolder` passes over `.x` and `__x`. The
    result depends on the order of the names only where two of them would share a folder.
    """
    taken: set[str] = set()
    numbers = Counter[str]()
    found: dict[str, str] = {}
    for name in names:
        plain = folder = _plain(name)
        while _key(folder) in taken:
            numbers[_key(plain)] += 1
            folder = f"{plain}_{numbers[_key(plain)] + 1}"
        taken.add(_key(folder))
        found[name] = folder
    return found


def _key(folder: str) -> str:
    """What is equal for folders that some disk takes for the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folder).casefold())


def _plain(name: str) -> str:
    text = "".join(each for each in name if unicodedata.category(each) not in _FORMATS)
    text = _UNSAFE.sub("_", unicodedata.normalize("NFC", text)).lstrip(" -._~")
    text = text.encode()[:LONGEST].decode(errors="ignore").rstrip(" .")  # Windows drops dots and blanks at the end
    if text.partition(".")[0].rstrip(" ").casefold() in _DEVICES:
        text = text.replace(".", "_") + "_"
    return text or NAMELESS
