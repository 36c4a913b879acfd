"""Stanford Dogs (Khosla, Jayadevaprakash, Yao, Fei-Fei, 2011)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from fgvr.datasets.layout import Layout, Listed
from fgvr.datasets.rows import SourceError


class Dogs(Layout):
    """120 breeds; the name is in the folder's."""

    title = "Stanford Dogs"
    site = "vision.stanford.edu/aditya86/ImageNetDogs, images.tar and lists.tar"
    holds = "Images/n02085620-Chihuahua/*.jpg …, train_list.mat and test_list.mat"
    marker = "train_list.mat"
    images: ClassVar = {"train": 12_000, "test": 8_580}
    classes = 120

    def files(self) -> Sequence[str]:
        """A list a split."""
        return ["train_list.mat", "test_list.mat"]

    def listed(self) -> Iterator[Listed]:
        """Training photos, then test photos."""
        for split, file in zip(("train", "test"), self.files(), strict=True):
            photos, labels = (np.atleast_1d(values) for values in self.mat(file, "file_list", "labels"))
            if len(photos) != len(labels):
                raise SourceError(f"{self.root}/{file}: {len(photos)} photos, but {len(labels)} labels")
            for photo, label in zip(photos, labels, strict=True):
                name = breed(str(photo))
                if not name or label < 1:
                    raise SourceError(
                        f"{self.root}/{file}: {str(photo)!r} with label {label} is not n…-breed/….jpg with a label "
                        "from 1 on"
                    )
                yield Listed(f"Images/{photo}", split, int(label) - 1, name)


def breed(path: str) -> str:
    """A breed from its folder: "n02088466-black-and-tan_coonhound/x.jpg" → "black-and-tan coonhound"; else ""."""
    return path.partition("/")[0].partition("-")[2].replace("_", " ")
