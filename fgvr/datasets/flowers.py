"""Oxford Flowers-102 (Nilsback, Zisserman, 2008)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from fgvr import storage
from fgvr.datasets.layout import Layout, Listed
from fgvr.datasets.rows import SourceError

NAMES = "cat_to_name.json"
SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}


class Flowers(Layout):
    """102 flowers in the official split, which is not CoOp's; `val` is a split of its own, 10 images a class."""

    title = "Oxford Flowers-102"
    site = "robots.ox.ac.uk/~vgg/data/flowers/102"
    holds = f"jpg/image_00001.jpg …, imagelabels.mat and setid.mat ({NAMES}, with the names, is a common extra)"
    inside = ("flowers-102",)
    marker = "imagelabels.mat"
    images: ClassVar = {"train": 1_020, "val": 1_020, "test": 6_149}
    classes = 102

    def files(self) -> Sequence[str]:
        """Two MATLAB files, and the names where they are there."""
        extra = [NAMES] if storage.exists(storage.join(self.root, NAMES)) else []
        return ["imagelabels.mat", "setid.mat", *extra]

    def listed(self) -> Iterator[Listed]:
        """Split by split; labels are in the order of the photos' numbers."""
        names = self._names()
        (labels,) = self.mat("imagelabels.mat", "labels")
        labels = np.atleast_1d(labels)
        for split, numbers in zip(SPLITS, self.mat("setid.mat", *SPLITS.values()), strict=True):
            for number in np.atleast_1d(numbers):
                if not 1 <= number <= len(labels):
                    raise SourceError(f"{self.root}/setid.mat: image {number}, but imagelabels.mat has {len(labels)}")
                label = int(labels[number - 1])
                if label not in names:
                    raise SourceError(f"{self.root}: image {number} is of class {label}, which has no name in {NAMES}")
                yield Listed(f"jpg/image_{number:05d}.jpg", split, label - 1, names[label])

    def _names(self) -> Mapping[int, str]:
        """Class (from 1) → name: those of cat_to_name.json, else torchvision's, since the download has none."""
        if NAMES in self.files():
            try:
                names = {int(number): str(name) for number, name in json.loads(self.text(NAMES)).items()}
            except (ValueError, AttributeError) as error:
                raise SourceError(f'{self.root}/{NAMES}: expected {{"1": "pink primrose", …}}: {error}') from error
        else:
            from torchvision.datasets import Flowers102

            names = dict(enumerate(Flowers102.classes, start=1))
        return {number: name.strip().rstrip("?") for number, name in names.items()}  # "pink-yellow dahlia?"
