import argparse
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from fgvr.config.data import BirdScenesSource
from fgvr.demo.bird_scenes import (
    MAX_OVERLAP,
    RANGES,
    SceneSettings,
    bird_box,
    coco_content,
    draw_scene,
    main,
    scene_aspects,
)
from fgvr.demo.questions import QUESTIONS
from fgvr.demo.scene import sample_scene
from fgvr.demo.species import SPECIES, Attributes


def iou(one, other) -> float:
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def test_boxes_lie_around_birds_that_can_be_seen():
    settings = SceneSettings(size=80, birds=3, classes=6)
    names, counts = Counter(), Counter()
    for index in range(60):
        scene = draw_scene(settings, "train", index)
        assert scene.image.shape == (80, 80, 3)
        assert len(scene.birds) == len(scene.boxes)
        names.update(bird.name for bird in scene.birds)
        counts[len(scene.birds)] += 1
        for number, box in enumerate(scene.boxes):
            assert 0 <= box[0] < box[2] <= 80
            assert 0 <= box[1] < box[3] <= 80
            assert all(iou(box, other) <= MAX_OVERLAP for other in scene.boxes[:number])
    assert set(names) == {species.name for species in settings.species}
    assert {species.genus for species in settings.species} == {species.genus for species in SPECIES}
    assert set(counts) == {0, 1, 2, 3}


def test_a_box_is_as_tight_as_the_drawing():
    # A plain bird of 50 px a unit in the middle of 200 px. From the outlines in drawing.py: tail to −0.86, tip of the
    # beak at 1.0, top of the crown at −0.46 − 0.05 − 0.28, feet at 0.6 and half of a stroke of 0.085.
    pose = replace(
        sample_scene(np.random.default_rng(0), 0), flip=False, rotation=0, neck=(0, 0), centre=(100, 100), scale=50
    )
    box = bird_box(Attributes(), pose, 200)
    np.testing.assert_allclose(box, (57, 60.5, 150, 132), atol=2)
    np.testing.assert_allclose(bird_box(Attributes(), replace(pose, flip=True), 200), (50, 60.5, 143, 132), atol=2)
    np.testing.assert_allclose(bird_box(Attributes(), replace(pose, centre=(0, 100)), 200), (0, 60.5, 50, 132), atol=2)
    assert bird_box(Attributes(), replace(pose, centre=(-300, 100)), 200) is None


def test_scenes_do_not_depend_on_how_many_are_drawn_and_differ_by_seed_and_split():
    one, again = (draw_scene(SceneSettings(), "train", 5) for _ in range(2))
    assert np.array_equal(one.image, again.image)
    assert one.boxes == again.boxes
    for other in (draw_scene(SceneSettings(seed=1), "train", 5), draw_scene(SceneSettings(), "test", 5)):
        assert not np.array_equal(one.image, other.image)


def test_aspects_of_a_scene_are_shares_of_its_birds():
    finch, warbler = SPECIES[0], SPECIES[6]  # an azure body, an orange beak; a golden body, a sable beak
    shares = dict(zip([q.text for q in QUESTIONS], scene_aspects([finch.name, warbler.name, finch.name]), strict=True))
    assert shares["Is the body of the bird blue?"] == pytest.approx(2 / 3)
    assert shares["Is the beak black?"] == pytest.approx(1 / 3)
    assert shares["Is the body of the bird red?"] == 0
    assert np.isnan(scene_aspects([])).all()


def test_written_scenes_are_what_coco_calls_annotations(tmp_path):
    from pycocotools.coco import COCO

    main([str(tmp_path), "--train", "6", "--test", "2", "--size", "48", "--classes", "3"])
    content = json.loads((tmp_path / "annotations" / "train.json").read_text())
    assert [category["id"] for category in content["categories"]] == [1, 13, 25]
    scenes = [draw_scene(SceneSettings(size=48, classes=3), "train", index) for index in range(6)]
    assert content == json.loads(json.dumps(coco_content(SceneSettings(size=48, classes=3), scenes)))
    read = COCO(str(tmp_path / "annotations" / "train.json"))
    for image in read.loadImgs(read.getImgIds()):
        assert (tmp_path / "train" / image["file_name"]).stat().st_size > 0
        boxes = [entry["bbox"] for entry in read.loadAnns(read.getAnnIds(image["id"]))]
        assert boxes == [[x, y, right - x, bottom - y] for x, y, right, bottom in scenes[image["id"]].boxes]


@pytest.mark.parametrize(
    ("option", "allowed"),
    [
        ("--classes=37", "1 to 36"),
        ("--classes=0", "1 to 36"),
        ("--birds=0", "1 to 20"),
        ("--birds=many", "1 to 20"),
        ("--size=16", "32 to 1024"),
        ("--train=-1", "0 or more"),
        ("--difficulty=nan", "a number, 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_range(tmp_path, capsys, option, allowed):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), option])
    name, value = option.split("=")
    message = capsys.readouterr().err
    assert f"argument {name}: {value}: " in message
    assert allowed in message
    assert list(tmp_path.iterdir()) == []


def test_the_ranges_are_those_of_the_config():
    for name in ("size", "birds", "classes"):
        low, high = (
            getattr(limit, key)
            for limit, key in zip(BirdScenesSource.model_fields[name].metadata, ("ge", "le"), strict=True)
        )
        assert [RANGES[name](str(value)) for value in (low, high)] == [low, high]
        for value in (low - 1, high + 1):
            with pytest.raises(argparse.ArgumentTypeError):
                RANGES[name](str(value))
