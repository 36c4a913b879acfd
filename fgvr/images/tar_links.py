"""Where the bytes of an archive's hard links are: with an earlier member of the same archive.

Programs that find equal photos (`rdfind`, `rsync --link-dest`) make them hard links, and tar writes the bytes once. A
link's target is only ever a name to look up among the members before it: nothing outside the archive is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from fgvr.images.tar import Kind, Member

RUN: Final = 65_536
"""How many members are remembered in a dictionary, before they become sorted numbers."""
MOST_LINKS: Final = 65_536
"""How many links are remembered as targets of other links; tar itself never writes such links."""


def links_followed(walk: Iterator[Member]) -> Iterator[Member]:
    """The members of an archive, in order, with the places of their bytes for hard links to earlier files."""
    earlier = EarlierMembers()
    for member in walk:
        if member.kind is Kind.FILE:
            earlier.add(member)
        yield earlier.followed(member) if member.kind is Kind.HARD_LINK else member


class EarlierMembers:
    """The files of an archive up to some member, by the hashes of their names: 24 bytes each."""

    def __init__(self) -> None:
        self._recent: dict[int, tuple[int, int]] = {}
        self._runs: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        self._of_links: dict[str, str] = {}

    def add(self, member: Member) -> None:
        """Remember a file; of several with one name the last one counts, as it does where they are unpacked."""
        self._of_links.pop(member.name, None)
        self._recent[hash(member.name)] = member.offset, member.size
        if len(self._recent) == RUN:
            hashes, places = np.array([*self._recent]), np.array([*self._recent.values()])
            order = hashes.argsort()
            self._runs.append((hashes[order], places[order]))
            self._recent = {}

    def followed(self, link: Member) -> Member:
        """A hard link as a file: with the place of the bytes, and `link` the file that has them before it.

        Unchanged if no earlier file has the name to which it links.
        """
        holder = self._of_links.get(link.link, link.link)
        place = self._place(hash(holder))
        if place is None:
            return link
        if len(self._of_links) < MOST_LINKS:
            self._of_links[link.name] = holder
        return replace(link, kind=Kind.FILE, offset=place[0], size=place[1], link=holder)

    def _place(self, name: int) -> tuple[int, int] | None:
        if name in self._recent:
            return self._recent[name]
        for hashes, places in reversed(self._runs):
            at = int(hashes.searchsorted(name))
            if at < len(hashes) and hashes[at] == name:
                return int(places[at, 0]), int(places[at, 1])
        return None
