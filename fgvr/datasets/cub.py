"""CUB-200-2011 (Wah, Branson, Welinder, Perona, Belongie, 2011)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from fgvr.datasets.layout import Layout, Listed
from fgvr.datasets.rows import SourceError

SPLITS = {"1": "train", "0": "test"}


class Cub(Layout):
    """200 bird species; the split is a column of its own, 1 for training."""

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
        """Four text files, joined by the image's number."""
        return ["images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt"]

    def listed(self) -> Iterator[Listed]:
        """In the order of images.txt."""
        names = {number: bird_name(name) for _, (number, name) in self.fields("classes.txt", 2)}
        classes = {image: number for _, (image, number) in self.fields("image_class_labels.txt", 2)}
        splits = {image: flag for _, (image, flag) in self.fields("train_test_split.txt", 2)}
        for place, (image, path) in self.fields("images.txt", 2):
            number = classes.get(image, "")
            split = SPLITS.get(splits.get(image, ""))
            if split is None:
                raise SourceError(f"{place}: train_test_split.txt has no 0 or 1 for image {image}")
            if number not in names or not number.isdigit():
                raise SourceError(f"{place}: image_class_labels.txt has no class of classes.txt for image {image}")
            yield Listed(f"images/{path}", split, int(number) - 1, names[number])


def bird_name(folder: str) -> str:
    """A species from its folder: "001.Black_footed_Albatross" → "Black-footed Albatross".

    The folders have lost hyphens and apostrophes. A word in lower case belongs to the one before it, with a hyphen;
    what else was lost (Brewer's, Whip-poor-will) stays lost.
    """
    words = folder.rpartition(".")[2].split("_")
    name = words[0]
    for word in words[1:]:
        name += f"-{word}" if word.islower() else f" {word}"
    return name
