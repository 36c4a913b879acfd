"""Names that are no photos whatever is in them: hidden ones, and what `ingest.source.exclude` says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

from fgvr.omissions import Omissions, Why


class LeftOutNames:
    """Knows the names of files and folders that a source leaves out, and counts them."""

    def __init__(self, patterns: Iterable[str], omissions: Omissions) -> None:
        """`patterns` as in `ingest.source.exclude`."""
        self._patterns = {pattern: re.compile(translate(pattern.casefold())) for pattern in patterns}
        # One question for nearly every name; which pattern it was is asked for the few.
        self._any = re.compile("|".join(translate(pattern.casefold()) for pattern in self._patterns) or r"(?!)")
        self._omissions = omissions
        self._last = ""

    def has(self, name: str) -> bool:
        """Whether a file or folder of this name is left out; it is counted then."""
        found = self._why(name)
        if found is not None:
            self._omissions.count(*found)
        return found is not None

    def has_within(self, path: str) -> bool:
        """Whether a file at `path`, or a folder on the way to it, is left out.

        Files of one folder that come one after the other, as the keys of a bucket do, count once, as on a disk.
        """
        end = -1
        for name in path.split("/"):
            end += 1 + len(name)
            found = self._why(name)
            if found is None:
                continue
            place = path[: end + 1]  # with the slash behind a folder: `.a/x` and `.ab` are two
            if place != self._last:
                self._omissions.count(*found)
            self._last = place
            return True
        return False

    def _why(self, name: str) -> tuple[Why, str] | None:
        if name.startswith(".") and name not in {".", ".."}:
            return Why.HIDDEN, ""
        folded = name.casefold()
        if not self._any.match(folded):
            return None
        return Why.EXCLUDED, next(pattern for pattern, found in self._patterns.items() if found.match(folded))
