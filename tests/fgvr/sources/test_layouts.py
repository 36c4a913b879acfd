"""The official layouts: what is listed of a small copy of each."""

import json
from pathlib import Path

import downloads
import pytest
from scipy.io import loadmat

from fgvr.config import ConfigError, build
from fgvr.config.data import LayoutSource
from fgvr.sources.layouts import open_layout
from fgvr.sources.official_splits import bird_name
from fgvr.sources.source import read_source, source_state


def read(name: str, path: Path, **options: object) -> list[tuple[str, str, int, str]]:
    """(path from the source's folder, split, class id, class name), sorted by path."""
    rows = read_source(LayoutSource(name=name, path=str(path), **options), "").rows.to_pylist()
    assert [row["image_id"] for row in rows] == list(range(len(rows)))
    return [
        (row["uri"].removeprefix(f"{path}/"), row["split"], row["class_id"], row["class_name"])
        for row in rows
        if Path(row["uri"]).is_file()
    ]


@pytest.mark.parametrize("above", [False, True])
def test_cub(tmp_path: Path, above: bool) -> None:
    root = downloads.cub(tmp_path)
    found = read("cub", tmp_path if above else root)
    assert [(Path(path).name, *rest) for path, *rest in found] == [
        ("Black_Footed_Albatross_0009_34.jpg", "train", 0, "Black-footed Albatross"),
        ("Black_Footed_Albatross_0046_18.jpg", "test", 0, "Black-footed Albatross"),
        ("Laysan_Albatross_0003_1033.jpg", "train", 1, "Laysan Albatross"),
        ("Eastern_Towhee_0001_1.jpg", "test", 20, "Eastern Towhee"),
    ]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("162.Canada_Warbler", "Canada Warbler"),
        ("017.Cardinal", "Cardinal"),
        ("160.Black_throated_Blue_Warbler", "Black-throated Blue Warbler"),
        ("159.Black_and_white_Warbler", "Black-and-white Warbler"),
        ("187.American_Three_toed_Woodpecker", "American Three-toed Woodpecker"),
        ("126.Nelson_Sharp_tailed_Sparrow", "Nelson Sharp-tailed Sparrow"),
        ("124.Le_Conte_Sparrow", "Le Conte Sparrow"),
    ],
)
def test_hyphens_that_cub_s_folders_have_lost(folder: str, name: str) -> None:
    assert bird_name(folder) == name


@pytest.mark.parametrize("labels_in", ["devkit", "."])
def test_cars(tmp_path: Path, labels_in: str) -> None:
    """Train and test reuse file names; classes count from 1; a name holds a slash."""
    root = downloads.cars(tmp_path, labels_in=labels_in)
    raw = loadmat(root / "devkit" / "cars_train_annos.mat")["annotations"]  # the nesting of the real files
    assert (raw.shape, raw[0, 0]["fname"][0], raw[0, 0]["class"][0, 0]) == ((1, 2), "00001.jpg", 3)
    assert read("cars", root) == [
        ("cars_test/00001.jpg", "test", 1, "Acura RL Sedan 2012"),
        ("cars_test/00002.jpg", "test", 0, "AM General Hummer SUV 2000"),
        ("cars_test/00003.jpg", "test", 2, "Ram C/V Cargo Van Minivan 2012"),
        ("cars_train/00001.jpg", "train", 2, "Ram C/V Cargo Van Minivan 2012"),
        ("cars_train/00002.jpg", "train", 0, "AM General Hummer SUV 2000"),
    ]


def test_the_legacy_offset_shifts_the_names_of_cars_only(tmp_path: Path) -> None:
    root = downloads.cars(tmp_path)
    right = read("cars", root)
    wrong = read("cars", root, legacy_cars_offset=True)
    assert [row[:3] for row in wrong] == [row[:3] for row in right]
    # The class before; before the first comes the last, as with Python's index -1.
    before = {"Acura RL Sedan 2012": "AM General Hummer SUV 2000", "AM General Hummer SUV 2000": downloads.CARS[2]}
    before[downloads.CARS[2]] = "Acura RL Sedan 2012"
    assert [row[3] for row in wrong] == [before[row[3]] for row in right]
    source = LayoutSource(name="cars", path=str(root), legacy_cars_offset=True)
    listed = read_source(source, "")
    assert [json.loads(row)["corrected_name"] for row in listed.rows["metadata"].to_pylist()] == [
        row[3] for row in right
    ]
    assert "legacy_cars_offset" in listed.remarks[-1]


def test_the_legacy_offset_is_of_cars() -> None:
    with pytest.raises(ConfigError, match=r"ingest\.source.*legacy_cars_offset is a mistake .* not with cub"):
        build({"ingest": {"source": {"kind": "layout", "name": "cub", "path": "x", "legacy_cars_offset": True}}})


def test_dogs(tmp_path: Path) -> None:
    assert read("dogs", downloads.dogs(tmp_path)) == [
        ("Images/n02085620-Chihuahua/n02085620_2650.jpg", "test", 0, "Chihuahua"),
        ("Images/n02085620-Chihuahua/n02085620_5927.jpg", "train", 0, "Chihuahua"),
        ("Images/n02088466-black-and-tan_coonhound/n1_7.jpg", "train", 1, "black-and-tan coonhound"),
        ("Images/n02108000-EntleBucher/n02108000_1.jpg", "test", 2, "EntleBucher"),
    ]


def test_flowers(tmp_path: Path) -> None:
    """Labels are in the order of the numbers, not of setid.mat; the names are torchvision's."""
    assert read("flowers", downloads.flowers(tmp_path)) == [
        ("jpg/image_00001.jpg", "test", 11, "colt's foot"),
        ("jpg/image_00002.jpg", "train", 59, "pink-yellow dahlia"),
        ("jpg/image_00003.jpg", "train", 0, "pink primrose"),
        ("jpg/image_00004.jpg", "test", 0, "pink primrose"),
        ("jpg/image_00005.jpg", "test", 11, "colt's foot"),
        ("jpg/image_00006.jpg", "test", 1, "hard-leaved pocket orchid"),
        ("jpg/image_00007.jpg", "val", 59, "pink-yellow dahlia"),
    ]


def test_flowers_with_names_of_one_s_own(tmp_path: Path) -> None:
    names = {"1": "Primula", "2": "Paphiopedilum", "12": "Tussilago", "60": "Dahlia"}
    root = downloads.flowers(tmp_path, json.dumps(names))
    assert {row[2]: row[3] for row in read("flowers", root)} == {int(n) - 1: name for n, name in names.items()}
    source = LayoutSource(name="flowers", path=str(root))
    assert [Path(file).name for file in source_state(source)] == ["imagelabels.mat", "setid.mat", "cat_to_name.json"]


def test_pets(tmp_path: Path) -> None:
    """Cats are capitalised and dogs are not; what no list names is left out."""
    root = downloads.pets(tmp_path)
    assert read("pets", root) == [
        ("images/Abyssinian_100.jpg", "train", 0, "Abyssinian"),
        ("images/Abyssinian_201.jpg", "test", 0, "Abyssinian"),
        ("images/Egyptian_Mau_201.jpg", "test", 11, "Egyptian Mau"),
        ("images/american_bulldog_7.jpg", "train", 1, "American Bulldog"),
        ("images/shiba_inu_9.jpg", "test", 33, "Shiba Inu"),
    ]
    rows = read_source(LayoutSource(name="pets", path=str(root)), "").rows.to_pylist()
    assert [json.loads(row["metadata"])["species"] for row in rows] == ["cat", "cat", "cat", "dog", "dog"]


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("cub", 11_788),
        ("cars", 16_185),
        ("dogs", 20_580),
        ("dtd", 5_640),
        ("aircraft", 10_000),
        ("caltech101", 8_677),
        ("mini_imagenet", 60_000),
    ],
)
def test_official_numbers(name: str, images: int) -> None:
    """Sums as the data sets' own pages and papers give them."""
    assert sum(open_layout(LayoutSource(name=name, path="x")).counts().values()) == images


@pytest.mark.parametrize("name", [name for name in downloads.WRITERS if name != "caltech101"])
def test_a_listing_file_that_changes_makes_another_table(name: str, tmp_path: Path) -> None:
    source = LayoutSource(name=name, path=str(downloads.WRITERS[name](tmp_path)))
    before = source_state(source)
    for file in map(Path, before):
        assert file.is_file()
    last = Path(list(before)[-1])
    last.write_bytes(last.read_bytes() + b"\n")
    assert {file for file, state in source_state(source).items() if state != before[file]} == {str(last)}
