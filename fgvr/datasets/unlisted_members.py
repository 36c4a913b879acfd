"""Members of a tar that are no rows: hidden ones, excluded ones, what lies beside photos, and what is no photo here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fgvr.datasets.left_out_names import LeftOutNames
from fgvr.omissions import PICTURES, Omissions, Why, ending_of

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
