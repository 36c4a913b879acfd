"""From the numbers about photos to findings: what is wrong, with which photo, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr import schemas
from fgvr.checks.copies import groups_of, near_groups
from fgvr.config.check import Check
from fgvr.names.merging import in_other_order, name_words, one_spelling, with_a_slip

RULES = 1
"""Increase it when the same photos would give other findings."""


class Issue(StrEnum):
    """What can be wrong; the order is that in which people should look."""

    UNREADABLE = "unreadable"
    ACROSS_SPLITS = "copy in another split"
    TWO_CLASSES = "copy with another class"
    EXACT_COPY = "exact copy"
    NEAR_COPY = "near copy"
    LOW_CONTRAST = "nothing to see"
    DARK = "dark"
    LIGHT = "light"
    BLURRED = "blurred"
    TINY = "tiny"
    ODD_ASPECT = "odd aspect"


REMEDIES: Final = {
    Issue.UNREADABLE: "mend or remove the files; a run makes failed rows of them",
    Issue.ACROSS_SPLITS: "scores flatter: leave the test photos out, or split by group (ingest.source.group_column)",
    Issue.TWO_CLASSES: "one photo, two classes: one of the two is wrong, or the classes overlap",
    Issue.EXACT_COPY: "leave the copies out, or label one of them (label.duplicate_similarity)",
    Issue.NEAR_COPY: "label one of them (label.duplicate_similarity), and split by group",
    Issue.LOW_CONTRAST: "leave them out: there is nothing to name",
    Issue.DARK: "look at some: names of dark photos are guesses",
    Issue.LIGHT: "look at some: washed out, or a product on white",
    Issue.BLURRED: "look at some: blurred, or a plain surface",
    Issue.TINY: "look at some: icons and thumbnails",
    Issue.ODD_ASPECT: "look at some: banners and strips lose their ends in a square crop",
}


@dataclass(frozen=True)
class Photos:
    """The photos that were checked: rows of PHOTO_CHECKS beside their samples.

    Attributes:
        checks: the table, N rows.
        splits: of each photo.
        classes: the true class of each; None where there is none.
    """

    checks: pa.Table
    splits: Sequence[str]
    classes: Sequence[str | None]


def findings(photos: Photos, config: Check) -> pa.Table:
    """One row of FINDINGS per photo and issue, by issue, the worst first.

    Copies have the id of the first photo of their group, which itself is no finding unless it lies in another split or
    has another class than one of them.
    """
    rows = [*_bad_pictures(photos.checks, config), *_copies(photos, config)]
    order = {issue: place for place, issue in enumerate(Issue)}
    rows.sort(key=lambda row: (order[row["issue"]], row["value"] if row["value"] is not None else 0, row["image_id"]))
    return pa.Table.from_pylist([row | {"issue": str(row["issue"])} for row in rows], schema=schemas.FINDINGS)


def _finding(
    image: int, issue: Issue, value: float | None = None, copy_of: int | None = None, detail: str = ""
) -> dict[str, Any]:
    return {"image_id": image, "issue": issue, "value": value, "copy_of": copy_of, "detail": detail}


def _bad_pictures(checks: pa.Table, config: Check) -> Iterator[dict[str, Any]]:
    ids = checks["image_id"].to_numpy()
    there = checks["unreadable"].is_null().to_numpy(zero_copy_only=False)
    for place in np.flatnonzero(~there).tolist():
        why = checks["unreadable"][place].as_py()
        yield _finding(int(ids[place]), Issue.UNREADABLE, detail=f"{why['reason']}: {why['detail']}")
    numbers = {name: _numbers(checks, name) for name in ("width", "height", "brightness", "contrast", "sharpness")}
    short = np.minimum(numbers["width"], numbers["height"])
    ratio = np.maximum(numbers["width"], numbers["height"]) / np.maximum(short, 1)
    dark, light = numbers["brightness"] < config.dark, numbers["brightness"] > config.light
    blank = ~dark & ~light & (numbers["contrast"] < config.low_contrast)
    for issue, value, wrong in (
        (Issue.LOW_CONTRAST, numbers["contrast"], blank),
        (Issue.DARK, numbers["brightness"], dark),
        (Issue.LIGHT, -numbers["brightness"], light),
        (Issue.BLURRED, numbers["sharpness"], ~blank & ~dark & ~light & (numbers["sharpness"] < config.blurred)),
        (Issue.TINY, short, short < config.tiny),
        (Issue.ODD_ASPECT, -ratio, ratio > config.odd_aspect),
    ):
        for place in np.flatnonzero(there & wrong).tolist():
            yield _finding(int(ids[place]), issue, float(value[place]), detail=f"{abs(value[place]):.4g}")


def _numbers(checks: pa.Table, name: str) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = checks[name].cast(pa.float64()).fill_null(np.nan).to_numpy()
    return found


def _copies(photos: Photos, config: Check) -> Iterator[dict[str, Any]]:
    """Copies among the photos that can be read; near copies only where there is something to see."""
    checks = photos.checks
    seen = np.flatnonzero(checks["unreadable"].is_null().to_numpy(zero_copy_only=False))
    ids, read = checks["image_id"].to_numpy()[seen], checks.take(pa.array(seen))
    exact = groups_of(_bytes(read["digest"]))
    showing = np.flatnonzero(_numbers(read, "contrast") >= config.low_contrast)
    near = np.arange(len(seen), dtype=np.int64)
    colours = _bytes(read["colours"]).view(np.uint8)
    near[showing] = showing[near_groups(read["look"].to_numpy()[showing], colours[showing], config.near)]
    together = near[exact]  # an exact copy is where the first of its copies is
    for at in np.flatnonzero(together != np.arange(len(seen))).tolist():
        if exact[at] != at:
            yield _finding(int(ids[at]), Issue.EXACT_COPY, copy_of=int(ids[exact[at]]))
        else:
            yield _finding(int(ids[at]), Issue.NEAR_COPY, copy_of=int(ids[together[at]]))
    several = np.bincount(together, minlength=len(seen)) > 1
    order = np.argsort(together, kind="stable")
    order = order[several[together[order]]]
    bounds = np.flatnonzero(np.diff(together[order])) + 1
    for group in np.split(order, bounds):
        if len(group) > 1:
            yield from _torn(seen[group].tolist(), ids[group].tolist(), photos)


def _bytes(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Values without nulls of a column of w bytes as uint64 [N, w / 8]."""
    width = column.type.byte_width
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    words = width // 8
    data = array.buffers()[1] if len(array) else None
    if data is None:
        return np.zeros((0, words), np.uint64)
    return np.frombuffer(data, np.uint64, words * len(array), width * array.offset).reshape(len(array), words)


def _torn(places: Sequence[int], ids: Sequence[int], photos: Photos) -> Iterator[dict[str, Any]]:
    """Copies of one photo in several splits or with several classes."""
    splits = [photos.splits[place] for place in places]
    classes = [photos.classes[place] for place in places]
    for split in sorted(set(splits)):
        others = [image for image, other in zip(ids, splits, strict=True) if other != split]
        if others:
            for image, own in zip(ids, splits, strict=True):
                if own == split:
                    yield _finding(image, Issue.ACROSS_SPLITS, copy_of=others[0], detail=split)
    known = {name for name in classes if name is not None}
    if len(known) > 1:
        for image, name in zip(ids, classes, strict=True):
            if name is not None:
                other = next(i for i, each in zip(ids, classes, strict=True) if each not in {None, name})
                yield _finding(image, Issue.TWO_CLASSES, copy_of=other, detail=name)


@dataclass(frozen=True)
class ClassFindings:
    """What is odd about classes.

    Attributes:
        alike: pairs of names that may mean one thing: spelled alike, in another order, or a letter apart.
        few: (class, photos) of those with few photos in the split that is learned from, fewest first.
        absent: classes of other splits without any photo there.
    """

    alike: list[tuple[str, str]]
    few: list[tuple[str, int]]
    absent: list[str]


def class_findings(splits: Sequence[str], classes: Sequence[str | None], learned: str, few: int) -> ClassFindings:
    """Look at the true classes of all photos.

    Args:
        splits: of each photo.
        classes: of each photo.
        learned: the split that is learned from.
        few: photos below which a class has few.
    """
    counts = Counter(name for name, split in zip(classes, splits, strict=True) if name is not None and split == learned)
    names = sorted({name for name in classes if name is not None})
    return ClassFindings(
        alike=alike_names(names),
        few=sorted(
            ((name, count) for name, count in counts.items() if count < few), key=lambda each: (each[1], each[0])
        ),
        absent=[name for name in names if not counts[name]] if counts else [],
    )


def alike_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of distinct names that may mean one thing: spelled alike, in another order, or a letter apart."""
    words = [name_words(name) for name in names]
    spelled: dict[str, list[int]] = {}
    for place, each in enumerate(words):
        spelled.setdefault(one_spelling(each), []).append(place)
    pairs = {(group[0], other) for group in spelled.values() for other in group[1:]}
    pairs |= {*in_other_order(words), *with_a_slip(words)}
    return [(names[one], names[other]) for one, other in sorted(pairs)]
