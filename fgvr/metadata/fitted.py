"""What is fitted on training photos to read their columns, and the encoding of any photo's columns with it.

A photo's features are one row: every column's numbers side by side, then a flag per column that is 1 where the column
is missing, and then its numbers are 0. Hiding a column in training makes exactly that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.arrays import Doubles, Floats
from fgvr.config.metadata import Column, Metadata
from fgvr.metadata.values import circle, dates, plain, sphere
from fgvr.names.merging import NameEncoder

MOST_CHARACTERS: Final = 2000
"""Characters of a text that the sentence model sees; it reads some 256 words anyway."""
LONGEST_VALUE: Final = 200
"""Characters of a category that are kept in a vocabulary as they are; longer ones by their hash."""
FAR: Final = 5.0
"""Scaled numbers are cut here: one wrong price must not decide."""


class MetadataFormatError(ValueError):
    """The stored description of columns is damaged."""


@dataclass(frozen=True)
class FittedColumn:
    """A column with what training photos said of it.

    Attributes:
        column: how it is read.
        centre: what is subtracted from numbers.
        scale: by what they are divided; 0: constant, it says nothing.
        vocabulary: values of a category that have a place of their own.
        buckets: places of all others.
        width: numbers of a photo's row.
    """

    column: Column
    width: int
    centre: float = 0.0
    scale: float = 0.0
    vocabulary: tuple[str, ...] = ()
    buckets: int = 0

    def encode(self, texts: Mapping[str, pa.Array | pa.ChunkedArray], sentences: NameEncoder | None) -> Floats:
        """Float32 [n, width]; NaN in rows where it is missing."""
        kind, column = self.column.kind, texts[self.column.sources[0]]
        if kind == "category":
            return self._one_hot(column)
        if kind == "text":
            return _sentences(column, self.width, sentences)
        found = _read(self.column, texts)
        if kind in {"number", "log"}:
            scaled = (found - self.centre) / self.scale if self.scale > 0 else np.where(np.isnan(found), np.nan, 0.0)
            found = np.clip(scaled, -FAR, FAR)[:, None]
        return found.astype(np.float32)

    def _one_hot(self, texts: pa.Array | pa.ChunkedArray) -> Floats:
        place = {value: number for number, value in enumerate(self.vocabulary)}
        rows = np.zeros((len(texts), self.width), np.float32)
        for row, text in enumerate(texts.to_pylist()):
            if text is None:
                rows[row] = np.nan
                continue
            key = _key(text)
            rows[row, place[key] if key in place else len(place) + _bucket(key, self.buckets)] = 1
        return rows


@dataclass(frozen=True)
class FittedMetadata:
    """All columns of a classifier; its JSON form is part of the model's file.

    Attributes:
        columns: in the order of the features.
        sentence_model: for columns of text; "" where there are none.
    """

    columns: tuple[FittedColumn, ...]
    sentence_model: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the columns of the source, each once."""
        return tuple(dict.fromkeys(name for each in self.columns for name in each.column.sources))

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of each column."""
        return tuple(each.width for each in self.columns)

    @property
    def dim(self) -> int:
        """Length of a photo's row: all numbers and a flag per column."""
        return sum(self.widths) + len(self.columns)

    def texts(self) -> tuple[bool, ...]:
        """Which columns are text."""
        return tuple(each.column.kind == "text" for each in self.columns)

    def none(self, count: int) -> Floats:
        """The rows of photos about which nothing is known, float32 [n, dim]."""
        rows = np.zeros((count, self.dim), np.float32)
        rows[:, sum(self.widths) :] = 1
        return rows

    def encode(self, texts: Mapping[str, pa.Array | pa.ChunkedArray], sentences: NameEncoder | None = None) -> Floats:
        """Features of n photos, float32 [n, dim].

        Args:
            texts: by the name of the source's column, n texts or nulls; a column that is not there is missing in all.
            sentences: the sentence model, where a column of text has values.
        """
        count = len(next(iter(texts.values()))) if texts else 0
        absent = pa.nulls(count, pa.string())
        whole = {name: texts.get(name, absent) for name in self.sources}
        blocks = [each.encode(whole, sentences) for each in self.columns]
        flags = np.stack([np.isnan(block).any(axis=1) for block in blocks], axis=1)
        for block, missing in zip(blocks, flags.T, strict=True):
            block[missing] = 0
        return np.concatenate([*blocks, flags.astype(np.float32)], axis=1)

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {"columns": [asdict(each) for each in self.columns], "sentence_model": self.sentence_model}

    @classmethod
    def of_json(cls, content: Any) -> Self:
        """What `to_json` gave; raises MetadataFormatError."""
        try:
            columns = []
            for facts in content["columns"]:
                column = Column(**facts["column"] | {"sources": tuple(facts["column"]["sources"])})
                columns.append(
                    FittedColumn(**facts | {"column": column, "vocabulary": tuple(map(str, facts["vocabulary"]))})
                )
            return cls(tuple(columns), str(content["sentence_model"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MetadataFormatError(f"the description of its metadata is damaged: {error!r}") from None


@dataclass(frozen=True)
class ColumnFacts:
    """What a reader must know of a column.

    Attributes:
        name: its name in the config.
        absent: rows without a value.
        unread: rows with a value that could not be read, which count as missing.
        constant: whether all values are the same, so that it says nothing.
        values: distinct values of a category.
        rows: all rows.
    """

    name: str
    absent: int
    unread: int
    constant: bool
    values: int
    rows: int

    def remark(self) -> str | None:
        """One line, where something is odd."""
        if self.absent + self.unread == self.rows:
            return f"column {self.name} has no value that can be read in any of {self.rows:,} photos: it says nothing"
        if self.constant:
            return f"column {self.name} has the same value in all photos that have one: it says nothing"
        if self.unread:
            return f"column {self.name}: {self.unread:,} of {self.rows:,} values cannot be read and count as missing"
        return None


def fit(
    texts: Mapping[str, pa.Array | pa.ChunkedArray], settings: Metadata, sentences: NameEncoder | None = None
) -> tuple[FittedMetadata, tuple[ColumnFacts, ...]]:
    """Fit scalers and vocabularies.

    Args:
        texts: columns of the training photos, by the source's names.
        settings: the columns.
        sentences: the sentence model, where there are columns of text.
    """
    fitted, facts = [], []
    for column in settings.parsed:
        one, about = _fit_one(column, texts, settings, sentences)
        fitted.append(one)
        facts.append(about)
    named = settings.sentence_model if any(each.column.kind == "text" for each in fitted) else ""
    return FittedMetadata(tuple(fitted), named), tuple(facts)


def _fit_one(
    column: Column,
    texts: Mapping[str, pa.Array | pa.ChunkedArray],
    settings: Metadata,
    sentences: NameEncoder | None,
) -> tuple[FittedColumn, ColumnFacts]:
    own = texts[column.sources[0]]
    rows, absent = len(own), np.zeros(len(own), bool)
    for source in column.sources:
        absent |= pc.is_null(texts[source]).to_numpy(zero_copy_only=False)
    gone = int(absent.sum())
    if column.kind in {"category", "text"}:
        counts = Counter(_key(text) for text in own.to_pylist() if text is not None)
        about = ColumnFacts(column.name, gone, 0, len(counts) == 1, len(counts), rows)
        if column.kind == "text":
            return FittedColumn(column, _width(sentences)), about
        known = sorted(counts, key=lambda value: (-counts[value], value))[: settings.vocabulary]
        return FittedColumn(
            column, len(known) + settings.buckets, vocabulary=tuple(known), buckets=settings.buckets
        ), about
    values = _read(column, texts)
    read = np.isfinite(values if values.ndim == 1 else values.sum(axis=1))
    seen = values[read]
    constant = bool(len(seen)) and bool((seen == seen[0]).all())
    about = ColumnFacts(column.name, gone, int((~read & ~absent).sum()), constant, 0, rows)
    if column.kind in {"number", "log"}:
        centre, scale = _scaler(seen)
        return FittedColumn(column, 1, centre, scale), about
    return FittedColumn(column, values.shape[1]), about


def _read(column: Column, texts: Mapping[str, pa.Array | pa.ChunkedArray]) -> Doubles:
    """Numbers [n], or those on a circle [n, 2] or sphere [n, 3], before scaling; NaN where missing."""
    own = texts[column.sources[0]]
    match column.kind:
        case "number" | "log":
            return plain(own, log=column.kind == "log")
        case "cyclic":
            return circle(plain(own), column.period)
        case "month" | "day_of_year" | "hour":
            return circle(dates(own, column.kind), column.period)
        case "place":
            return sphere(plain(own), plain(texts[column.sources[1]]))
    raise ValueError(f"a column of kind {column.kind} is not read as numbers")


def _scaler(values: Doubles) -> tuple[float, float]:
    """Median, and the width of the middle 95% in standard deviations of a normal distribution.

    Where the middle 95% are one value (a rare flag) it is the standard deviation; 0 for a constant.
    """
    if not len(values) or bool((values == values[0]).all()):
        return (float(values[0]) if len(values) else 0.0), 0.0
    low, centre, high = np.quantile(values, [0.025, 0.5, 0.975])
    with np.errstate(over="ignore"):
        scale = (high - low) / 3.92
    if not (np.isfinite(scale) and scale > 0):
        largest = float(np.abs(values).max())
        centre, scale = np.mean(values / largest) * largest, np.std(values / largest) * largest
    return float(centre), float(scale)


def _key(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else "#" + hashlib.sha256(text.encode()).hexdigest()


def _bucket(key: str, buckets: int) -> int:
    """The same in every process, unlike Python's own hash."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) % buckets


def _width(sentences: NameEncoder | None) -> int:
    if sentences is None:
        raise ValueError("a column of text without a sentence model")
    return int(sentences.encode(["a"]).shape[1])


def _sentences(texts: pa.Array | pa.ChunkedArray, width: int, sentences: NameEncoder | None) -> Floats:
    rows: npt.NDArray[np.float32] = np.full((len(texts), width), np.nan, np.float32)
    cut: Sequence[str | None] = [None if text is None else text[:MOST_CHARACTERS] for text in texts.to_pylist()]
    there = np.array([text is not None for text in cut], bool)
    if not there.any():
        return rows
    if sentences is None:
        raise ValueError("a column of text without a sentence model")
    each = sorted({text for text in cut if text is not None})
    place = {text: number for number, text in enumerate(each)}
    vectors = sentences.encode(each)
    rows[there] = vectors[[place[text] for text in cut if text is not None]] * (width**0.5 / 8)
    return rows
