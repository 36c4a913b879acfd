"""Public data sets with official training and test images: the layout of each download."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fgvr import storage
from fgvr.json_text import read_json
from fgvr.names.spelling import one_form
from fgvr.sources.layout import Layout, Listed
from fgvr.sources.rows import SourceError

# FGVC-Aircraft, release 2013b (Maji, Rahtu, Kannala, Blaschko, Vedaldi, 2013).

AIRCRAFT_SPLITS = ("train", "val", "test")
AIRCRAFT_VARIANTS = "variants.txt"

CARS_META = "devkit/cars_meta.mat"
CARS_TRAIN = "devkit/cars_train_annos.mat"
CARS_TEST = "cars_test_annos_withlabels.mat"
CUB_SPLITS = {"1": "train", "0": "test"}
DTD_SPLITS = ("train", "val", "test")
FLOWERS_NAMES = "cat_to_name.json"
FLOWERS_SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}
PETS_SPECIES = {"1": "cat", "2": "dog"}
GROCERY_SPLITS = ("train", "val", "test")


class Aircraft(Layout):
    """100 variants of aircraft. The bottom 20 pixels of a photo are a banner: `ingest.limits.cut_bottom`."""

    title = "FGVC-Aircraft"
    site = "robots.ox.ac.uk/~vgg/data/fgvc-aircraft, fgvc-aircraft-2013b.tar.gz"
    holds = "data/images/0034309.jpg …, data/variants.txt and data/images_variant_{train,val,test}.txt"
    inside = ("data", "fgvc-aircraft-2013b/data")
    marker = AIRCRAFT_VARIANTS
    images: ClassVar = {"train": 3_334, "val": 3_333, "test": 3_333}
    classes = 100

    def files(self) -> Sequence[str]:
        """The names, and a list a split; images_variant_trainval.txt repeats two of them."""
        return [AIRCRAFT_VARIANTS, *(f"images_variant_{split}.txt" for split in AIRCRAFT_SPLITS)]

    def listed(self) -> Iterator[Listed]:
        """One split after the other; classes are numbered as in variants.txt. Names contain blanks and slashes."""
        numbers = {one_form(line): number for number, line in enumerate(self._variants())}
        for split in AIRCRAFT_SPLITS:
            for place, (photo, name) in self.fields(f"images_variant_{split}.txt", 2):
                variant = one_form(name)
                if variant not in numbers:
                    raise SourceError(f"{place}: {variant!r} is not in {AIRCRAFT_VARIANTS}")
                yield Listed(f"images/{photo}.jpg", split, numbers[variant], variant)

    def _variants(self) -> list[str]:
        return [line for line in self.text(AIRCRAFT_VARIANTS).splitlines() if line.strip()]


# Stanford Cars (Krause, Stark, Deng, Fei-Fei, 2013).


class Cars(Layout):
    """196 models of cars. Training and test photos have the same file names, in separate folders."""

    title = "Stanford Cars"
    site = "ai.stanford.edu/~jkrause/cars, no longer online; mirrors keep its files"
    holds = (
        "cars_train/*.jpg, cars_test/*.jpg, devkit/cars_meta.mat, devkit/cars_train_annos.mat, and "
        f"{CARS_TEST} beside them or in devkit/ (devkit/cars_test_annos.mat will not do: it has no classes)"
    )
    inside = ("stanford_cars",)
    marker = CARS_META
    images: ClassVar = {"train": 8_144, "test": 8_041}
    classes = 196

    def files(self) -> Sequence[str]:
        """The test annotations with classes were a download of their own; people keep them in either place."""
        beside = storage.exists(storage.join(self.root, CARS_TEST))
        in_devkit = not beside and storage.exists(storage.join(self.root, "devkit", CARS_TEST))
        return [CARS_META, CARS_TRAIN, f"devkit/{CARS_TEST}" if in_devkit else CARS_TEST]

    def listed(self) -> Iterator[Listed]:
        """Training photos, then test photos."""
        meta, *annotations = self.files()
        (names,) = self.mat(meta, "class_names")
        names = [str(name).strip() for name in np.atleast_1d(names)]
        for split, file in zip(("train", "test"), annotations, strict=True):
            for photo, number in self._annotations(file):
                if not 1 <= number <= len(names):
                    raise SourceError(f"{self.root}/{file}: {photo} has class {number}, but classes are 1–{len(names)}")
                yield self._row(names, f"cars_{split}/{photo}", split, number - 1)

    def remarks(self) -> list[str]:
        """A note if class names are deliberately wrong, as in FineR's code."""
        if not self.source.legacy_cars_offset:
            return []
        return [
            "ingest.source.legacy_cars_offset: the true names are those of the class before, as FineR and FiNDR read "
            "them; they are wrong, and sACC, sIoU and top-1 compare only with papers that made the same mistake"
        ]

    def _row(self, names: Sequence[str], path: str, split: str, class_id: int) -> Listed:
        if not self.source.legacy_cars_offset:
            return Listed(path, split, class_id, names[class_id])
        # FineR (data/car196.py) subtracts 1 from the class when it lists the photos, and again when it returns one. The
        # name is then that of the previous class, and Python's index -1 gives the first class the last one's name.
        return Listed(path, split, class_id, names[class_id - 1], {"corrected_name": names[class_id]})

    def _annotations(self, file: str) -> list[tuple[str, int]]:
        (rows,) = self.mat(file, "annotations")
        rows = np.atleast_1d(rows)
        for name in ("fname", "class"):
            if name not in (rows.dtype.names or ()):
                raise SourceError(
                    f"{self.root}/{file}: its annotations have no {name!r}; {self.title} holds {self.holds}"
                )
        return [(str(row["fname"]), int(row["class"])) for row in rows]


# CUB-200-2011 (Wah, Branson, Welinder, Perona, Belongie, 2011).


class Cub(Layout):
    """200 bird species; the split is a separate file, in which 1 means training."""

    title = "CUB-200-2011"
    site = "vision.caltech.edu, Caltech-UCSD Birds-200-2011"
    holds = (
        "CUB_200_2011/ with images/001.Black_footed_Albatross/*.jpg …, images.txt, classes.txt, image_class_labels.txt "
        "and train_test_split.txt"
    )
    inside = ("CUB_200_2011",)
    marker = "images.txt"
    images: ClassVar = {"train": 5_994, "test": 5_794}
    classes = 200

    def files(self) -> Sequence[str]:
        """Four text files, joined by image number."""
        return ["images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt"]

    def listed(self) -> Iterator[Listed]:
        """In the order of images.txt."""
        names = {number: bird_name(name) for _, (number, name) in self.fields("classes.txt", 2)}
        classes = {image: number for _, (image, number) in self.fields("image_class_labels.txt", 2)}
        splits = {image: flag for _, (image, flag) in self.fields("train_test_split.txt", 2)}
        for place, (image, path) in self.fields("images.txt", 2):
            number = classes.get(image, "")
            split = CUB_SPLITS.get(splits.get(image, ""))
            if split is None:
                raise SourceError(f"{place}: train_test_split.txt has no 0 or 1 for image {image}")
            if number not in names or not number.isdigit():
                raise SourceError(f"{place}: image_class_labels.txt has no class of classes.txt for image {image}")
            yield Listed(f"images/{path}", split, int(number) - 1, names[number])


def bird_name(folder: str) -> str:
    """A species' name from its folder: "001.Black_footed_Albatross" → "Black-footed Albatross".

    The folders' names lack hyphens and apostrophes. A lower-case word is joined to the one before it by a hyphen;
    what else is missing (Brewer's, Whip-poor-will) cannot be restored.
    """
    words = folder.rpartition(".")[2].split("_")
    name = words[0]
    for word in words[1:]:
        name += f"-{word}" if word.islower() else f" {word}"
    return name


# Stanford Dogs (Khosla, Jayadevaprakash, Yao, Fei-Fei, 2011).


class Dogs(Layout):
    """120 breeds; the folder's name holds the breed."""

    title = "Stanford Dogs"
    site = "vision.stanford.edu/aditya86/ImageNetDogs, images.tar and lists.tar"
    holds = "Images/n02085620-Chihuahua/*.jpg …, train_list.mat and test_list.mat"
    marker = "train_list.mat"
    images: ClassVar = {"train": 12_000, "test": 8_580}
    classes = 120

    def files(self) -> Sequence[str]:
        """One list per split."""
        return ["train_list.mat", "test_list.mat"]

    def listed(self) -> Iterator[Listed]:
        """Training photos, then test photos."""
        for split, file in zip(("train", "test"), self.files(), strict=True):
            photos, labels = (np.atleast_1d(values) for values in self.mat(file, "file_list", "labels"))
            if len(photos) != len(labels):
                raise SourceError(f"{self.root}/{file}: {len(photos)} photos, but {len(labels)} labels")
            for photo, label in zip(photos, labels, strict=True):
                name = dog_breed(str(photo))
                if not name or label < 1:
                    raise SourceError(
                        f"{self.root}/{file}: {str(photo)!r} with label {label} is not n…-breed/….jpg with a label "
                        "from 1 on"
                    )
                yield Listed(f"Images/{photo}", split, int(label) - 1, name)


def dog_breed(path: str) -> str:
    """A breed's name from its folder: "n02088466-black-and-tan_coonhound/x.jpg" → "black-and-tan coonhound", or ""."""
    return path.partition("/")[0].partition("-")[2].replace("_", " ")


# The Describable Textures Dataset (Cimpoi, Maji, Kokkinos, Mohamed, Vedaldi, 2014), release r1.0.1.


class Dtd(Layout):
    """47 textures, named by adjectives, in ten official splits with 40 train, 40 val and 40 test images per class."""

    title = "the Describable Textures Dataset"
    site = "robots.ox.ac.uk/~vgg/data/dtd, dtd-r1.0.1.tar.gz"
    holds = "images/banded/banded_0002.jpg …, and labels/train1.txt, val1.txt, test1.txt up to test10.txt"
    inside = ("dtd", "dtd/dtd")
    marker = "labels/train1.txt"
    images: ClassVar = {"train": 1_880, "val": 1_880, "test": 1_880}
    classes = 47

    def files(self) -> Sequence[str]:
        """The three lists of the configured split."""
        return [f"labels/{split}{self.source.fold}.txt" for split in DTD_SPLITS]

    def listed(self) -> Iterator[Listed]:
        """One split after the other; classes are numbered in the order of their names."""
        rows = [
            (split, path.strip(), self._texture(place, path.strip()))
            for split, file in zip(DTD_SPLITS, self.files(), strict=True)
            for place, (path,) in self.fields(file, 1)
        ]
        numbers = {name: number for number, name in enumerate(sorted({name for _, _, name in rows}))}
        for split, path, name in rows:
            yield Listed(f"images/{path}", split, numbers[name], name)

    @staticmethod
    def _texture(place: str, path: str) -> str:
        folder, slash, photo = path.partition("/")
        if not (folder and slash and photo) or "/" in photo:
            raise SourceError(f"{place}: {path!r} is not `texture/photo.jpg`")
        return folder.replace("_", " ")


# Oxford Flowers-102 (Nilsback, Zisserman, 2008).


class Flowers(Layout):
    """102 flowers in the official split, which differs from CoOp's; `val` is a separate split, 10 images per class."""

    title = "Oxford Flowers-102"
    site = "robots.ox.ac.uk/~vgg/data/flowers/102"
    holds = f"jpg/image_00001.jpg …, imagelabels.mat and setid.mat ({FLOWERS_NAMES}, with the names, is a common extra)"
    inside = ("flowers-102",)
    marker = "imagelabels.mat"
    images: ClassVar = {"train": 1_020, "val": 1_020, "test": 6_149}
    classes = 102

    def files(self) -> Sequence[str]:
        """Two MATLAB files, and the names where they are there."""
        extra = [FLOWERS_NAMES] if storage.exists(storage.join(self.root, FLOWERS_NAMES)) else []
        return ["imagelabels.mat", "setid.mat", *extra]

    def listed(self) -> Iterator[Listed]:
        """One split after the other; labels are in the order of the photos' numbers."""
        names = self._names()
        (labels,) = self.mat("imagelabels.mat", "labels")
        labels = np.atleast_1d(labels)
        for split, numbers in zip(FLOWERS_SPLITS, self.mat("setid.mat", *FLOWERS_SPLITS.values()), strict=True):
            for number in np.atleast_1d(numbers):
                if not 1 <= number <= len(labels):
                    raise SourceError(f"{self.root}/setid.mat: image {number}, but imagelabels.mat has {len(labels)}")
                label = int(labels[number - 1])
                if label not in names:
                    raise SourceError(
                        f"{self.root}: image {number} is of class {label}, which has no name in {FLOWERS_NAMES}"
                    )
                yield Listed(f"jpg/image_{number:05d}.jpg", split, label - 1, names[label])

    def _names(self) -> Mapping[int, str]:
        """Class (from 1) → name: those of cat_to_name.json, else torchvision's, since the download has none."""
        if FLOWERS_NAMES in self.files():
            try:
                names = {int(number): str(name) for number, name in read_json(self.text(FLOWERS_NAMES)).items()}
            except (ValueError, AttributeError) as error:
                raise SourceError(
                    f'{self.root}/{FLOWERS_NAMES}: expected {{"1": "pink primrose", …}}: {error}'
                ) from error
        else:
            from torchvision.datasets import Flowers102

            names = dict(enumerate(Flowers102.classes, start=1))
        return {number: name.strip().rstrip("?") for number, name in names.items()}  # "pink-yellow dahlia?"


# Oxford-IIIT Pet (Parkhi, Vedaldi, Zisserman, Jawahar, 2012).


class Pets(Layout):
    """37 breeds of cats and dogs, named in the file names. images/ also holds other files and unlisted photos."""

    title = "Oxford-IIIT Pet"
    site = "robots.ox.ac.uk/~vgg/data/pets, images.tar.gz and annotations.tar.gz"
    holds = "images/Abyssinian_1.jpg …, annotations/trainval.txt and annotations/test.txt"
    inside = ("oxford-iiit-pet",)
    marker = "annotations/trainval.txt"
    images: ClassVar = {"train": 3_680, "test": 3_669}
    classes = 37

    def files(self) -> Sequence[str]:
        """One list per split, with name, class, species, and breed within the species."""
        return ["annotations/trainval.txt", "annotations/test.txt"]

    def listed(self) -> Iterator[Listed]:
        """Training photos (`trainval`), then test photos."""
        for split, file in zip(("train", "test"), self.files(), strict=True):
            for place, (name, number, species, _) in self.fields(file, 4):
                if not number.isdigit() or int(number) < 1 or species not in PETS_SPECIES:
                    raise SourceError(f"{place}: expected `name class species breed`, classes from 1, species 1 or 2")
                metadata = {"species": PETS_SPECIES[species]}
                yield Listed(f"images/{name}.jpg", split, int(number) - 1, pet_breed(name), metadata)


def pet_breed(file: str) -> str:
    """A breed from a file name: "american_bulldog_100" → "American Bulldog". Cat breeds have capitals already."""
    words = file.rpartition("_")[0].split("_")
    return " ".join(word[:1].upper() + word[1:] for word in words)


# The Grocery Store Dataset (Klasson, Zhang, Kjellström, WACV 2019) as in its GitHub repository.


@dataclass(frozen=True)
class _Class:
    name: str
    coarse: str


class Grocery(Layout):
    """81 fine-grained classes in 42 coarse ones; the coarse class is metadata."""

    title = "the Grocery Store Dataset"
    site = "github.com/marcusklasson/GroceryStoreDataset"
    holds = "dataset/classes.csv, dataset/{train,val,test}.txt and the photos in dataset/{train,val,test}/"
    inside = ("dataset",)
    marker = "classes.csv"
    images: ClassVar = {"train": 2_640, "val": 296, "test": 2_485}
    classes = 81

    def files(self) -> Sequence[str]:
        """The classes, and one list per split."""
        return ["classes.csv", *(f"{split}.txt" for split in GROCERY_SPLITS)]

    def listed(self) -> Iterator[Listed]:
        """One split after the other; class names as words ("Golden-Delicious" → "Golden Delicious")."""
        classes = self._classes()
        for split in GROCERY_SPLITS:
            for number, line in enumerate(self.text(f"{split}.txt").splitlines(), start=1):
                fields = [field.strip() for field in line.split(",")]
                if fields == [""]:
                    continue
                if len(fields) != 3 or not fields[1].isdigit() or int(fields[1]) not in classes:
                    raise SourceError(
                        f"{self.root}/{split}.txt, line {number}: {line!r} is not `path, fine class id, coarse class "
                        "id` with a class id of classes.csv"
                    )
                found = classes[int(fields[1])]
                yield Listed(fields[0], split, int(fields[1]), found.name, {"coarse": found.coarse})

    def _classes(self) -> Mapping[int, _Class]:
        try:
            rows = list(csv.reader(io.StringIO(self.text("classes.csv"), newline=""), strict=True))
            return {int(row[1]): _Class(row[0].replace("-", " "), row[2].replace("-", " ")) for row in rows[1:]}
        except (IndexError, ValueError, csv.Error) as error:
            raise SourceError(
                f"{self.root}/classes.csv: expected the columns Class Name, Class ID, Coarse Class Name …: {error}"
            ) from error
