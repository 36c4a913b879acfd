"""Oxford-IIIT Pet (Parkhi, Vedaldi, Zisserman, Jawahar, 2012)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from fgvr.datasets.layout import Layout, Listed
from fgvr.datasets.rows import SourceError

SPECIES = {"1": "cat", "2": "dog"}


class Pets(Layout):
    """37 breeds of cats and dogs; the name is in the file's. images/ holds other files and unlisted photos, too."""

    title = "Oxford-IIIT Pet"
    site = "robots.ox.ac.uk/~vgg/data/pets, images.tar.gz and annotations.tar.gz"
    holds = "images/Abyssinian_1.jpg …, annotations/trainval.txt and annotations/test.txt"
    inside = ("oxford-iiit-pet",)
    marker = "annotations/trainval.txt"
    images: ClassVar = {"train": 3_680, "test": 3_669}
    classes = 37

    def files(self) -> Sequence[str]:
        """A list a split: name, class, species, breed within the species."""
        return ["annotations/trainval.txt", "annotations/test.txt"]

    def listed(self) -> Iterator[Listed]:
        """Training photos (`trainval`), then test photos."""
        for split, file in zip(("train", "test"), self.files(), strict=True):
            for place, (name, number, species, _) in self.fields(file, 4):
                if not number.isdigit() or int(number) < 1 or species not in SPECIES:
                    raise SourceError(f"{place}: expected `name class species breed`, classes from 1, species 1 or 2")
                metadata = {"species": SPECIES[species]}
                yield Listed(f"images/{name}.jpg", split, int(number) - 1, breed(name), metadata)


def breed(file: str) -> str:
    """A breed from a file's name: "american_bulldog_100" → "American Bulldog". Files of cats have capitals already."""
    words = file.rpartition("_")[0].split("_")
    return " ".join(word[:1].upper() + word[1:] for word in words)
