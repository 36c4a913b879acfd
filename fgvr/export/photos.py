"""The photos of a run with their names: what a table says, corrected by what people decided, read part by part."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from fgvr.config.data import ImageLimits
from fgvr.export.places import ExportError
from fgvr.images.formats import formats
from fgvr.images.read import ImageError, decode_image, read_image_bytes, upright_size
from fgvr.prefetch import read_ahead
from fgvr.review.decisions import Decisions, Kind
from fgvr.tables import Table

BATCH: Final = 4096
"""Rows that are looked at together."""
SHORT_SIDE: Final = 16
"""Of the decoded photo, pixels, where only its being whole is checked."""
PERSON: Final = "person"
"""Source of a name that a person gave."""
ABSTAINED: Final = "abstained"
NO_NAME, BELOW, OTHER_SPLIT = "no name", "score below --min-score", "other split"
SAID_WRONG, NOT_A_NAME = "a person said it is wrong", "a person said it is no name"
ENDINGS: Final = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "HEIF": ".heic", "DIB": ".bmp"}
"""Of formats whose ending is not their name."""


@dataclass(frozen=True)
class NamedPhoto:
    """A photo with its name.

    Attributes:
        image_id: its number in the run.
        uri: where it is.
        split: as in the samples.
        name: what the table says, after all renames, or what a person said.
        source: the table, or `person`.
        score: of the table's name, 0 to 1; None where the table has none, or a person gave the name.
        true_name: the true name, where the source of the photos knows one.
    """

    image_id: int
    uri: str
    split: str
    name: str
    source: str
    score: float | None = None
    true_name: str | None = None


@dataclass(frozen=True)
class PhotoFile:
    """A photo's file as it is stored: its bytes, the ending of its format, and its size in pixels, upright."""

    photo: NamedPhoto
    data: bytes
    ending: str
    width: int
    height: int

    @property
    def file_name(self) -> str:
        """Its file's name in an export; a photo's own name may be unsafe, or be that of another one."""
        return f"{self.photo.image_id:09}{self.ending}"


@dataclass
class NamedPhotos:
    """The photos of `table` that have a name.

    Attributes:
        samples: the samples table.
        table: a table with `image_id` and `label`: labels, predictions.
        decisions: what people decided; it overrules the table.
        split: only photos of this split; None: all.
        min_score: only names with at least this score, or from a person.
        looked: called with the number of photos that have been looked at since the last call.
        left_out: photos without a row in the export, by reason; complete after an iteration.
    """

    samples: Table
    table: Table
    decisions: Decisions = field(default_factory=Decisions)
    split: str | None = None
    min_score: float = 0.0
    looked: Callable[[int], None] | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in self.samples.extra["splits"]:
            known = ", ".join(sorted(self.samples.extra["splits"]))
            raise ExportError(f"--split {self.split}: no photo is in this split (there are: {known})")

    def names(self) -> list[str]:
        """All names, sorted: of all splits and scores, so that exports of one run number them alike.

        Raises:
            ExportError: there is none.
        """
        found = {each.name for each in self.decisions.photos.values() if each.name}
        for rows in self.table.batches(["label"]):
            found.update(
                filter(None, (self.decisions.called(name) for name in pc.unique(rows["label"]).to_pylist() if name))
            )
        if not found:
            raise ExportError(f"no photo of the table {self.table.name} has a name that could be exported")
        return sorted(found)

    def __iter__(self) -> Iterator[NamedPhoto]:
        """The photos in ascending order of their ids."""
        self.left_out.clear()
        for rows in self.table.batches():
            if self.min_score and "score" not in rows.schema.names:
                raise ExportError(f"--min-score: the table {self.table.name} has no scores; leave the option out")
            columns = [name for name in ("image_id", "label", "score", "abstained") if name in rows.schema.names]
            for part in rows.select(columns).to_batches(BATCH):
                if part.num_rows:
                    yield from self._named(part)

    def _named(self, part: pa.RecordBatch) -> Iterator[NamedPhoto]:
        places = self.samples.take(part["image_id"].to_numpy(), ["uri", "split", "class_name"])
        for row, place in zip(part.to_pylist(), places.to_pylist(), strict=True):
            found = self._judged(row, place)
            if isinstance(found, NamedPhoto):
                yield found
            else:
                self.left_out[found] += 1
            if self.looked is not None:
                self.looked(1)

    def _judged(self, row: dict[str, Any], place: dict[str, Any]) -> NamedPhoto | str:
        """The photo with its name, or why it has none."""
        if self.split is not None and place["split"] != self.split:
            return OTHER_SPLIT
        decided = self.decisions.photos.get(place["uri"])
        if decided is None or decided.kind is Kind.CANNOT_TELL:
            name, source, score = self.decisions.called(row["label"] or ""), self.table.name, row.get("score")
            refused = self._refused(row, name)
        else:
            name, source, score = decided.name, PERSON, None
            refused = None if name else SAID_WRONG if decided.kind is Kind.WRONG else NOT_A_NAME
        if name is None or refused is not None:
            return refused or NO_NAME
        if score is not None and not np.isfinite(score):
            score = None  # JSON has no NaN
        return NamedPhoto(row["image_id"], place["uri"], place["split"], name, source, score, place["class_name"])

    def _refused(self, row: dict[str, Any], name: str | None) -> str | None:
        """Why the table's name of a photo does not count; None where it does."""
        score = row.get("score")
        if not row["label"]:
            return NO_NAME
        if row.get("abstained"):
            return ABSTAINED
        if self.min_score and not (score is not None and score >= self.min_score):  # NaN is below, too
            return BELOW
        return NOT_A_NAME if name is None else None

    def facts(self, written: int) -> dict[str, Any]:
        """What `export.json` says of the photos; raises ExportError where none was written."""
        left_out = {reason: count for reason, count in sorted(self.left_out.items()) if count}
        if not written:
            said = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items())
            raise ExportError(f"no photo is left to export ({said or 'the table is empty'})")
        return {
            "table": self.table.name,
            "fingerprint": self.table.version,
            "photos": written,
            "left_out": left_out,
            "split": self.split,
            "min_score": self.min_score,
        }


def photo_files(photos: NamedPhotos, limits: ImageLimits, threads: int = 4) -> Iterator[PhotoFile]:
    """The photos with their files, a few read ahead; what cannot be read is counted in `photos.left_out` by reason.

    Every photo is decoded once, a JPEG at a fraction of its size: a damaged one is not passed on.
    """

    def read(photo: NamedPhoto) -> PhotoFile | str:
        try:
            data = read_image_bytes(photo.uri, limits)
            decode_image(data, limits, short_side=SHORT_SIDE)
        except ImageError as error:
            return error.reason.value
        return PhotoFile(photo, data, _ending(data), *upright_size(data))

    for found in read_ahead(read, photos, threads=threads, ahead=2 * threads):
        if isinstance(found, str):
            photos.left_out[found] += 1
        else:
            yield found


def _ending(data: bytes) -> str:
    """The ending of an image file's format: the one in its name may be another."""
    with Image.open(io.BytesIO(data), formats=formats()) as image:
        kind = image.format or "image"
    return ENDINGS.get(kind, f".{kind.lower()}")
