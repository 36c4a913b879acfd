"""The layouts of MaKD's other data sets: what is listed of a small copy of each."""

import json
import shutil
from collections import Counter
from pathlib import Path

import downloads
import pytest
from test_layouts import read

from fgvr.config import ConfigError, build
from fgvr.config.data import LayoutSource
from fgvr.sources.seeded_splits import CALTECH_COUNTS, training_images
from fgvr.sources.source import SourceError, read_source, source_state

# Lines of WordNet 3.0, shortened behind the lemmas.
WORDNET = """  14 WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved.
01532829 05 n 03 house_finch 0 linnet 2 Carpodacus_mexicanus 0 002 @ 01529672 n 0000 | small finch
02110341 05 n 03 dalmatian 0 coach_dog 0 carriage_dog 0 002 @ 02084071 n 0000 | a large breed
04146614 06 n 01 school_bus 0 001 @ 02924116 n 0000 | a bus used to transport children to or from school
"""


@pytest.mark.parametrize("above", [False, True])
def test_dtd(tmp_path: Path, above: bool) -> None:
    """Class ids go by name, whatever the order of the lists; what no list names is left out."""
    root = downloads.dtd(tmp_path / "dtd")
    found = read("dtd", tmp_path if above else root)
    assert [(Path(path).name, *rest) for path, *rest in found] == [
        ("banded_0002.jpg", "train", 0, "banded"),
        ("banded_0004.jpg", "val", 0, "banded"),
        ("banded_0005.jpg", "test", 0, "banded"),
        ("braided_0051.jpg", "test", 1, "braided"),
        ("polka-dotted_0032.jpg", "train", 2, "polka-dotted"),
    ]


def test_another_fold_of_dtd(tmp_path: Path) -> None:
    root = downloads.dtd(tmp_path)
    assert [row[1] for row in read("dtd", root, fold=2)] == ["test", "test", "train", "train", "val"]
    with pytest.raises(SourceError, match=r"labels/train3\.txt is missing"):
        read("dtd", root, fold=3)


@pytest.mark.parametrize("place", ["fgvc-aircraft-2013b/data", "fgvc-aircraft-2013b", "."])
def test_aircraft(tmp_path: Path, place: str) -> None:
    downloads.aircraft(tmp_path)
    assert [(Path(path).name, *rest) for path, *rest in read("aircraft", tmp_path / place)] == [
        ("0034309.jpg", "train", 3, "F/A-18"),
        ("0056978.jpg", "val", 0, "707-320"),
        ("0062765.jpg", "test", 2, "F-16A/B"),
        ("0900914.jpg", "test", 1, "Beechcraft 1900"),
        ("1025794.jpg", "train", 1, "Beechcraft 1900"),
    ]


def test_validation_images_that_train(tmp_path: Path) -> None:
    """As images_variant_trainval.txt has it; the counts that are checked stay those of the download."""
    root = downloads.aircraft(tmp_path)
    assert Counter(row[1] for row in read("aircraft", root, val_as_train=True)) == {"train": 3, "test": 2}
    source = LayoutSource(name="aircraft", path=str(root), val_as_train=True)
    assert "2 train + 1 val + 2 test images of 4 classes, where" in read_source(source, "").remarks[0]


def test_the_banner_of_aircraft_is_decided_on() -> None:
    source = {"kind": "layout", "name": "aircraft", "path": "x"}
    with pytest.raises(ConfigError, match=r"ingest.*banner of 20 pixels.*limits\.cut_bottom"):
        build({"ingest": {"source": source}})
    assert build({"ingest": {"source": source, "limits": {"cut_bottom": 0}}}).ingest.limits.cut_bottom == 0


@pytest.mark.parametrize("place", ["caltech101/101_ObjectCategories", "caltech101", "."])
def test_caltech101(tmp_path: Path, place: str) -> None:
    downloads.caltech101(tmp_path / "caltech101")
    found = read("caltech101", tmp_path / place)
    assert len(found) == 98 * 2 + 6 + 6 + 1
    assert sorted({row[2] for row in found}) == list(range(101))
    names = {Path(row[0]).parent.name: row[3] for row in found}
    assert list(CALTECH_COUNTS) == downloads.CALTECH
    assert (names["Faces"], names["Faces_easy"]) == ("off-center face", "centered face")
    assert (names["water_lilly"], names["grand_piano"]) == ("water lily", "grand piano")
    assert "BACKGROUND_Google" not in names
    of_classes: dict[str, Counter[str]] = {}
    for path, split, *_ in found:
        of_classes.setdefault(Path(path).parent.name, Counter())[split] += 1
    # 30 a class, but always one to test on; the only photo of a class is trained on.
    assert of_classes.pop("wrench") == {"train": 1}
    assert of_classes.pop("Faces") == of_classes.pop("Faces_easy") == {"train": 5, "test": 1}
    assert all(splits == {"train": 1, "test": 1} for splits in of_classes.values())


def test_both_crops_of_a_face_are_in_the_same_split(tmp_path: Path) -> None:
    root = downloads.caltech101(tmp_path)
    tests = []
    for seed in range(8):
        found = read("caltech101", root, train_per_class=3, split_seed=seed)
        faces = {path.split("/", 1)[1]: split for path, split, *_ in found if "/Faces" in path}
        assert Counter(faces.values()) == {"train": 6, "test": 6}
        for number in range(1, 7):
            assert faces[f"Faces/image_{number:04d}.jpg"] == faces[f"Faces_easy/image_{number:04d}.jpg"]
        tests.append(tuple(path for path, split in faces.items() if split == "test"))
    assert len(set(tests)) > 1


def test_photos_that_are_added_to_caltech101_make_another_table(tmp_path: Path) -> None:
    source = LayoutSource(name="caltech101", path=str(downloads.caltech101(tmp_path)))
    before = source_state(source)
    photo = tmp_path / "101_ObjectCategories" / "wrench" / "image_0002.jpg"
    photo.write_text("")
    assert source_state(source)["photos"] == {**before["photos"], "wrench": 2}


def test_mini_imagenet_is_split_within_classes(tmp_path: Path) -> None:
    """The lists have classes of their own each, and a classifier of one knows none of another's."""
    root = downloads.mini_imagenet(tmp_path)
    found = read("mini_imagenet", root, train_per_class=2)
    assert [(row[2], row[3]) for row in found] == [(0, "house finch")] * 3 + [(1, "dalmatian")] * 3 + [
        (2, "school bus")
    ] * 3
    for number in range(3):
        assert Counter(row[1] for row in found if row[2] == number) == {"train": 2, "test": 1}
    listed = read_source(LayoutSource(name="mini_imagenet", path=str(root)), "")
    facts = [json.loads(row) for row in listed.rows["metadata"].to_pylist()]
    assert facts[0] == {"wordnet": "n01532829", "few_shot": "train"}
    assert [fact["few_shot"] for fact in facts[3::3]] == ["test", "val"]
    assert "the published lists have other classes for training and test" in listed.remarks[-1]


@pytest.mark.parametrize(
    "text", [WORDNET, "n01532829 house finch, linnet\nn02110341 dalmatian\nn04146614 school bus\n"]
)
def test_names_from_wordnet_or_from_a_list_of_one_s_own(tmp_path: Path, text: str) -> None:
    root = downloads.mini_imagenet(tmp_path / "mini-imagenet")
    (root / "words.txt").unlink()
    names = tmp_path / "names"
    names.write_text(text)
    found = read("mini_imagenet", tmp_path, class_names=str(names))
    assert [row[3] for row in found[::3]] == ["house finch", "dalmatian", "school bus"]


def test_another_release_of_wordnet_is_refused(tmp_path: Path) -> None:
    root = downloads.mini_imagenet(tmp_path)
    (root / "words.txt").write_text(WORDNET.replace("WordNet 3.0", "WordNet 3.1"))
    with pytest.raises(SourceError, match=r"words\.txt is not of WordNet 3\.0, whose ids ImageNet has"):
        read("mini_imagenet", root)


def test_seeded_splits_do_not_depend_on_other_classes(tmp_path: Path) -> None:
    root = downloads.caltech101(tmp_path)
    whole = read("caltech101", root, train_per_class=3)
    shutil.rmtree(root / "101_ObjectCategories" / "ant")
    downloads.photos(root, "101_ObjectCategories/ant/image_0001.jpg")
    fewer = read("caltech101", root, train_per_class=3)
    assert [row for row in fewer if "/ant/" not in row[0]] == [row for row in whole if "/ant/" not in row[0]]
    photos = [f"{number:04d}" for number in range(600)]
    drawn = [training_images(photos, 500, seed, "a") for seed in (0, 1)]
    assert [len(each) for each in drawn] == [500, 500]
    assert drawn[0] != drawn[1]
    assert drawn[0] != training_images(photos, 500, 0, "b")
    assert drawn[0] == training_images(photos, 500, 0, "a")


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("cub", "val_as_train", True),
        ("aircraft", "fold", 2),
        ("dtd", "train_per_class", 3),
        ("dtd", "split_seed", 1),
        ("caltech101", "class_names", "words.txt"),
    ],
)
def test_settings_of_another_data_set(name: str, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} is a setting of .*; {name} has nothing"):
        LayoutSource(name=name, path="x", **{field: value})
