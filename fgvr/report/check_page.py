"""The page of what is wrong with photos: by issue, with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fgvr.config.data import ImageLimits
from fgvr.report.page import render_page
from fgvr.report.pictures import thumbnail
from fgvr.tables import Table


@dataclass(frozen=True)
class CheckedPhoto:
    """A photo with an issue, and the one that it is a copy of.

    Attributes:
        title: its file name.
        split: as in the samples.
        class_name: its true class; "" if unknown.
        thumbnail: a data: URI; "" if it cannot be read.
        detail: what was measured.
        other: likewise of the other photo; None where there is none.
    """

    SHOWN: ClassVar[int] = 12

    title: str
    split: str
    class_name: str
    thumbnail: str
    detail: str = ""
    other: CheckedPhoto | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any], samples: Table, limits: ImageLimits) -> CheckedPhoto:
        """From a row of FINDINGS."""
        other = None if row["copy_of"] is None else cls._plain(row["copy_of"], samples, limits)
        photo = cls._plain(row["image_id"], samples, limits)
        return cls(photo.title, photo.split, photo.class_name, photo.thumbnail, row["detail"] or "", other)

    @classmethod
    def _plain(cls, image: int, samples: Table, limits: ImageLimits) -> CheckedPhoto:
        (place,) = samples.take(np.array([image]), ["uri", "split", "class_name"]).to_pylist()
        return cls(
            place["uri"].rpartition("/")[2],
            place["split"],
            place["class_name"] or "",
            thumbnail(place["uri"], limits)[0],
        )


@dataclass(frozen=True)
class IssueSection:
    """One kind of issue: how many photos have it, what to do, and some of them."""

    issue: str
    count: int
    remedy: str
    photos: Sequence[CheckedPhoto]


def check_page(run: str, facts: Mapping[str, Any], sections: Sequence[IssueSection]) -> str:
    """The page, complete in one file."""
    return render_page("check.html", run=run, facts=facts, sections=sections)
