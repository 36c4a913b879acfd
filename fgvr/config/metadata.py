"""Columns of the samples that a classifier sees beside the photo: price, brand, month, place, title."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from fgvr.config.base import RUNTIME_ONLY, Part

Kind = Literal["number", "log", "category", "text", "cyclic", "month", "day_of_year", "hour", "place"]
WORDS: Final = ("number", "log", "category", "text", "month", "day_of_year", "hour")
PERIODS: Final = {"month": 12.0, "day_of_year": 365.25, "hour": 24.0}
WANTED: Final = ", ".join(WORDS) + ", {cyclic: PERIOD}, [LATITUDE_COLUMN, LONGITUDE_COLUMN]"


@dataclass(frozen=True)
class Column:
    """How a column is read.

    Attributes:
        name: its name in the config.
        kind: what its values are.
        sources: names of the columns of the source: one, or latitude and longitude.
        period: of cyclic values, in their unit; 0 for others.
    """

    name: str
    kind: Kind
    sources: tuple[str, ...]
    period: float = 0.0


class Metadata(Part):
    """Columns of the samples (`ingest.source.metadata_columns`) that a classifier sees beside the photo."""

    columns: dict[str, Any] = Field(default_factory=dict)
    """What is in which column, e.g. `{price: log, brand: category, taken: month, title: text, tide: {cyclic: 12.4},
    place: [lat, lon]}`. Kinds: number, log, category, text, month, day_of_year, hour, {cyclic: PERIOD}, or the two
    columns of latitude and longitude in degrees. Empty: photos alone (docs/metadata.md)."""
    vocabulary: int = Field(default=256, ge=1)
    """Most frequent values of a category that are told apart; the others share `buckets` by a hash."""
    buckets: int = Field(default=32, ge=1)
    """Hashed values of a category beyond its vocabulary, unseen ones included."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Probability that a column is hidden in a training step, so that the classifier works where it is missing."""
    dropout_all: float = Field(default=0.15, ge=0, lt=1)
    """Probability that all columns of a photo are hidden, so that the photo alone is learned, too."""
    sentence_model: str = "all-MiniLM-L6-v2"
    """Sentence-BERT model for columns of text: a hub name, a folder, or the bundled model."""
    leaks: Annotated[Literal["warn", "stop", "ignore"], RUNTIME_ONLY] = "warn"
    """What to do where a column alone nearly says the class on rows held out: report it and go on, stop before
    training, or not look."""

    @property
    def on(self) -> bool:
        """Whether there are any columns."""
        return bool(self.columns)

    @property
    def parsed(self) -> tuple[Column, ...]:
        """The columns, in the order of the config."""
        return tuple(_column(name, kind) for name, kind in self.columns.items())

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all columns of the source that are read, each once."""
        return tuple(dict.fromkeys(source for column in self.parsed for source in column.sources))

    @field_validator("columns")
    @classmethod
    def _kinds_are_known(cls, columns: dict[str, Any]) -> dict[str, Any]:
        for name, kind in columns.items():
            _column(name, kind)
        return columns


class FusedMetadata(Metadata):
    """Columns of the samples (`ingest.source.metadata_columns`) that a student learns beside the photo."""

    dimensions: int = Field(default=256, ge=1)
    """Numbers into which the student encodes all columns that are no texts, and those that are."""
    pretrain_epochs: int = Field(default=0, ge=0)
    """Of the student's `epochs`, those at the start that only bring photo, text and metadata of a class together
    (contrastive pre-training). 0: none."""
    temperature: float = Field(default=0.07, gt=0)
    """Temperature of the contrastive loss."""
    encoder_lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of the metadata's part; null: that of the rest of the student."""


def _column(name: str, kind: Any) -> Column:
    """A column of the config; raises ValueError that says which kinds there are."""
    if isinstance(kind, str) and kind in WORDS:
        return Column(name, kind, (name,), PERIODS.get(kind, 0.0))  # type: ignore[arg-type]  # in WORDS
    if kind == "cyclic":
        raise ValueError(
            f"columns.{name} = cyclic has no period: write {{cyclic: 12}}, or month, day_of_year or hour for dates"
        )
    if isinstance(kind, dict) and set(kind) == {"cyclic"}:
        period = kind["cyclic"]
        if isinstance(period, bool) or not isinstance(period, int | float) or not 0 < period < float("inf"):
            raise ValueError(f"columns.{name}.cyclic = {period}: the period must be a number above 0")
        return Column(name, "cyclic", (name,), float(period))
    if isinstance(kind, list | tuple) and len(kind) == 2 and all(isinstance(each, str) and each for each in kind):
        return Column(name, "place", tuple(kind))
    raise ValueError(f"columns.{name} = {kind}: should be one of {WANTED}")
