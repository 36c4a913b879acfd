"""What a listing of photos leaves out: counted by reason and by ending, in bounded memory, and in words.

The facts go through the samples table's manifest into the log, `status` and the report, so that no photo disappears
without a word.
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
"""Different endings that are counted by themselves; a hostile folder has a million."""
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
"""Endings of what may hold a photo: counted and named first, however many others there are."""


class Why(StrEnum):
    """Why something is no row of the samples table."""

    ENDING = "ending"  # not one of ingest.source.extensions
    HIDDEN = "hidden"  # its name begins with a dot
    EXCLUDED = "excluded"  # ingest.source.exclude
    BESIDE = "beside"  # in a tar, of the same key as a photo: captions, boxes, other classes
    NO_ARCHIVE = "no_archive"  # beside tars or Parquet files
    LINK = "link"  # to what lies outside of the source, and not below ingest.limits.allowed_roots


LeftOut = Mapping[str, Mapping[str, int]]
"""Reason → ending, or pattern that a name fits → number."""


class Omissions:
    """Counts while a source is listed; `add` may be called by threads."""

    def __init__(self) -> None:
        self._counts: dict[Why, Counter[str]] = {}
        self._lock = Lock()

    def count(self, why: Why, what: str) -> None:
        """One more; `what` is an ending, or the pattern that its name fits."""
        self._count(why, what, 1)

    def add(self, other: Omissions) -> None:
        """All that another one has counted."""
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
        """As a manifest holds them, the most frequent first."""
        return {why.value: dict(self._counts[why].most_common()) for why in Why if self._counts.get(why)}


def ending_of(name: str) -> str:
    """The ending of a file's name, in small letters: `.jpg`; for what is too long or too odd to be one, OTHER."""
    base = name.rpartition("/")[2]
    stem, dot, ending = base.rpartition(".")
    if not dot or not stem or not ending:
        return NO_ENDING
    return f".{ending.lower()}" if len(ending) <= 12 and ending.isalnum() else OTHER


def sentences(left_out: LeftOut) -> dict[str, str]:
    """What was left out, in words, by reason."""
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
    """`2 .heic, 1 .txt`: what may hold photos first, then the most frequent."""
    order = sorted(counts.items(), key=lambda pair: (pair[0] not in PICTURES, -pair[1], pair[0]))
    shown = [f"{number:,} {what}" for what, number in order[:SHOWN]]
    rest = sum(number for _, number in order[SHOWN:])
    return ", ".join(shown) + (f" and {rest:,} more" if rest else "")


# Names that are no photos whatever is in them: hidden ones, and what `ingest.source.exclude` says.


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


# Members of a tar that are no rows: hidden ones, excluded ones, what lies beside photos, and what is no photo here.

MOST_WAITING: Final = 1000
"""Members of one key that wait for a photo of this key."""


class UnlistedMembers:
    """Counts them for one tar, whose members come in their order; those of a key are neighbours."""

    def __init__(self, exclude: Iterable[str]) -> None:
        """`exclude` as in `ingest.source.exclude`."""
        self.omissions = Omissions()
        self._names = LeftOutNames(exclude, self.omissions)
        self._key = ""
        self._with_image = False
        self._waiting: list[str] = []

    def has(self, name: str) -> bool:
        """Whether a member of this name is left out whatever it is; it is counted then."""
        return self._names.has_within(name)

    def image(self, key: str) -> None:
        """A member that is a row."""
        self._go_on(key)
        self._with_image = True

    def other(self, key: str, name: str) -> None:
        """A member that is neither an image nor says a class."""
        self._go_on(key)
        self._waiting.append(ending_of(name))
        if len(self._waiting) >= MOST_WAITING:
            self._count()

    def end(self) -> Omissions:
        """All that was counted, after the last member."""
        self._count()
        return self.omissions

    def _go_on(self, key: str) -> None:
        if key != self._key:
            self._count()
            self._key, self._with_image = key, False

    def _count(self) -> None:
        """What lies beside a photo is its caption or boxes, unless it may be a photo itself."""
        for ending in self._waiting:
            self.omissions.count(Why.BESIDE if self._with_image and ending not in PICTURES else Why.ENDING, ending)
        self._waiting = []
