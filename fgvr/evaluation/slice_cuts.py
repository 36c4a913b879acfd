"""Photos cut into slices by the values of a column, or of a pair of columns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr.metadata.stored import numbers

MISSING: Final = "(none)"
OTHERS: Final = "(others)"
MANY_NUMBERS: Final = 12
"""A column of numbers with more different values than these is cut at its quartiles."""
QUARTILES: Final = (0.25, 0.5, 0.75)
MOSTLY: Final = 0.9
IDENTIFIER: Final = re.compile(r"(^|_)(id|ID|Id)s?$|[a-z](Id|ID)s?$")
"""Names of columns whose numbers are no quantities, so that they are never cut at quartiles."""


@dataclass(frozen=True)
class Cut:
    """A partition of photos.

    Attributes:
        by: the column, or both columns.
        values: of each slice its value per column; (OTHERS,) for the gathered rare ones.
        codes: int64 [n], which slice each photo is in.
        remarks: what a reader must know about the cut.
    """

    by: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    codes: npt.NDArray[np.int64]
    remarks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The columns in words."""
        return " × ".join(self.by)


def cut_by(name: str, texts: pa.Array | pa.ChunkedArray, *, quantities: bool = True) -> Cut:
    """Cut photos by a column of text, null where a photo has no value: that is a slice of its own.

    A column of numbers with more than `MANY_NUMBERS` different values is cut at its quartiles, unless it is named like
    an identifier (`sender_id`), its numbers are written like one (`007`), or `quantities` is false.
    """
    values, codes = _encoded(texts)
    as_numbers = numbers(pa.array(values, pa.string()))
    absent = np.array([value.lower() == "nan" for value in values], dtype=bool)
    readable = np.isfinite(as_numbers)
    remarks: tuple[str, ...] = ()
    quantities = quantities and not IDENTIFIER.search(name) and not any(_padded(value) for value in values)
    if quantities and readable.sum() > MANY_NUMBERS:
        if (readable | absent).all():
            return _quartiles(name, np.append(as_numbers, np.nan)[codes])
        if readable.mean() > MOSTLY:
            odd = next(value for value, good in zip(values, readable | absent, strict=True) if not good)
            remarks = (
                f"{name} is not cut at its quartiles, since {int((~(readable | absent)).sum()):,} of its values are no "
                f"numbers ({odd!r})",
            )
    return _tidy((name,), [*((value,) for value in values), (MISSING,)], codes, remarks)


def crossed(one: Cut, other: Cut, most: int) -> Cut:
    """Cut photos by the values of two columns together; all but the `most` frequent pairs are one slice."""
    joint = one.codes * len(other.values) + other.codes
    pairs, codes, counts = np.unique(joint, return_inverse=True, return_counts=True)
    kept = _most_frequent(counts, most)
    values = [
        (*one.values[pair // len(other.values)], *other.values[pair % len(other.values)])
        for pair in pairs[kept].tolist()
    ]
    return _with_others((*one.by, *other.by), values, codes.reshape(-1), kept, len(pairs))


def gathered(cut: Cut, most: int) -> Cut:
    """The same cut with all but its `most` frequent values in one slice; photos without a value stay apart."""
    missing = next((place for place, value in enumerate(cut.values) if value == (MISSING,)), None)
    counts = np.bincount(cut.codes, minlength=len(cut.values))
    if len(counts) - (missing is not None) <= most:
        return cut
    if missing is not None:
        counts[missing] = counts.max() + 1
    kept = _most_frequent(counts, most + (missing is not None))
    values = [cut.values[place] for place in kept.tolist()]
    found = _with_others(cut.by, values, cut.codes, kept, len(cut.values))
    return Cut(found.by, found.values, found.codes, (*cut.remarks, *found.remarks))


def group_codes(texts: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The group of each photo, int64 [n] from 0 without gaps; a photo without a value is a group of its own."""
    values, codes = _encoded(texts)
    alone = codes == len(values)
    codes[alone] = len(values) + np.arange(int(alone.sum()))
    return codes


def folders(uris: Sequence[str]) -> pa.Array:
    """The folder in which each photo lies, without what all of them have in common; `.` is that common folder itself.

    Archives count as folders: what is before the last slash.
    """
    parents = {uri: uri.partition("?")[0].rpartition("/")[0] for uri in dict.fromkeys(uris)}
    parts = {parent: parent.split("/") for parent in dict.fromkeys(parents.values())}
    ends = sorted(parts.values())
    shared = 0
    if ends:
        for first, last in zip(ends[0], ends[-1], strict=False):
            if first != last:
                break
            shared += 1
    named = {parent: "/".join(steps[shared:]) or "." for parent, steps in parts.items()}
    return pa.array([named[parents[uri]] for uri in uris], pa.string())


def _encoded(texts: pa.Array | pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The different values, and the number of each photo's value, int64 [n]; the number after the last is null."""
    whole = pa.chunked_array([texts]) if isinstance(texts, pa.Array) else texts
    chunks = whole.cast(pa.string()).dictionary_encode().unify_dictionaries().chunks
    values: list[str] = chunks[0].dictionary.to_pylist() if chunks else []
    codes = [chunk.indices.fill_null(len(values)).to_numpy(zero_copy_only=False) for chunk in chunks]
    return values, np.concatenate([np.zeros(0, np.int64), *codes]).astype(np.int64)


def _padded(value: str) -> bool:
    """Whether a number is written with zeros before it, as only identifiers are."""
    return len(value) > 1 and value[0] == "0" and value[1].isdigit()


def _quartiles(name: str, values: npt.NDArray[np.float64]) -> Cut:
    """Cut numbers, NaN where there is none, at their quartiles: values of the data, which belong to the lower side."""
    there = values[np.isfinite(values)]
    edges = np.unique(np.quantile(there, QUARTILES, method="inverted_cdf"))
    edges = edges[edges < there.max()]
    if not len(edges):  # three quarters and more have the largest value
        edges = np.array([there[there < there.max()].max()])
    words = [f"{edge:.15g}" for edge in edges]
    between = [f"> {low}, ≤ {high}" for low, high in itertools.pairwise(words)]
    labels = [f"≤ {words[0]}", *between, f"> {words[-1]}", MISSING]
    codes = np.where(np.isfinite(values), np.searchsorted(edges, values, side="left"), len(labels) - 1)
    remark = f"{name} is cut at its quartiles: {', '.join(words)}"
    return _tidy((name,), [(label,) for label in labels], codes.astype(np.int64), (remark,))


def _tidy(
    by: tuple[str, ...], values: Sequence[tuple[str, ...]], codes: npt.NDArray[np.int64], remarks: tuple[str, ...]
) -> Cut:
    """A cut without values that no photo has; a constant column gets a remark."""
    used, fresh = np.unique(codes, return_inverse=True)
    kept = tuple(values[place] for place in used.tolist())
    if kept == ((MISSING,),):
        remarks = (*remarks, f"{by[0]} is empty for all of these photos")
    elif len(kept) == 1:
        remarks = (*remarks, f"{by[0]} is the same for all of these photos")
    return Cut(by, kept, fresh.reshape(-1).astype(np.int64), remarks)


def _most_frequent(counts: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Places of the highest counts, ascending; the first ones win ties."""
    return np.sort(np.argsort(-counts, kind="stable")[:most])


def _with_others(
    by: tuple[str, ...],
    values: list[tuple[str, ...]],
    codes: npt.NDArray[np.int64],
    kept: npt.NDArray[np.int64],
    distinct: int,
) -> Cut:
    places = np.full(distinct, len(kept), np.int64)
    places[kept] = np.arange(len(kept))
    if distinct == len(kept):
        return Cut(by, tuple(values), places[codes])
    remark = f"{' × '.join(by)}: {distinct - len(kept):,} rarer values are gathered as {OTHERS}"
    return Cut(by, (*values, (OTHERS,)), places[codes], (remark,))
