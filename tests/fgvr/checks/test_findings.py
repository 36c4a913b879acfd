"""Findings from planted numbers: each issue once, copies in other splits and with other classes, odd classes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from fgvr import schemas
from fgvr.checks.findings import Photos, class_findings, findings
from fgvr.config.check import Check

GOOD = {"width": 640, "height": 480, "file_bytes": 9, "brightness": 120.0, "contrast": 50.0, "sharpness": 500.0}


def photos(*rows: dict[str, Any], splits: str = "", classes: tuple[str | None, ...] = ()) -> Photos:
    """Photos like GOOD apart from what is given; unlike all others unless a digest or a look is given."""
    full = [
        {
            "image_id": n,
            **GOOD,
            "digest": bytes([n]) * 16,
            "look": n * 0x0101_0101_0101_0101,
            "colours": bytes(48),
            **row,
        }
        for n, row in enumerate(rows)
    ]
    names = {"a": "train", "b": "test"}
    table = pa.Table.from_pylist(full, schema=schemas.PHOTO_CHECKS)
    return Photos(table, [names[each] for each in splits or "a" * len(rows)], classes or (None,) * len(rows))


def found(given: Photos, **limits: Any) -> list[tuple[int, str, int | None]]:
    rows = findings(given, Check(**limits))
    assert rows.schema == schemas.FINDINGS
    return [(row["image_id"], row["issue"], row["copy_of"]) for row in rows.to_pylist()]


def test_good_photos_have_no_findings() -> None:
    assert found(photos({}, {}, {})) == []
    assert found(photos()) == []


def test_each_bad_picture_is_found_once_and_the_worst_first() -> None:
    unreadable = dict.fromkeys((*GOOD, "digest", "look", "colours")) | {
        "unreadable": {"reason": "corrupt", "detail": "cut"}
    }
    given = photos(
        {"brightness": 20.0},
        {"brightness": 10.0},
        {"brightness": 250.0},
        {"sharpness": 3.0},
        {"width": 40, "height": 40},
        {"width": 1000, "height": 200},
        {"contrast": 1.0, "brightness": 90.0, "sharpness": 0.0},
        unreadable,
    )
    assert found(given) == [
        (7, "unreadable", None),
        (6, "nothing to see", None),
        (1, "dark", None),
        (0, "dark", None),
        (2, "light", None),
        (3, "blurred", None),
        (4, "tiny", None),
        (5, "odd aspect", None),
    ]


def test_copies_name_the_first_of_their_group() -> None:
    same = bytes(16)
    given = photos({"digest": same}, {}, {"digest": same}, {"look": 0b111}, {"digest": same})
    assert found(given) == [(2, "exact copy", 0), (4, "exact copy", 0), (3, "near copy", 0)]
    assert found(given, near=2) == [(2, "exact copy", 0), (4, "exact copy", 0)]


def test_plain_surfaces_are_not_near_copies() -> None:
    given = photos({"contrast": 2.0, "look": 0}, {"contrast": 2.0, "look": 0}, {"look": 0})
    assert [row for row in found(given) if "copy" in row[1]] == []


def test_copies_across_splits_and_classes_concern_both_sides() -> None:
    given = photos({"look": 7}, {"look": 7}, {}, {"look": 7}, splits="abba", classes=("Wren", "Finch", "Gull", None))
    rows = found(given)
    assert [row for row in rows if row[1] == "copy in another split"] == [
        (0, "copy in another split", 1),
        (1, "copy in another split", 0),
        (3, "copy in another split", 1),
    ]
    assert [row for row in rows if row[1] == "copy with another class"] == [
        (0, "copy with another class", 1),
        (1, "copy with another class", 0),
    ]


def test_odd_classes() -> None:
    classes = ["Red Apple", "red apples", "Dicksissel", "Dickcissel", "Apple Red", "Pear", "Pear", None]
    splits = ["train"] * 6 + ["test", "train"]
    odd = class_findings(splits, classes, "train", few=2)
    assert {frozenset(pair) for pair in odd.alike} == {
        frozenset({"Red Apple", "red apples"}),
        frozenset({"Dicksissel", "Dickcissel"}),
        frozenset({"Apple Red", "Red Apple"}),
        frozenset({"Apple Red", "red apples"}),
    }
    assert odd.few[0] == ("Apple Red", 1)
    assert odd.absent == []
    assert class_findings(["train", "test"], ["Pear", "Plum"], "train", 5).absent == ["Plum"]
    assert class_findings(["train"], [None], "train", 5).alike == []
