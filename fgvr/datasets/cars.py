"""Stanford Cars (Krause, Stark, Deng, Fei-Fei, 2013)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from fgvr import storage
from fgvr.datasets.layout import Layout, Listed
from fgvr.datasets.rows import SourceError

META = "devkit/cars_meta.mat"
TRAIN = "devkit/cars_train_annos.mat"
TEST = "cars_test_annos_withlabels.mat"


class Cars(Layout):
    """196 models of cars. Training and test photos have the same file names, in folders of their own."""

    title = "Stanford Cars"
    site = "ai.stanford.edu/~jkrause/cars, no longer online; mirrors keep its files"
    holds = (
        "cars_train/*.jpg, cars_test/*.jpg, devkit/cars_meta.mat, devkit/cars_train_annos.mat, and "
        f"{TEST} beside them or in devkit/ (devkit/cars_test_annos.mat will not do: it has no classes)"
    )
    inside = ("stanford_cars",)
    marker = META
    images: ClassVar = {"train": 8_144, "test": 8_041}
    classes = 196

    def files(self) -> Sequence[str]:
        """The test annotations with classes were a download of their own; people keep them in either place."""
        beside = storage.exists(storage.join(self.root, TEST))
        in_devkit = not beside and storage.exists(storage.join(self.root, "devkit", TEST))
        return [META, TRAIN, f"devkit/{TEST}" if in_devkit else TEST]

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
        """Names that are wrong on purpose."""
        if not self.source.legacy_cars_offset:
            return []
        return [
            "ingest.source.legacy_cars_offset: the true names are those of the class before, as FineR and FiNDR read "
            "them; they are wrong, and sACC, sIoU and top-1 compare only with papers that made the same mistake"
        ]

    def _row(self, names: Sequence[str], path: str, split: str, class_id: int) -> Listed:
        if not self.source.legacy_cars_offset:
            return Listed(path, split, class_id, names[class_id])
        # FineR (data/car196.py) takes 1 off the class where it lists the photos, and again where it hands one out. The
        # name is then that of the class before, and Python's index -1 gives the first class the last one's.
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
