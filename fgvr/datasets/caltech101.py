"""Caltech101 (Fei-Fei, Fergus, Perona, 2004)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from fgvr import storage
from fgvr.datasets.layout import Layout, Listed, first, photos_below
from fgvr.datasets.seeded_split import training_images

FOLDER = "101_ObjectCategories"
TRAIN_PER_CLASS = 30

_SIZES = """
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
COUNTS: Final = {name: int(count) for name, _, count in (entry.partition("=") for entry in _SIZES.split())}
"""Photos of each class, 8,677 in all; image_0001.jpg, image_0002.jpg … without a gap."""

# Plurals, a slip of the pen, and folder names that no one would say; the faces as CLIP's authors call them in their
# prompts for this data set.
NAMES: Final = {
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
PHOTO = re.compile(r"image_(\d{4})\.jpg")


class Caltech101(Layout):
    """101 kinds of objects, a folder each, without any list and without an official split.

    BACKGROUND_Google is clutter and no class. `Faces_easy` shows the faces of `Faces` once more, cut out, so that
    equal numbers of both are in the same split: else the test would be of people that were trained on.
    """

    title = "Caltech101"
    site = "data.caltech.edu/records/mzrjq-6wc02, caltech-101.zip, and 101_ObjectCategories.tar.gz in it"
    holds = "101_ObjectCategories/accordion/image_0001.jpg … in 101 folders and BACKGROUND_Google"
    inside = ("caltech101", "caltech-101")
    marker = FOLDER
    classes = 101

    @cached_property
    def root(self) -> str:
        """The folder above 101_ObjectCategories; `source.path` may also be 101_ObjectCategories itself."""
        given = storage.absolute(self.source.path)
        above, _, name = given.rpartition("/")
        return above if name == FOLDER else super().root

    def files(self) -> Sequence[str]:
        """None: the folders are the list."""
        return []

    def listing_files(self) -> list[str]:
        """None; raises SourceError where folders of classes are missing."""
        absent = [name for name in COUNTS if not self._last[name]]
        if len(absent) == len(COUNTS):
            raise self.missing(FOLDER)
        if absent:
            raise self.missing(f"every photo of {len(absent)} classes ({first(absent)})")
        return []

    def listed(self) -> Iterator[Listed]:
        """Class by class, from the first photo to the last that is there; one that is missing between is an error."""
        for number, (folder, last) in enumerate(self._last.items()):
            photos = [f"image_{place:04d}.jpg" for place in range(1, last + 1)]
            training = training_images(photos, self._per_class, self.source.split_seed, folder.removesuffix("_easy"))
            for photo in photos:
                split = "train" if photo in training else "test"
                name = NAMES.get(folder, folder.replace("_", " "))
                yield Listed(f"{FOLDER}/{folder}/{photo}", split, number, name)

    def counts(self) -> Mapping[str, int]:
        """Of the classes' known sizes: 3,030 train + 5,647 test with 30 a class."""
        train = sum(min(self._per_class, count - 1) for count in COUNTS.values())
        return {"train": train, "test": sum(COUNTS.values()) - train}

    def state(self) -> dict[str, Any]:
        """How many photos each folder has: the download has no list."""
        return {"photos": dict(self._last)}

    def remarks(self) -> list[str]:
        """The split, which is not official, and classes with other numbers of photos than the official ones."""
        split = (
            f"{self.title} has no official split: {self._per_class} photos of each class train, the others test "
            f"(ingest.source.train_per_class, split_seed {self.source.split_seed})"
        )
        other = [f"{name} {self._last[name]} of {count}" for name, count in COUNTS.items() if self._last[name] != count]
        if not other:
            return [split]
        return [
            split,
            f"{self.title}: {len(other)} classes have other numbers of photos than the official ones: {first(other)}",
        ]

    @property
    def _per_class(self) -> int:
        return self.source.train_per_class or TRAIN_PER_CLASS

    @cached_property
    def _last(self) -> Mapping[str, int]:
        """Class folder → the highest number of its photos, 0 where there is none; other files are not looked at."""
        found = photos_below(self.root, [f"{FOLDER}/{name}/" for name in COUNTS])
        numbers = dict.fromkeys(COUNTS, 0)
        for path in found:
            folder, _, file = path.removeprefix(f"{FOLDER}/").rpartition("/")
            photo = PHOTO.fullmatch(file)
            if photo and folder in numbers:
                numbers[folder] = max(numbers[folder], int(photo[1]))
        return numbers
