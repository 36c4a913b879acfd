"""Sources with boxes: COCO files and drawn scenes."""

import json
from pathlib import Path

import pytest

from fgvr.config.data import BirdScenesSource, CocoSource
from fgvr.detection.coco import CocoError
from fgvr.sources.source import SourceError, read_source, source_state


def write_coco(folder: Path) -> CocoSource:
    image = {"width": 10, "height": 20}
    category = [{"id": 4, "name": "owl"}]
    (folder / "annotations").mkdir(parents=True)
    for split, names in (("train", ["b.jpg", "a.jpg"]), ("val", ["a.jpg"])):
        content = {
            "images": [{"id": 40 + n, "file_name": name, **image} for n, name in enumerate(names)],
            "annotations": [{"id": 1, "image_id": 40, "category_id": 4, "bbox": [0, 0, 0, 5]}],
            "categories": category,
        }
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return CocoSource(path=str(folder))


def test_rows_are_the_listed_images_with_their_ids_and_sizes(tmp_path):
    listed = read_source(write_coco(tmp_path), str(tmp_path))
    rows = listed.rows.to_pylist()
    assert [(Path(row["uri"]).parent.name, Path(row["uri"]).name, row["split"]) for row in rows] == [
        ("train2017", "a.jpg", "train"),
        ("train2017", "b.jpg", "train"),
        ("val2017", "a.jpg", "test"),
    ]
    assert [json.loads(row["metadata"]) for row in rows] == [
        {"coco_image_id": image_id, "width": 10, "height": 20} for image_id in (41, 40, 40)
    ]
    assert all(row["class_name"] is None for row in rows)
    assert len(listed.remarks) == 2
    assert listed.remarks[0].endswith("instances_train2017.json: 1 entries left out (empty_box)")


def test_changed_annotations_are_another_source(tmp_path):
    source = write_coco(tmp_path)
    before = source_state(source)
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text() + " ")
    assert source_state(source) != before
    file.unlink()
    with pytest.raises(SourceError, match="there is no such file"):
        source_state(source)
    with pytest.raises(CocoError, match=r"instances_val2017\.json: there is no such annotations file"):
        read_source(source, str(tmp_path))


def test_scenes_are_drawn_once(tmp_path):
    source = BirdScenesSource(train_scenes=3, test_scenes=2, size=32, classes=2)
    rows = read_source(source, str(tmp_path)).rows.to_pylist()
    assert [row["split"] for row in rows] == ["test"] * 2 + ["train"] * 3
    Path(rows[0]["uri"]).unlink()
    assert read_source(source, str(tmp_path)).rows.num_rows == 5
    assert not Path(rows[0]["uri"]).exists()
    place = str(tmp_path / "here")
    read_source(source.model_copy(update={"draw_to": place}), str(tmp_path))
    with pytest.raises(SourceError, match=r"the scenes there were drawn with size 32; name another folder"):
        read_source(source.model_copy(update={"draw_to": place, "size": 48}), str(tmp_path))
