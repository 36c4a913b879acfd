"""Which classes a method gets right, and which names it takes for each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from fgvr.names.spelling import fold_name


@dataclass(frozen=True)
class ClassRow:
    """A true class.

    Attributes:
        name: as it is first spelled.
        photos: photos of the class.
        right: those whose predicted name is the true one, apart from case and punctuation.
        low: lower end of the exact 95% interval of that share (Clopper-Pearson), 0-1.
        high: upper end.
        wrong_name: the most frequent other name that its photos got; "" for no name.
        wrong_photos: how many got it; 0 where all are right.
    """

    name: str
    photos: int
    right: int
    low: float
    high: float
    wrong_name: str
    wrong_photos: int


@dataclass(frozen=True)
class Confusion:
    """`photos` of the class `true` got the name `called`, and `back` photos of that class the name `true`."""

    true: str
    called: str
    photos: int
    back: int


@dataclass(frozen=True)
class ClassScores:
    """A method's classes, the lowest share of right names first, and its confusions, the most frequent pair first."""

    method: str
    rows: list[ClassRow]
    pairs: list[Confusion]


def class_scores(method: str, names: Sequence[str], true: Sequence[str | None]) -> ClassScores:
    """Right names and confusions by class; photos without a known class do not count.

    Args:
        method: whose names these are.
        names: its name of each photo, "" where it has none.
        true: true name of each photo; None or "" where it is not known.
    """
    from fgvr.review.audit import clopper_pearson

    spelled: dict[str, str] = {}
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for name, of in zip(names, true, strict=True):
        if of:
            spelled.setdefault(fold_name(of), of)
            said[fold_name(of)][fold_name(name)] += 1
    for name in names:
        spelled.setdefault(fold_name(name), name)
    rows = []
    for of, counts in said.items():
        photos, right = counts.total(), counts[of]
        wrong = sorted(((number, name) for name, number in counts.items() if name != of), key=lambda w: (-w[0], w[1]))
        most, other = wrong[0] if wrong else (0, "")
        low, high = clopper_pearson(right, photos)
        rows.append(ClassRow(spelled[of], photos, right, float(low), float(high), spelled.get(other, ""), most))
    rows.sort(key=lambda row: (row.right / row.photos, -row.photos, row.name))
    return ClassScores(method, rows, _pairs(said, spelled))


def _pairs(said: dict[str, Counter[str]], spelled: dict[str, str]) -> list[Confusion]:
    pairs = []
    for true, counts in said.items():
        for called, photos in counts.items():
            back = said[called][true] if called in said else 0
            # Each pair once, by its more frequent direction; photos without a name are taken for nothing.
            if called and called != true and (photos, called) > (back, true):
                pairs.append(Confusion(spelled[true], spelled[called], photos, back))
    return sorted(pairs, key=lambda pair: (-pair.photos - pair.back, pair.true, pair.called))
