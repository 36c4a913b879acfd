"""COCO files as strangers write them: every oddity has an outcome."""

import json
import math

import numpy as np
import pytest

from fgvr.detection.coco import Category, CocoError, LeftOut, parse_coco, read_coco


def content(annotations=(), images=None, categories=None) -> dict:
    return {
        "images": images or [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 50}],
        "annotations": [{"image_id": 7, "category_id": 3, **entry} for entry in annotations],
        "categories": categories or [{"id": 90, "name": "owl"}, {"id": 3, "name": "finch"}],
    }


def test_boxes_become_corners_and_ids_become_positions():
    read = parse_coco(
        content(
            [
                {"id": 1, "bbox": [10, 5, 20, 30], "area": 321.5, "iscrowd": 0},
                {"id": 1, "bbox": [0, 0, 100, 50], "category_id": 90, "iscrowd": 1},  # the id is not used
            ],
            images=[
                {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50},
                {"id": 2, "file_name": "b.jpg", "width": 10, "height": 10},
            ],
        ),
        "x.json",
    )
    assert read.categories == (Category(3, "finch"), Category(90, "owl"))
    assert [(image.id, image.file_name) for image in read.images] == [(7, "a.jpg"), (2, "b.jpg")]
    objects = read.images[0].objects
    np.testing.assert_array_equal(objects.boxes, [[10, 5, 30, 35], [0, 0, 100, 50]])
    assert objects.classes.tolist() == [0, 1]
    assert objects.crowd.tolist() == [False, True]
    assert objects.areas.tolist() == [321.5, 5000]  # its own where the file gives none
    empty = read.images[1].objects  # an image without annotations stays
    assert (len(empty), empty.boxes.shape) == (0, (0, 4))
    assert read.left_out == {}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"bbox": [10, 10, 0, 5]}, LeftOut.EMPTY_BOX),
        ({"bbox": [10, 10, 5, 0]}, LeftOut.EMPTY_BOX),
        ({"bbox": [10, 10, -3, 5]}, LeftOut.EMPTY_BOX),
        ({"bbox": [99.999999, 10, 1e-9, 5]}, LeftOut.EMPTY_BOX),
        ({"bbox": [100, 10, 5, 5]}, LeftOut.OUTSIDE),
        ({"bbox": [-20, 10, 20, 5]}, LeftOut.OUTSIDE),
        ({"bbox": [10, 60, 5, 5]}, LeftOut.OUTSIDE),
        ({"bbox": []}, LeftOut.NO_BOX),
        ({}, LeftOut.NO_BOX),
        ({"bbox": [1, 2, 3]}, LeftOut.NO_BOX),
        ({"bbox": [1, 2, 3, math.nan]}, LeftOut.NO_BOX),
        ({"bbox": [1, 2, 3, None]}, LeftOut.NO_BOX),
        ({"bbox": [1, 2, 3, 10**400]}, LeftOut.NO_BOX),
        ({"bbox": [-1e300, 2, 1e300, 4]}, LeftOut.NO_BOX),
        ({"bbox": [1, 2, 3, 4], "image_id": 8}, LeftOut.UNKNOWN_IMAGE),
        ({"bbox": [1, 2, 3, 4], "image_id": "7"}, LeftOut.UNKNOWN_IMAGE),
        ({"bbox": [1, 2, 3, 4], "category_id": 4}, LeftOut.UNKNOWN_CATEGORY),
        ({"bbox": [1, 2, 3, 4], "category_id": None}, LeftOut.UNKNOWN_CATEGORY),
    ],
)
def test_a_wrong_annotation_costs_itself_only_and_is_counted(entry, reason):
    read = parse_coco(content([entry, {"bbox": [1, 2, 3, 4]}]), "x.json")
    assert read.left_out == {reason: 1}
    assert read.images[0].objects.boxes.tolist() == [[1, 2, 4, 6]]


def test_boxes_are_cut_off_at_the_border():
    read = parse_coco(content([{"bbox": [-5, 40, 25, 30]}]), "x.json")
    assert read.images[0].objects.boxes.tolist() == [[0, 40, 20, 50]]
    assert read.images[0].objects.areas.tolist() == [200]


def test_an_image_listed_twice_alike_is_one():
    image = {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50}
    read = parse_coco(content(images=[image, image]), "x.json")
    assert (len(read.images), read.left_out) == (1, {LeftOut.REPEATED_IMAGE: 1})


A = {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [A, {**A, "file_name": "b.jpg"}]}, "two images have the id 7: a.jpg and b.jpg"),
        ({"images": [A, {**A, "id": 8}]}, "a.jpg is listed under two ids, 7 and 8"),
        ({"images": [{**A, "id": "x"}]}, r"images\[0\] has no integer id"),
        ({"images": [{**A, "id": 2**63}]}, r"images\[0\] has no integer id"),
        ({"images": [{**A, "width": 0}]}, r"images\[0\] needs"),
        ({"images": [{**A, "height": 2**31}]}, r"images\[0\] needs"),
        ({"images": [{**A, "file_name": None}]}, r"images\[0\] needs"),
        ({"images": None}, "expected COCO's annotations"),
        ({"annotations": 5}, "expected COCO's annotations"),
        ({"annotations": {"1": {}}}, "expected COCO's annotations"),
        ({"categories": []}, "lists no categories"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "two categories have the id 1"),
        ({"categories": [{"name": "a"}]}, r"categories\[0\] has no integer id"),
    ],
)
def test_what_cannot_be_told_apart_ends_the_reading(change, message):
    with pytest.raises(CocoError, match=f"x.json: .*{message}"):
        parse_coco({**content(), **change}, "x.json")


def test_files_that_are_none(tmp_path):
    with pytest.raises(CocoError, match="there is no such annotations file"):
        read_coco(str(tmp_path / "none.json"))
    for text in (b"<html>", b"\xff\xfe\x00", b"[]", b"[" * 100_000):
        (tmp_path / "bad.json").write_bytes(text)
        with pytest.raises(CocoError, match=r"bad\.json: (not a JSON file|expected COCO)"):
            read_coco(str(tmp_path / "bad.json"))
    twice = json.dumps(content())[:-1] + ', "annotations": []}'
    (tmp_path / "twice.json").write_text(twice)
    with pytest.raises(CocoError, match=r"twice\.json: 'annotations' stands twice in an object"):
        read_coco(str(tmp_path / "twice.json"))
    (tmp_path / "good.json").write_text(json.dumps(content()))
    assert len(read_coco(str(tmp_path / "good.json")).images) == 1
