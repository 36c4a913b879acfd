"""Public data sets without official training and test images: a fixed number per class is drawn with a seed."""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np

from fgvr import storage
from fgvr.sources.layout import Layout, Listed, first, photos_below
from fgvr.sources.rows import SourceError

CALTECH_FOLDER = "101_ObjectCategories"
CALTECH_TRAIN_PER_CLASS = 30
_CALTECH_SIZES = """
accordion=55 airplanes=800 anchor=42 ant=42 barrel=47 bass=54 beaver=46 binocular=33 bonsai=128 brain=98
brontosaurus=43 buddha=85 butterfly=91 camera=50 cannon=43 car_side=123 ceiling_fan=47 cellphone=59 chair=62
chandelier=107 cougar_body=47 cougar_face=69 crab=73 crayfish=70 crocodile=50 crocodile_head=51 cup=57
dalmatian=67 dollar_bill=52 dolphin=65 dragonfly=68 electric_guitar=75 elephant=64 emu=53 euphonium=64 ewer=85
Faces=435 Faces_easy=435 ferry=67 flamingo=67 flamingo_head=45 garfield=34 gerenuk=34 gramophone=51
grand_piano=99 hawksbill=100 headphone=42 hedgehog=54 helicopter=88 ibis=80 inline_skate=31 joshua_tree=64
kangaroo=86 ketch=114 lamp=61 laptop=81 Leopards=200 llama=78 lobster=41 lotus=66 mandolin=43 mayfly=40
menorah=87 metronome=32 minaret=76 Motorbikes=798 nautilus=55 octopus=35 okapi=39 pagoda=47 panda=38 pigeon=45
pizza=53 platypus=34 pyramid=57 revolver=82 rhino=59 rooster=49 saxophone=40 schooner=63 scissors=39 scorpion=84
sea_horse=57 snoopy=35 soccer_ball=64 stapler=45 starfish=86 stegosaurus=59 stop_sign=64 strawberry=35
sunflower=85 tick=49 trilobite=86 umbrella=75 watch=239 water_lilly=37 wheelchair=59 wild_cat=34
windsor_chair=56 wrench=39 yin_yang=60
"""
CALTECH_COUNTS: Final = {
    name: int(count) for name, _, count in (entry.partition("=") for entry in _CALTECH_SIZES.split())
}
"""Photos of each class, 8,677 in all; image_0001.jpg, image_0002.jpg … without a gap."""
# Plurals, a spelling mistake, and folder names that no one would say; the faces as CLIP's authors name them in their
# prompts for this data set.
CALTECH_NAMES: Final = {
    "Faces": "off-center face",
    "Faces_easy": "centered face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "car_side": "side of a car",
    "garfield": "Garfield",
    "sea_horse": "seahorse",
    "snoopy": "Snoopy",
    "water_lilly": "water lily",
}
CALTECH_PHOTO = re.compile(r"image_(\d{4})\.jpg")
WORDNET = "/usr/share/wordnet/data.noun"
"""Where Debian's package wordnet-base installs WordNet 3.0."""
# ImageNet's words.txt and LOC_synset_mapping.txt: id, then synonyms separated by commas.
_LISTED = re.compile(r"n(\d{8})\s+(\S[^,]*)")
# wndb(5WN): offset, lexicographer file, n, number of lemmas (hexadecimal), first lemma.
_SYNSET = re.compile(r"(\d{8}) \d\d n [0-9a-f]{2} (\S+) ")
# An id is an offset into one release's data file. In another release it points to nothing or to something else.
_RELEASE = "WordNet 3.0"
MINI_LISTS = ("train", "val", "test")
MINI_PER_CLASS = 600
MINI_TRAIN_PER_CLASS = 500
MINI_NAMES = "words.txt"
MINI_CLASS = re.compile(r"n\d{8}")


def training_images(images: Sequence[str], per_class: int, seed: int, stream: str) -> set[str]:
    """Those of a class's images that are used for training; the others are for testing.

    Args:
        images: names of the images of one class, in an order that does not depend on the machine.
        per_class: number of training images. A class with no more images than this keeps one for testing.
        seed: each seed draws other images.
        stream: name of the class. Each class has its own random stream, so that a missing class changes nothing for
            the others; lists of equal length with the same stream are drawn alike.
    """
    take = min(per_class, max(len(images) - 1, 1))
    order = np.random.default_rng([seed, zlib.crc32(stream.encode())]).permutation(len(images))
    return {images[number] for number in order[:take]}


# Caltech101 (Fei-Fei, Fergus, Perona, 2004).


class Caltech101(Layout):
    """101 kinds of objects, one folder each, without any list and without an official split.

    BACKGROUND_Google is clutter and no class. `Faces_easy` holds the faces of `Faces` again, cropped, so photos with
    the same number go to the same split: otherwise the test would show people that were trained on.
    """

    title = "Caltech101"
    site = "data.caltech.edu/records/mzrjq-6wc02, caltech-101.zip, and 101_ObjectCategories.tar.gz in it"
    holds = "101_ObjectCategories/accordion/image_0001.jpg … in 101 folders and BACKGROUND_Google"
    inside = ("caltech101", "caltech-101")
    marker = CALTECH_FOLDER
    classes = 101

    @cached_property
    def root(self) -> str:
        """The folder above 101_ObjectCategories; `source.path` may also be 101_ObjectCategories itself."""
        given = storage.absolute(self.source.path)
        above, _, name = given.rpartition("/")
        return above if name == CALTECH_FOLDER else super().root

    def files(self) -> Sequence[str]:
        """None: the folders themselves are the list."""
        return []

    def listing_files(self) -> list[str]:
        """None; raises SourceError where folders of classes are missing."""
        absent = [name for name in CALTECH_COUNTS if not self._last[name]]
        if len(absent) == len(CALTECH_COUNTS):
            raise self.missing(CALTECH_FOLDER)
        if absent:
            raise self.missing(f"every photo of {len(absent)} classes ({first(absent)})")
        return []

    def listed(self) -> Iterator[Listed]:
        """Class by class, from the first photo to the last existing one; a gap in the numbers is an error."""
        for number, (folder, last) in enumerate(self._last.items()):
            photos = [f"image_{place:04d}.jpg" for place in range(1, last + 1)]
            training = training_images(photos, self._per_class, self.source.split_seed, folder.removesuffix("_easy"))
            for photo in photos:
                split = "train" if photo in training else "test"
                name = CALTECH_NAMES.get(folder, folder.replace("_", " "))
                yield Listed(f"{CALTECH_FOLDER}/{folder}/{photo}", split, number, name)

    def counts(self) -> Mapping[str, int]:
        """Of the classes' known sizes: 3,030 train + 5,647 test with 30 a class."""
        train = sum(min(self._per_class, count - 1) for count in CALTECH_COUNTS.values())
        return {"train": train, "test": sum(CALTECH_COUNTS.values()) - train}

    def state(self) -> dict[str, Any]:
        """The number of photos per folder, since the download has no list."""
        return {"photos": dict(self._last)}

    def remarks(self) -> list[str]:
        """Notes on the unofficial split, and on classes whose number of photos differs from the official one."""
        split = (
            f"{self.title} has no official split: {self._per_class} photos of each class train, the others test "
            f"(ingest.source.train_per_class, split_seed {self.source.split_seed})"
        )
        other = [
            f"{name} {self._last[name]} of {count}"
            for name, count in CALTECH_COUNTS.items()
            if self._last[name] != count
        ]
        if not other:
            return [split]
        return [
            split,
            f"{self.title}: {len(other)} classes have other numbers of photos than the official ones: {first(other)}",
        ]

    @property
    def _per_class(self) -> int:
        return self.source.train_per_class or CALTECH_TRAIN_PER_CLASS

    @cached_property
    def _last(self) -> Mapping[str, int]:
        """Class folder → the highest number of its photos, 0 where there is none; other files are not looked at."""
        found = photos_below(self.root, [f"{CALTECH_FOLDER}/{name}/" for name in CALTECH_COUNTS])
        numbers = dict.fromkeys(CALTECH_COUNTS, 0)
        for path in found:
            folder, _, file = path.removeprefix(f"{CALTECH_FOLDER}/").rpartition("/")
            photo = CALTECH_PHOTO.fullmatch(file)
            if photo and folder in numbers:
                numbers[folder] = max(numbers[folder], int(photo[1]))
        return numbers


# Names of WordNet ids (n01532829 → house finch), from ImageNet's lists or from WordNet itself.


def read_names(uri: str, ids: Collection[str], *, field: str) -> dict[str, str]:
    """The first name of each WordNet id, as words.

    Args:
        uri: a file of lines `n01532829 house finch, linnet` (blanks or a tab between), or `data.noun` of WordNet 3.0.
        ids: WordNet ids such as n01532829.
        field: the config field, for messages.

    Raises:
        SourceError: the file has neither format, is from another release of WordNet, or lacks an id.
    """
    text = storage.read_bytes(uri).decode("utf-8-sig", errors="replace")
    names: dict[str, str] = {}
    of_wordnet = False
    for line in text.splitlines():
        found = _LISTED.match(line) or _SYNSET.match(line)
        if found is not None and f"n{found[1]}" in ids:
            names.setdefault(f"n{found[1]}", found[2].replace("_", " ").strip())
        of_wordnet |= found is not None and found.re is _SYNSET
    if of_wordnet and _RELEASE not in text[:4096]:
        raise SourceError(
            f"{field}: {uri} is not of {_RELEASE}, whose ids ImageNet has; other releases number otherwise"
        )
    unknown = sorted(set(ids) - set(names))
    if unknown:
        raise SourceError(
            f"{field}: {uri} has no name for {len(unknown)} of {len(ids)} classes ({first(unknown)}); a line is "
            "`n01532829 house finch, linnet`, or one of data.noun of WordNet 3.0"
        )
    return names


# Mini-ImageNet (Vinyals et al., 2016) in the lists of Ravi and Larochelle (2017), as ordinary classification.


class MiniImageNet(Layout):
    """100 classes of ImageNet, 600 photos each.

    The published lists are for few-shot learning: 64 classes for training, 16 others for validation, 20 others for
    testing. A classifier cannot be tested on classes it never saw, so all photos are pooled and split within each
    class; the list that a photo came from is kept as metadata (`few_shot`).
    """

    title = "Mini-ImageNet"
    site = (
        "lists: github.com/twitter-research/meta-learning-lstm, data/miniImagenet; photos: made of ImageNet, or mirrors"
    )
    holds = "images/n0153282900000005.jpg …, and train.csv, val.csv, test.csv with the columns filename,label"
    inside = ("mini-imagenet", "mini_imagenet", "miniImagenet", "miniImageNet", "miniimagenet")
    marker = "train.csv"
    classes = 100

    def files(self) -> Sequence[str]:
        """Three lists, and the names where they are beside them."""
        return [f"{name}.csv" for name in MINI_LISTS]

    def listing_files(self) -> list[str]:
        """The file of class names, then the lists; raises SourceError if one is missing."""
        lists = super().listing_files()
        names = self._names()
        if not storage.exists(names):
            raise SourceError(
                f"ingest.source.class_names: there is no file {names}; the classes of {self.title} are WordNet ids, "
                "and their names are read from a file of lines `n01532829 house finch, linnet` (ImageNet's words.txt "
                f"or LOC_synset_mapping.txt; found by itself as {MINI_NAMES} beside train.csv) or from data.noun of "
                "WordNet 3.0, which the package wordnet-base of Debian and Ubuntu has (apt-get install wordnet-base)"
            )
        return [names, *lists]

    def listed(self) -> Iterator[Listed]:
        """Class by class, in the order of the WordNet ids."""
        photos: dict[str, dict[str, str]] = {}
        for part in MINI_LISTS:
            for photo, label in self._rows(f"{part}.csv"):
                photos.setdefault(label, {}).setdefault(photo, part)
        names = read_names(self._names(), photos, field="ingest.source.class_names")
        for number, (label, parts) in enumerate(sorted(photos.items())):
            training = training_images(sorted(parts), self._per_class, self.source.split_seed, label)
            for photo, part in parts.items():
                split = "train" if photo in training else "test"
                yield Listed(f"images/{photo}", split, number, names[label], {"wordnet": label, "few_shot": part})

    def counts(self) -> Mapping[str, int]:
        """50,000 train + 10,000 test with 500 a class."""
        train = min(self._per_class, MINI_PER_CLASS - 1)
        return {"train": self.classes * train, "test": self.classes * (MINI_PER_CLASS - train)}

    def remarks(self) -> list[str]:
        """A note on the split, which is not the published one."""
        return [
            f"{self.title}: {self._per_class} photos of each class train, the others test (ingest.source."
            f"train_per_class, split_seed {self.source.split_seed}): the published lists have other classes for "
            "training and test"
        ]

    @property
    def _per_class(self) -> int:
        return self.source.train_per_class or MINI_TRAIN_PER_CLASS

    def _names(self) -> str:
        if self.source.class_names is not None:
            return storage.absolute(self.source.class_names)
        beside = storage.join(self.root, MINI_NAMES)
        return beside if storage.exists(beside) else WORDNET

    def _rows(self, file: str) -> Iterator[tuple[str, str]]:
        """(photo, WordNet id) per line of a list."""
        for number, row in enumerate(csv.reader(io.StringIO(self.text(file))), start=1):
            fields = [field.strip() for field in row]
            place = f"{storage.join(self.root, file)}, line {number}"
            if number == 1:
                if fields != ["filename", "label"]:
                    raise SourceError(f"{place}: {','.join(row)!r} is not the header `filename,label`")
            elif fields and (len(fields) != 2 or not fields[0] or not MINI_CLASS.fullmatch(fields[1])):
                raise SourceError(f"{place}: {','.join(row)!r} is not `photo,WordNet id` such as n01532829")
            elif fields:
                yield fields[0], fields[1]
