"""Small copies of the official downloads: real file names and formats, a few empty photos, facts known by hand."""

from pathlib import Path

import numpy as np
from scipy.io import savemat

BIRDS = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "021.Eastern_Towhee"]
CARS = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]
GROCERIES = (
    "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
    "Iconic Image Path (str),Product Description Path (str)\n"
    "Golden-Delicious,0,Apple,0,/i.jpg,/d.txt\nYellow-Onion,1,Onion,1,/i.jpg,/d.txt\n"
)


def write(root: Path, **texts: str) -> None:
    """Text files, by their paths; a folder is made of each `/`."""
    for name, text in texts.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def photos(root: Path, *paths: str) -> None:
    write(root, **dict.fromkeys(paths, ""))


def cells(*values: object) -> np.ndarray:
    """A MATLAB cell array, n × 1."""
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = values
    return array


def cub(root: Path) -> Path:
    """Three classes, four images; image 4 is listed out of order."""
    root = root / "CUB_200_2011"
    paths = {
        1: "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        2: "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        4: "021.Eastern_Towhee/Eastern_Towhee_0001_1.jpg",
        3: "002.Laysan_Albatross/Laysan_Albatross_0003_1033.jpg",
    }
    write(
        root,
        **{
            "images.txt": "".join(f"{number} {path}\n" for number, path in paths.items()),
            "classes.txt": "".join(f"{int(name[:3])} {name}\n" for name in BIRDS),
            "image_class_labels.txt": "1 1\n2 1\n3 2\n4 21\n",
            "train_test_split.txt": "1 0\n2 1\n3 1\n4 0\n",
        },
    )
    photos(root, *(f"images/{path}" for path in paths.values()))
    return root


def annotations(*rows: tuple[str, int], with_class: bool = True) -> np.ndarray:
    """MATLAB's 1 × n struct of cars_*_annos*.mat."""
    fields = [(f"bbox_{corner}", object) for corner in ("x1", "y1", "x2", "y2")]
    fields += [("class", object)] * with_class + [("fname", object)]
    array = np.empty((1, len(rows)), dtype=fields)
    for place, (name, number) in enumerate(rows):
        box = [np.uint8(value) for value in (39, 116, 99, 255)]
        array[0, place] = (*box, *([np.uint8(number)] * with_class), name)
    return array


def cars(root: Path, *, labels_in: str = "devkit") -> Path:
    """Three classes; 00001.jpg and 00002.jpg are both training and test photos."""
    devkit = root / "devkit"
    devkit.mkdir(parents=True)
    savemat(devkit / "cars_meta.mat", {"class_names": cells(*CARS).T})
    savemat(devkit / "cars_train_annos.mat", {"annotations": annotations(("00001.jpg", 3), ("00002.jpg", 1))})
    savemat(devkit / "cars_test_annos.mat", {"annotations": annotations(("00001.jpg", 0), with_class=False)})
    test = annotations(("00001.jpg", 2), ("00002.jpg", 1), ("00003.jpg", 3))
    savemat(root / labels_in / "cars_test_annos_withlabels.mat", {"annotations": test})
    photos(root, "cars_train/00001.jpg", "cars_train/00002.jpg")
    photos(root, *(f"cars_test/0000{number}.jpg" for number in (1, 2, 3)))
    return root


def dogs(root: Path) -> Path:
    """Three classes with hyphens, underscores and capitals."""
    lists = {
        "train": [("n02085620-Chihuahua/n02085620_5927.jpg", 1), ("n02088466-black-and-tan_coonhound/n1_7.jpg", 2)],
        "test": [("n02085620-Chihuahua/n02085620_2650.jpg", 1), ("n02108000-EntleBucher/n02108000_1.jpg", 3)],
    }
    root.mkdir(parents=True, exist_ok=True)
    for split, rows in lists.items():
        paths, labels = zip(*rows, strict=True)
        savemat(
            root / f"{split}_list.mat",
            {
                "file_list": cells(*paths),
                "annotation_list": cells(*(path.removesuffix(".jpg") for path in paths)),
                "labels": np.array([labels], dtype=np.float64).T,
            },
        )
        photos(root, *(f"Images/{path}" for path in paths))
    return root


def flowers(root: Path, names: str | None = None) -> Path:
    """Seven photos of classes 1, 2, 12 and 60 in an order of their own, as in the real files."""
    root.mkdir(parents=True, exist_ok=True)
    savemat(root / "imagelabels.mat", {"labels": np.array([[12, 60, 1, 1, 12, 2, 60]], dtype=np.uint8)})
    ids = {"trnid": [[3, 2]], "valid": [[7]], "tstid": [[5, 1, 4, 6]]}
    savemat(root / "setid.mat", {name: np.array(values, dtype=np.uint16) for name, values in ids.items()})
    photos(root, *(f"jpg/image_{number:05d}.jpg" for number in range(1, 8)))
    if names is not None:
        write(root, **{"cat_to_name.json": names})
    return root


def pets(root: Path) -> Path:
    """A cat and two dogs; images/ holds a .mat and a photo that no list names, as the real one does."""
    write(
        root,
        **{
            "annotations/list.txt": "#Image CLASS-ID SPECIES BREED ID\n",
            "annotations/trainval.txt": "Abyssinian_100 1 1 1\namerican_bulldog_7 2 2 1\n",
            "annotations/test.txt": "Egyptian_Mau_201 12 1 6\nAbyssinian_201 1 1 1\nshiba_inu_9 34 2 24\n",
        },
    )
    listed = ("Abyssinian_100", "american_bulldog_7", "Egyptian_Mau_201", "Abyssinian_201", "shiba_inu_9")
    photos(root, *(f"images/{name}.jpg" for name in (*listed, "Egyptian_Mau_167")))
    photos(root, "images/Abyssinian_100.mat")
    return root


def grocery(root: Path) -> Path:
    """Two classes, a photo a split."""
    paths = {
        "train": "train/Fruit/Apple/Golden-Delicious/Golden-Delicious_001.jpg, 0, 0\n\n",
        "val": "val/Vegetables/Onion/Yellow-Onion/Yellow-Onion_001.jpg, 1, 1\n",
        "test": "test/Fruit/Apple/Golden-Delicious/Golden-Delicious_001.jpg, 0, 0\n",
    }
    folder = root / "dataset"
    write(folder, **{"classes.csv": GROCERIES}, **{f"{split}.txt": text for split, text in paths.items()})
    photos(folder, *(text.split(",")[0] for text in paths.values()))
    return root


def dtd(root: Path) -> Path:
    """Three textures, of splits 1 and 2; a photo that no list of these names."""
    lists = {
        "train1": ["banded/banded_0002.jpg", "polka-dotted/polka-dotted_0032.jpg"],
        "val1": ["banded/banded_0004.jpg"],
        "test1": ["braided/braided_0051.jpg", "banded/banded_0005.jpg"],
        "train2": ["banded/banded_0005.jpg", "braided/braided_0051.jpg"],
        "val2": ["polka-dotted/polka-dotted_0032.jpg"],
        "test2": ["banded/banded_0002.jpg", "banded/banded_0004.jpg"],
    }
    write(root, **{f"labels/{name}.txt": "".join(f"{photo}\n" for photo in photos) for name, photos in lists.items()})
    write(root, **{"labels/labels_joint_anno.txt": "banded/banded_0002.jpg banded lined \n"})
    photos(root, *(f"images/{photo}" for names in lists.values() for photo in names))
    photos(root, "images/banded/banded_0009.jpg")
    return root


def aircraft(root: Path) -> Path:
    """Four variants, with blanks and slashes in their names; numbers with leading zeros."""
    root = root / "fgvc-aircraft-2013b"
    lists = {
        "train": "0034309 F/A-18\n1025794 Beechcraft 1900\n",
        "val": "0056978 707-320\n",
        "test": "0062765 F-16A/B\n0900914 Beechcraft 1900\n",
    }
    lists["trainval"] = lists["train"] + lists["val"]
    data = root / "data"
    write(data, **{f"images_variant_{split}.txt": text for split, text in lists.items()})
    write(data, **{"variants.txt": "707-320\nBeechcraft 1900\nF-16A/B\nF/A-18\n"})
    photos(data, *(f"images/{line[:7]}.jpg" for text in lists.values() for line in text.splitlines()))
    return root


def caltech101(root: Path) -> Path:
    """All classes with two photos, but six faces of either kind and one wrench; clutter, a `tmp` in it."""
    for folder in CALTECH:
        count = {"Faces": 6, "Faces_easy": 6, "wrench": 1}.get(folder, 2)
        photos(root / "101_ObjectCategories" / folder, *(f"image_{n:04d}.jpg" for n in range(1, count + 1)))
    photos(root / "101_ObjectCategories" / "BACKGROUND_Google", "image_0001.jpg", "tmp")
    photos(root / "101_ObjectCategories" / "ant", "Thumbs.db", ".image_0003.jpg")
    return root


def mini_imagenet(root: Path) -> Path:
    """Three classes of three photos, each in a list of its own, and their names in words.txt."""
    numbers = {"n01532829": (5, 6, 7), "n02110341": (1, 2, 11), "n04146614": (3, 8, 40)}
    lists = {"train": "n01532829", "val": "n04146614", "test": "n02110341"}
    for part, label in lists.items():
        rows = [f"{label}{number:08d}.jpg" for number in numbers[label]]
        write(root, **{f"{part}.csv": "filename,label\n" + "".join(f"{row},{label}\n" for row in rows)})
        photos(root / "images", *rows)
    words = "n00001740\tentity\nn01532829\thouse finch, linnet\nn02110341\tdalmatian, coach dog\n"
    write(root, **{"words.txt": words + "n04146614\tschool bus\n"})
    return root


_CALTECH = """
accordion airplanes anchor ant barrel bass beaver binocular bonsai brain brontosaurus buddha butterfly camera cannon
car_side ceiling_fan cellphone chair chandelier cougar_body cougar_face crab crayfish crocodile crocodile_head cup
dalmatian dollar_bill dolphin dragonfly electric_guitar elephant emu euphonium ewer Faces Faces_easy ferry flamingo
flamingo_head garfield gerenuk gramophone grand_piano hawksbill headphone hedgehog helicopter ibis inline_skate
joshua_tree kangaroo ketch lamp laptop Leopards llama lobster lotus mandolin mayfly menorah metronome minaret Motorbikes
nautilus octopus okapi pagoda panda pigeon pizza platypus pyramid revolver rhino rooster saxophone schooner scissors
scorpion sea_horse snoopy soccer_ball stapler starfish stegosaurus stop_sign strawberry sunflower tick trilobite
umbrella watch water_lilly wheelchair wild_cat windsor_chair wrench yin_yang
"""
CALTECH = _CALTECH.split()

WRITERS = {
    "cub": cub,
    "cars": cars,
    "dogs": dogs,
    "flowers": flowers,
    "pets": pets,
    "grocery": grocery,
    "dtd": dtd,
    "aircraft": aircraft,
    "caltech101": caltech101,
    "mini_imagenet": mini_imagenet,
}
