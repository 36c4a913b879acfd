"""What a listing of photos leaves out: counted by reason and by ending, in bounded memory, and in words.

The facts go through the samples table's manifest into the log, `status` and the report, so that no photo disappears
without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from threading import Lock
from typing import Final

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
