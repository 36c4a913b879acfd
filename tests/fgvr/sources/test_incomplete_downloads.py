"""What a wrong or incomplete download is told: what is missing, and what the official one holds."""

import os
import shutil
from pathlib import Path
from unittest.mock import patch

import downloads
import pytest
from scipy.io import savemat

from fgvr import storage
from fgvr.config.data import LayoutSource
from fgvr.sources.source import SourceError, read_source, source_state

# A listing file of each, a photo of each, and the counts that the official download holds.
FACTS = {
    "cub": (
        "train_test_split.txt",
        "images/002.Laysan_Albatross/Laysan_Albatross_0003_1033.jpg",
        "5,994 train + 5,794",
    ),
    "cars": ("devkit/cars_train_annos.mat", "cars_test/00003.jpg", "8,144 train + 8,041 test"),
    "dogs": ("test_list.mat", "Images/n02108000-EntleBucher/n02108000_1.jpg", "12,000 train + 8,580 test"),
    "flowers": ("setid.mat", "jpg/image_00004.jpg", "1,020 train + 1,020 val + 6,149 test"),
    "pets": ("annotations/test.txt", "images/shiba_inu_9.jpg", "3,680 train + 3,669 test"),
    "grocery": ("val.txt", "val/Vegetables/Onion/Yellow-Onion/Yellow-Onion_001.jpg", "2,640 train + 296 val + 2,485"),
    "dtd": ("labels/val1.txt", "images/polka-dotted/polka-dotted_0032.jpg", "1,880 train + 1,880 val + 1,880 test"),
    "aircraft": ("images_variant_val.txt", "images/0062765.jpg", "3,334 train + 3,333 val + 3,333 test"),
    "caltech101": (None, "101_ObjectCategories/ant/image_0001.jpg", "3,030 train + 5,647 test"),
    "mini_imagenet": ("val.csv", "images/n0211034100000011.jpg", "50,000 train + 10,000 test"),
}
INSIDE = {"grocery": "dataset", "aircraft": "data"}


def layout(name: str, folder: Path) -> tuple[LayoutSource, Path]:
    root = downloads.WRITERS[name](folder)
    return LayoutSource(name=name, path=str(root)), root / INSIDE.get(name, "")


def message(source: LayoutSource) -> str:
    with pytest.raises(SourceError) as caught:
        read_source(source, "")
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name, (file, _, _) in FACTS.items() if file])
def test_a_listing_file_is_missing(name: str, tmp_path: Path) -> None:
    file, _, counts = FACTS[name]
    source, root = layout(name, tmp_path)
    (root / file).unlink()
    said = message(source)
    assert said.startswith(f"ingest.source.path = {source.path}: {file} is missing; the official download of ")
    assert counts in said
    with pytest.raises(SourceError, match="is missing; the official download"):
        source_state(source)


@pytest.mark.parametrize("name", FACTS)
def test_listed_photos_are_missing(name: str, tmp_path: Path) -> None:
    _, photo, counts = FACTS[name]
    source, root = layout(name, tmp_path)
    total = read_source(source, "").rows.num_rows
    (root / photo).unlink()
    said = message(source)
    assert f"1 of {total} listed photos are not there ({photo});" in said
    assert counts in said
    assert "ingest.source.kind: table" in said


@pytest.mark.parametrize("name", FACTS)
def test_there_is_no_such_folder(name: str, tmp_path: Path) -> None:
    said = message(LayoutSource(name=name, path=str(tmp_path / "gone")))
    assert said.startswith(f"ingest.source.path = {tmp_path}/gone: there is no such folder; the official download of ")


def test_a_folder_of_photos_is_missing(tmp_path: Path) -> None:
    source, root = layout("cars", tmp_path)
    (root / "cars_train").rename(root / "cars_ttrain")
    assert "2 of 5 listed photos are not there (cars_train/00001.jpg, cars_train/00002.jpg)" in message(source)


def test_photos_are_looked_for_in_one_listing_a_folder(tmp_path: Path) -> None:
    source, _ = layout("cars", tmp_path)
    with (
        patch("fgvr.sources.layout.os.listdir", wraps=os.listdir) as listings,
        patch("fgvr.sources.layout.storage.exists", wraps=storage.exists) as questions,
    ):
        read_source(source, "")
    assert listings.call_count == 2
    asked = {str(call.args[0]).rpartition(".")[2] for call in questions.call_args_list}
    assert asked == {"mat"}


def test_counts_that_differ_are_a_remark_and_no_error(tmp_path: Path) -> None:
    source, _ = layout("pets", tmp_path)
    (remark,) = read_source(source, "").remarks
    assert remark == (
        "Oxford-IIIT Pet: 2 train + 3 test images of 4 classes, where the official download holds 3,680 train + 3,669 "
        "test images of 37: scores do not compare with published ones"
    )


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>Not Found</html>" * 9, None])
def test_a_matlab_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    source, root = layout("flowers", tmp_path)
    file = root / "imagelabels.mat"
    file.write_bytes(file.read_bytes()[:150] if content is None else content)
    assert "imagelabels.mat: not a MATLAB file as it was published" in message(source)


def test_a_matlab_file_that_breaks_off_anywhere(tmp_path: Path) -> None:
    source, root = layout("dogs", tmp_path)
    whole = (root / "test_list.mat").read_bytes()
    for length in range(0, len(whole) - 1, 16):
        (root / "test_list.mat").write_bytes(whole[:length])
        assert "test_list.mat: " in message(source)


def test_a_matlab_file_of_something_else(tmp_path: Path) -> None:
    source, root = layout("dogs", tmp_path)
    savemat(root / "test_list.mat", {"files": [1]})
    assert "test_list.mat: it has no variable 'file_list', so it is not the file of Stanford Dogs" in message(source)


def test_a_list_of_dogs_in_other_folders(tmp_path: Path) -> None:
    source, root = layout("dogs", tmp_path)
    savemat(root / "test_list.mat", {"file_list": downloads.cells("test/n1_1.jpg"), "labels": [[1]]})
    assert "test_list.mat: 'test/n1_1.jpg' with label 1 is not n…-breed/….jpg with a label from 1 on" in message(source)


def test_test_annotations_without_classes(tmp_path: Path) -> None:
    source, root = layout("cars", tmp_path)
    labels = root / "devkit" / "cars_test_annos_withlabels.mat"
    labels.unlink()
    said = message(source)
    assert "cars_test_annos_withlabels.mat is missing" in said
    assert "devkit/cars_test_annos.mat will not do: it has no classes" in said
    (root / "devkit" / "cars_test_annos.mat").rename(labels)
    assert "its annotations have no 'class'" in message(source)


@pytest.mark.parametrize(
    ("name", "file", "text", "expected"),
    [
        ("cub", "images.txt", "1\n", r"images.txt, line 1: '1' has 1 fields instead of 2"),
        ("cub", "train_test_split.txt", "1 0\n2 1\n3 1\n", r"train_test_split.txt has no 0 or 1 for image 4"),
        ("cub", "image_class_labels.txt", "1 1\n2 1\n3 2\n4 5\n", r"no class of classes.txt for image 4"),
        ("cub", "classes.txt", "1 a\n2 a\n21 b\n", r"class_name 'a' stands for more than one class"),
        ("pets", "annotations/test.txt", "Abyssinian_1 0 1 1\n", r"test.txt, line 1: expected `name class species"),
        ("pets", "annotations/test.txt", "Abyssinian_1 1 1\n", r"has 3 fields instead of 4"),
        ("grocery", "val.txt", "val/a.jpg, 99, 0\n", r"val.txt, line 1: 'val/a.jpg, 99, 0' is not `path, fine class"),
        ("grocery", "classes.csv", "Name\nApple\n", r"classes.csv: expected the columns Class Name"),
        ("dtd", "labels/val1.txt", "banded_0004.jpg\n", r"val1.txt, line 1: 'banded_0004.jpg' is not `texture/photo"),
        ("aircraft", "images_variant_val.txt", "0056978 747\n", r"val.txt, line 1: '747' is not in variants.txt"),
        ("aircraft", "images_variant_val.txt", "0056978\n", r"val.txt, line 1: '0056978' has 1 fields instead of 2"),
        (
            "mini_imagenet",
            "val.csv",
            "image,class\n",
            r"val.csv, line 1: 'image,class' is not the header `filename,lab",
        ),
        ("mini_imagenet", "val.csv", "filename,label\na.jpg,bus\n", r"val.csv, line 2: 'a.jpg,bus' is not `photo,Word"),
        (
            "mini_imagenet",
            "words.txt",
            "n01532829\tfinch\n",
            r"has no name for 2 of 3 classes \(n02110341, n04146614\)",
        ),
        ("flowers", "cat_to_name.json", "[]", r'cat_to_name.json: expected \{"1": "pink primrose"'),
        ("flowers", "cat_to_name.json", '{"1": "x", "1": "y"}', r"expected .*: '1' stands twice in an object"),
        ("flowers", "cat_to_name.json", '{"1": "x"}', r"is of class \d+, which has no name in cat_to_name.json"),
    ],
)
def test_files_that_are_not_as_published(tmp_path: Path, name: str, file: str, text: str, expected: str) -> None:
    source, root = layout(name, tmp_path)
    (root / file).write_text(text)
    with pytest.raises(SourceError, match=expected):
        read_source(source, "")


def test_numbers_out_of_range(tmp_path: Path) -> None:
    source, root = layout("cars", tmp_path / "cars")
    annos = downloads.annotations(("00001.jpg", 4), ("00002.jpg", 0))
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": annos})
    assert "00001.jpg has class 4, but classes are 1–3" in message(source)
    source, root = layout("flowers", tmp_path / "flowers")
    savemat(root / "setid.mat", {"trnid": [1], "valid": [2], "tstid": [8]})
    assert "image 8, but imagelabels.mat has 7" in message(source)


def test_classes_of_caltech101_are_missing(tmp_path: Path) -> None:
    source, root = layout("caltech101", tmp_path)
    for name in ("wrench", "yin_yang", "ant", "wild_cat"):
        shutil.rmtree(root / "101_ObjectCategories" / name)
    said = message(source)
    assert "every photo of 4 classes (ant, wild_cat, wrench …) is missing; the official download of Caltech101" in said
    shutil.rmtree(root / "101_ObjectCategories")
    assert "101_ObjectCategories is missing; the official download" in message(source)


def test_last_photos_of_caltech101_that_are_missing_are_a_remark(tmp_path: Path) -> None:
    """Nothing lists them; the official numbers are known."""
    source, _ = layout("caltech101", tmp_path)
    remarks = read_source(source, "").remarks
    assert (
        "109 train + 100 test images of 101 classes, where the official download holds 3,030 train + 5,647"
        in remarks[0]
    )
    assert "30 photos of each class train, the others test" in remarks[1]
    assert "101 classes have other numbers of photos" in remarks[2]
    assert "accordion 2 of 55, airplanes 2 of 800, anchor 2 of 42 …" in remarks[2]


def test_names_of_mini_imagenet_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root = layout("mini_imagenet", tmp_path)
    (root / "words.txt").unlink()
    monkeypatch.setattr("fgvr.sources.seeded_splits.WORDNET", str(tmp_path / "data.noun"))
    said = message(source)
    assert said.startswith(f"ingest.source.class_names: there is no file {tmp_path}/data.noun; the classes of Mini-Ima")
    assert "apt-get install wordnet-base" in said
