"""What a listing leaves out: counted per reason and file ending, in bounded memory, and described in words.

The counts pass through the samples table's manifest into the log, `status` and the report, so that no photo
disappears silently.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import translate
from threading import Lock
from typing import Final
from unicodedata import normalize

KEPT: Final = 64
"""How many different endings are counted separately; a hostile folder may have a million."""
SHOWN: Final = 8
OTHER: Final = "other endings"
NO_ENDING: Final = "without ending"

PICTURES: Final = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".j2k"),
        *(".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".eps", ".pdf", ".tga", ".exr", ".hdr", ".dcm", ".ppm"),
        *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".raf", ".orf", ".rw2", ".pef"),
        *(".srw", ".x3f", ".3fr", ".iiq", ".raw", ".mov", ".mp4", ".m4v", ".avi", ".webm", ".zip", ".tar", ".rar"),
        ".7z",
    )
)
"""Endings of files that may be photos: always counted and named first, however many other endings there are."""

MOST_WAITING: Final = 1000
"""How many members of one key may wait for a photo of this key."""


class Why(StrEnum):
    """Why something did not become a row of the samples table."""

    ENDING = "ending"  # not one of ingest.source.extensions
    HIDDEN = "hidden"  # its name begins with a dot
    EXCLUDED = "excluded"  # ingest.source.exclude
    BESIDE = "beside"  # in a tar, with the same key as a photo: captions, boxes, other classes
    NO_ARCHIVE = "no_archive"  # beside tars or Parquet files
    LINK = "link"  # leads out of the source, and not to ingest.limits.allowed_roots


LeftOut = Mapping[str, Mapping[str, int]]
"""Reason → ending, or pattern that a name matches → number."""


class Omissions:
    """Counts while a source is listed; `add` is thread-safe."""

    def __init__(self) -> None:
        self._counts: dict[Why, Counter[str]] = {}
        self._lock = Lock()

    def count(self, why: Why, what: str) -> None:
        """Count one more; `what` is a file ending, or the pattern that the name matches."""
        self._count(why, what, 1)

    def add(self, other: Omissions) -> None:
        """Add all that another object has counted."""
        with self._lock:
            for why, counts in other._counts.items():
                for what, number in counts.items():
                    self._count(why, what, number)

    def _count(self, why: Why, what: str, number: int) -> None:
        counts = self._counts.setdefault(why, Counter())
        if what not in counts and what not in PICTURES and len(counts) >= KEPT:
            what = OTHER
        counts[what] += number

    def facts(self) -> dict[str, dict[str, int]]:
        """The counts as stored in a manifest, most frequent first."""
        return {why.value: dict(self._counts[why].most_common()) for why in Why if self._counts.get(why)}


def ending_of(name: str) -> str:
    """The ending of a file name, in lower case: `.jpg`; OTHER for one that is too long or too odd."""
    base = name.rpartition("/")[2]
    stem, dot, ending = base.rpartition(".")
    if not dot or not stem or not ending:
        return NO_ENDING
    return f".{ending.lower()}" if len(ending) <= 12 and ending.isalnum() else OTHER


def sentences(left_out: LeftOut) -> dict[str, str]:
    """What was left out, as one sentence per reason."""
    words = {}
    for why in Why:
        counts = left_out.get(why.value, {})
        if not counts:
            continue
        number = sum(counts.values())
        one, what = number == 1, listed(counts)
        files, were = f"{number:,} {'file' if one else 'files'}", "was" if one else "were"
        entries = f"{number:,} {'file or folder' if one else 'files or folders'}"
        words[why.value] = {
            Why.ENDING: f"{files} {were} left out by {'its' if one else 'their'} ending: {what} "
            "(ingest.source.extensions)",
            Why.HIDDEN: f"{number:,} hidden {'file or folder' if one else 'files or folders'} {were} left out",
            Why.EXCLUDED: f"{entries} {were} left out by {'its' if one else 'their'} name: {what} "
            "(ingest.source.exclude)",
            Why.BESIDE: f"{files} beside photos in the archives {were} not read: {what}",
            Why.NO_ARCHIVE: f"{files} beside the archives {were} not read: {what}",
            Why.LINK: f"{number:,} {'link' if one else 'links'} to folders outside of the source {were} not followed "
            "(ingest.limits.allowed_roots names places that may be)",
        }[why]
    return words


def listed(counts: Mapping[str, int]) -> str:
    """`2 .heic, 1 .txt`: endings of possible photos first, then the most frequent ones."""
    order = sorted(counts.items(), key=lambda pair: (pair[0] not in PICTURES, -pair[1], pair[0]))
    shown = [f"{number:,} {what}" for what, number in order[:SHOWN]]
    rest = sum(number for _, number in order[SHOWN:])
    return ", ".join(shown) + (f" and {rest:,} more" if rest else "")


# Names that are left out whatever the file holds: hidden ones, and those matching `ingest.source.exclude`.


class LeftOutNames:
    """Matches the names of files and folders that a source leaves out, and counts them."""

    def __init__(self, patterns: Iterable[str], omissions: Omissions) -> None:
        """`patterns` as in `ingest.source.exclude`."""
        self._patterns = {pattern: re.compile(translate(_folded(pattern))) for pattern in patterns}
        # A single regular expression rejects nearly every name; which pattern matched is looked up for the few others.
        self._any = re.compile("|".join(translate(_folded(pattern)) for pattern in self._patterns) or r"(?!)")
        self.omissions = omissions
        self._last = self._kept = ""

    def has(self, name: str) -> bool:
        """Whether a file or folder of this name is left out; if so, it is counted."""
        found = self._why(name)
        if found is not None:
            self.omissions.count(*found)
        return found is not None

    def has_within(self, path: str) -> bool:
        """Whether a file at `path`, or a folder on the way to it, is left out.

        Consecutive files of one left-out folder count as one, as on a disk; the keys of a bucket come in that order.
        """
        folder, _, file = path.rpartition("/")
        known = folder == self._kept and bool(folder)
        end = len(folder) if known else -1
        for name in (file,) if known else path.split("/"):
            end += 1 + len(name)
            found = self._why(name)
            if found is None:
                continue
            place = path[: end + 1]  # with the slash after a folder, to distinguish `.a/x` from `.ab`
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
    """In lower case and Unicode's composed form; macOS stores `ü` as two characters."""
    return name.lower() if name.isascii() else normalize("NFC", name).casefold()


# Members of a tar that become no rows: hidden and excluded ones, and what lies beside photos or is no photo at all.


class UnlistedMembers:
    """Counts these for one tar, whose members come in order; members of the same key are adjacent."""

    def __init__(self, exclude: Iterable[str]) -> None:
        """`exclude` as in `ingest.source.exclude`."""
        self.omissions = Omissions()
        self._names = LeftOutNames(exclude, self.omissions)
        self._key = ""
        self._with_image = False
        self._waiting: list[str] = []

    def has(self, name: str) -> bool:
        """Whether a member of this name is left out whatever it holds; if so, it is counted."""
        return self._names.has_within(name)

    def image(self, key: str) -> None:
        """Record a member that became a row."""
        self._go_on(key)
        self._with_image = True

    def other(self, key: str, name: str) -> None:
        """Record a member that is neither an image nor a class."""
        self._go_on(key)
        self._waiting.append(ending_of(name))
        if len(self._waiting) >= MOST_WAITING:
            self._count()

    def end(self) -> Omissions:
        """All counts, after the last member."""
        self._count()
        return self.omissions

    def _go_on(self, key: str) -> None:
        if key != self._key:
            self._count()
            self._key, self._with_image = key, False

    def _count(self) -> None:
        """Count a photo's neighbours as captions or boxes, except those that may be photos themselves."""
        for ending in self._waiting:
            self.omissions.count(Why.BESIDE if self._with_image and ending not in PICTURES else Why.ENDING, ending)
        self._waiting = []
