"""Does a column alone say the class? Then the classifier may learn the column instead of the photo.

For each column a cheap classifier learns from half of the photos and is asked about the other half: the most frequent
class of the same value (of numbers also of the same 64th part of them), and for texts and numbers also a logistic
regression. The better one counts. That is no proof of a leak: the month may really tell two birds apart. It is what a
person must know before believing the results.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr.arrays import Floats, Ids
from fgvr.heads.training import HeadExamples, HeadRecipe, train_head
from fgvr.metadata.fitted import FittedMetadata
from fgvr.metrics.bootstrap import wilson

MOST_ROWS: Final = 20_000
"""Photos that are looked at, drawn at random."""
FEWEST_ROWS: Final = 30
"""Photos held out below which nothing is said."""
PERFECT: Final = 0.95
"""Accuracy from which a column is nearly a perfect predictor."""
MUCH: Final = 0.5
"""Share of the majority's mistakes that a column alone must avoid to be reported: more than photos often manage."""
BINS: Final = 64
REGRESSION: Final = HeadRecipe(kind="linear", loss="ce", steps=100)


@dataclass(frozen=True)
class Power:
    """How well a column alone predicts the class of photos held out.

    Attributes:
        column: its name.
        accuracy: share of them whose class it says.
        low: lower end of its 95% interval (Wilson 1927).
        high: upper end.
        majority: share of the class that is most frequent among the other photos.
        rows: photos held out.
        distinct: share of photos whose value no other photo has.
    """

    column: str
    accuracy: float
    low: float
    high: float
    majority: float
    rows: int
    distinct: float

    @property
    def suspicious(self) -> bool:
        """Whether it should be looked at before it is used."""
        if self.rows < FEWEST_ROWS or self.low <= self.majority:
            return False
        return self.low >= PERFECT or self.low - self.majority >= MUCH * (1 - self.majority)

    def remark(self) -> str:
        """One line with the numbers."""
        return (
            f"column {self.column} alone says the class of {100 * self.accuracy:.1f} of 100 photos held out (95% "
            f"interval {100 * self.low:.1f} to {100 * self.high:.1f}; the most frequent class alone: "
            f"{100 * self.majority:.1f}): it may give the answer away instead of helping to find it. Is it known "
            "before a photo is named, and of new photos?"
        )

    def as_json(self) -> dict[str, float | str]:
        """For a table's metadata."""
        return {
            "column": self.column,
            "accuracy": round(self.accuracy, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "majority": round(self.majority, 4),
            "rows": self.rows,
            "distinct": round(self.distinct, 4),
        }


def powers(
    fitted: FittedMetadata,
    texts: Mapping[str, pa.Array | pa.ChunkedArray],
    features: Floats,
    classes: Ids,
    *,
    seed: int = 0,
    groups: Sequence[object] | None = None,
) -> tuple[Power, ...]:
    """What each column alone says, in their order.

    Args:
        fitted: the columns.
        texts: their values, n each.
        features: the same encoded, [n, dim].
        classes: int64 [n]; −1 for photos without one, which are left out.
        seed: of the halves.
        groups: photos of one group are all held out or none is; None: each photo is its own group.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(np.flatnonzero(classes >= 0))[:MOST_ROWS])
    held = _half(len(rows), None if groups is None else [groups[row] for row in rows.tolist()], rng)
    own = classes[rows]
    found, start, widths = [], 0, fitted.widths
    for number, each in enumerate(fitted.columns):
        block = features[rows, start : start + widths[number]].astype(np.float32)
        missing = features[rows, sum(widths) + number] > 0
        start += widths[number]
        columns = [texts[source].take(pa.array(rows)).to_pylist() for source in each.column.sources]
        values = list(zip(*columns, strict=True))
        guesses = [_lookup(values, own, held)]
        if widths[number] == 1:
            guesses.append(_lookup(_binned(block[:, 0], missing, held), own, held))
        if each.column.kind != "category":
            guesses.append(_regression(np.c_[block, missing].astype(np.float32), own, held))
        counts = Counter(values)
        alone = float(np.mean([counts[value] == 1 for value in values])) if values else 0.0
        best = max((int((guess == own[held]).sum()) for guess in guesses), default=0)
        found.append(_power(each.column.name, best, own, held, alone))
    return tuple(found)


def _half(count: int, groups: Sequence[object] | None, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    if groups is None:
        held = np.zeros(count, bool)
        held[rng.permutation(count)[: count // 2]] = True
        return held
    names = list(dict.fromkeys(groups))
    chosen = {names[place] for place in rng.permutation(len(names))[: len(names) // 2].tolist()}
    return np.array([group in chosen for group in groups], bool)


def _majority(classes: Iterable[int]) -> int:
    counts = Counter(classes)
    return max(sorted(counts), key=lambda label: counts[label]) if counts else 0


def _lookup(values: Sequence[object], classes: Ids, held: npt.NDArray[np.bool_]) -> Ids:
    """For each photo held out the most frequent class of its value among the others, else of all."""
    of_value: defaultdict[object, Counter[int]] = defaultdict(Counter)
    for value, label, out in zip(values, classes.tolist(), held.tolist(), strict=True):
        if not out:
            of_value[value][label] += 1
    usual = _majority(classes[~held].tolist())
    best = {value: max(sorted(counts), key=lambda label: counts[label]) for value, counts in of_value.items()}
    return np.array([best.get(value, usual) for value, out in zip(values, held.tolist(), strict=True) if out], np.int64)


def _binned(values: Floats, missing: npt.NDArray[np.bool_], held: npt.NDArray[np.bool_]) -> list[int]:
    known = values[~held & ~missing]
    edges = np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]) if len(known) else np.zeros(0)
    found: list[int] = np.where(missing, -1, np.searchsorted(edges, values)).tolist()
    return found


def _regression(features: Floats, classes: Ids, held: npt.NDArray[np.bool_]) -> Ids:
    import torch

    used, columns = np.unique(classes[~held], return_inverse=True)
    if len(used) < 2:
        return np.full(int(held.sum()), used[0] if len(used) else 0, np.int64)
    examples = HeadExamples.of_labels(features[~held], columns.astype(np.int64), len(used))
    network, _ = train_head(examples, REGRESSION)
    with torch.inference_mode():
        return np.asarray(used[network(torch.from_numpy(features[held])).argmax(dim=1).numpy()], np.int64)


def _power(column: str, right: int, classes: Ids, held: npt.NDArray[np.bool_], distinct: float) -> Power:
    count = int(held.sum())
    usual = _majority(classes[~held].tolist())
    majority = float((classes[held] == usual).mean()) if count else 0.0
    low, high = wilson(right, count)
    return Power(column, right / max(count, 1), low, high, majority, count, distinct)
