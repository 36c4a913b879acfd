"""What changed between the names that two runs give the same photos, and whether one is better by it.

Photos are matched by URI. Both runs list them in the order of their URIs, so the match is a merge of two streams: of
any number of photos, one part of each run is in memory, and a count per pair of names.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from fgvr.beliefs.audit import sign_test
from fgvr.metrics.bootstrap import interval

NO_NAME: Final = ""
"""The name of a photo without one: its row failed, or the model abstained."""
RENAMED_FROM: Final = 0.8
"""Share of a vanished name's photos that must have one new name for it to count as renamed."""

Named = tuple[list[str], list[str]]
"""URIs, ascending and without duplicates, and the name of each."""


class NotSorted(ValueError):
    """URIs that are not ascending, so that two streams cannot be merged."""


@dataclass(frozen=True)
class NameChange:
    """One name in both runs.

    Attributes:
        name: as both runs spell it.
        before: photos that have it in the first run, of those that both runs name.
        after: likewise in the second.
        kept: photos that have it in both.
    """

    name: str
    before: int
    after: int
    kept: int

    @property
    def moved(self) -> int:
        """Photos that lost or gained the name."""
        return self.before + self.after - 2 * self.kept


@dataclass
class NameChanges:
    """The names of the photos of two runs.

    Attributes:
        pairs: photos by (name in the first run, name in the second).
        only_first: photos that the second run does not list.
        only_second: photos that the first run does not list.
        some_first: URI of one of these, to show how they are spelled; "" if there is none.
        some_second: likewise.
    """

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    only_first: int = 0
    only_second: int = 0
    some_first: str = ""
    some_second: str = ""

    @property
    def photos(self) -> int:
        """Photos in both runs."""
        return self.pairs.total()

    @property
    def changed(self) -> int:
        """Photos in both that have another name in the second run."""
        return sum(count for (one, other), count in self.pairs.items() if one != other)

    def moves(self) -> list[tuple[str, str, int]]:
        """(from, to, photos) of the changed ones, most frequent first."""
        moved = [(one, other, count) for (one, other), count in self.pairs.items() if one != other]
        return sorted(moved, key=lambda move: (-move[2], move[0], move[1]))

    def names(self) -> list[NameChange]:
        """All names of either run, those first that most photos lost or gained."""
        before, after, kept = Counter[str](), Counter[str](), Counter[str]()
        for (one, other), count in self.pairs.items():
            before[one] += count
            after[other] += count
            kept[one] += count * (one == other)
        found = [NameChange(name, before[name], after[name], kept[name]) for name in before.keys() | after.keys()]
        return sorted((each for each in found if each.name), key=lambda each: (-each.moved, each.name))

    def renamed(self) -> list[tuple[str, str, int]]:
        """(old, new, photos): names that vanished while nearly all of their photos got one name that is new."""
        by_name = {each.name: each for each in self.names()}
        return [
            (one, other, count)
            for one, other, count in self.moves()
            if one in by_name
            and other in by_name
            and not by_name[one].after
            and not by_name[other].before
            and count >= RENAMED_FROM * by_name[one].before
        ]


def name_changes(first: Iterable[Named], second: Iterable[Named]) -> NameChanges:
    """Compare the names of two runs.

    Args:
        first: photos of the first run in ascending order of their URIs, in portions of any size.
        second: likewise.

    Raises:
        NotSorted: the URIs of a stream are not ascending.
    """
    changes = NameChanges()
    one, other = _Stream(first), _Stream(second)
    while one.fill() and other.fill():
        edge = min(one.last, other.last)
        left, right = one.up_to(edge), other.up_to(edge)
        names = dict(zip(*right, strict=True))
        absent = [uri for uri in left[0] if uri not in names]
        there = set(left[0])
        changes.pairs.update((name, names[uri]) for uri, name in zip(*left, strict=True) if uri in names)
        _count_alone(changes, absent, [uri for uri in right[0] if uri not in there])
    while one.fill():
        _count_alone(changes, one.up_to(one.last)[0], [])
    while other.fill():
        _count_alone(changes, [], other.up_to(other.last)[0])
    return changes


def _count_alone(changes: NameChanges, first: list[str], second: list[str]) -> None:
    changes.only_first += len(first)
    changes.only_second += len(second)
    changes.some_first = changes.some_first or next(iter(first), "")
    changes.some_second = changes.some_second or next(iter(second), "")


class _Stream:
    """Portions of named photos, of which the beginning is taken bit by bit."""

    def __init__(self, portions: Iterable[Named]) -> None:
        self._portions: Iterator[Named] = iter(portions)
        self._uris: list[str] = []
        self._names: list[str] = []
        self._before = ""

    @property
    def last(self) -> str:
        """The last URI at hand."""
        return self._uris[-1]

    def fill(self) -> bool:
        """Have at least one photo at hand; False: there is none left."""
        while not self._uris:
            portion = next(self._portions, None)
            if portion is None:
                return False
            uris, names = portion
            if any(one >= other for one, other in zip([self._before, *uris], uris, strict=False) if one):
                raise NotSorted("photos are not in the order of their URIs")
            self._uris, self._names = list(uris), list(names)
            self._before = uris[-1] if uris else self._before
        return True

    def up_to(self, edge: str) -> Named:
        """Take the photos whose URI is not after `edge`."""
        end = bisect_right(self._uris, edge)
        taken = self._uris[:end], self._names[:end]
        self._uris, self._names = self._uris[end:], self._names[end:]
        return taken


@dataclass(frozen=True)
class PairedScore:
    """How often two runs are right about the same photos.

    Attributes:
        photos: photos with a true name that both runs scored.
        first: share that the first run names right, in percent.
        second: likewise.
        low, high: 95% bootstrap interval of second − first, in points; None for fewer than two photos.
        only_first: photos that only the first run names right.
        only_second: likewise.
        p: two-sided exact McNemar test of these two counts.
    """

    photos: int
    first: float
    second: float
    low: float | None
    high: float | None
    only_first: int
    only_second: int
    p: float


def paired_score(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], *, resamples: int = 1000, seed: int = 0
) -> PairedScore | None:
    """Compare two runs on the same photos: bool [N] each, whether the name is right; None without photos.

    The test is McNemar's, exact: of the photos about which the runs disagree, half would be expected either way.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} photos: they must be the same")
    if not len(first):
        return None
    found = interval(100 * (second.astype(np.float64) - first.astype(np.float64)), resamples=resamples, seed=seed)
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    low, high = found if found is not None else (None, None)
    shares = 100 * float(first.mean()), 100 * float(second.mean())
    return PairedScore(len(first), *shares, low, high, lost, won, sign_test(lost, won))
