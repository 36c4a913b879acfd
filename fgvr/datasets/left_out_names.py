"""Names that are no photos whatever is in them: hidden ones, and what `ingest.source.exclude` says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from unicodedata import normalize

from fgvr.omissions import Omissions, Why


class LeftOutNames:
    """Knows the names of files and folders that a source leaves out, and counts them."""

    def __init__(self, patterns: Iterable[str], omissions: Omissions) -> None:
        """`patterns` as in `ingest.source.exclude`."""
        self._patterns = {pattern: re.compile(translate(_folded(pattern))) for pattern in patterns}
        # One question for nearly every name; which pattern it was is asked for the few.
        self._any = re.compile("|".join(translate(_folded(pattern)) for pattern in self._patterns) or r"(?!)")
        self.omissions = omissions
        self._last = self._kept = ""

    def has(self, name: str) -> bool:
        """Whether a file or folder of this name is left out; it is counted then."""
        found = self._why(name)
        if found is not None:
            self.omissions.count(*found)
        return found is not None

    def has_within(self, path: str) -> bool:
        """Whether a file at `path`, or a folder on the way to it, is left out.

        Files of one folder that come one after the other, as the keys of a bucket do, count once, as on a disk.
        """
        folder, _, file = path.rpartition("/")
        known = folder == self._kept and bool(folder)
        end = len(folder) if known else -1
        for name in (file,) if known else path.split("/"):
            end += 1 + len(name)
            found = self._why(name)
            if found is None:
                continue
            place = path[: end + 1]  # with the slash behind a folder: `.a/x` and `.ab` are two
            if place != self._last:
                self.omissions.count(*found)
            self._last = place
            return True
        self._kept = folder
        return False

    def _why(self, name: str) -> tuple[Why, str] | None:
        if name.startswith(".") and name not in {".", ".."}:
            return Why.HIDDEN, ".*"
        folded = _folded(name)
        if not self._any.match(folded):
            return None
        return Why.EXCLUDED, next(pattern for pattern, found in self._patterns.items() if found.match(folded))


def _folded(name: str) -> str:
    """In small letters, and as one writes it: disks of macOS have `ü` as two characters."""
    return name.lower() if name.isascii() else normalize("NFC", name).casefold()
