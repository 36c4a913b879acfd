"""The Describable Textures Dataset (Cimpoi, Maji, Kokkinos, Mohamed, Vedaldi, 2014), release r1.0.1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from fgvr.datasets.layout import Layout, Listed
from fgvr.datasets.rows import SourceError

SPLITS = ("train", "val", "test")


class Dtd(Layout):
    """47 textures, an adjective each, in ten official splits of 40 train, 40 val and 40 test images a class."""

    title = "the Describable Textures Dataset"
    site = "robots.ox.ac.uk/~vgg/data/dtd, dtd-r1.0.1.tar.gz"
    holds = "images/banded/banded_0002.jpg …, and labels/train1.txt, val1.txt, test1.txt up to test10.txt"
    inside = ("dtd", "dtd/dtd")
    marker = "labels/train1.txt"
    images: ClassVar = {"train": 1_880, "val": 1_880, "test": 1_880}
    classes = 47

    def files(self) -> Sequence[str]:
        """The three lists of the configured split."""
        return [f"labels/{split}{self.source.fold}.txt" for split in SPLITS]

    def listed(self) -> Iterator[Listed]:
        """Split by split; classes are numbered in the order of their names."""
        rows = [
            (split, path.strip(), self._texture(place, path.strip()))
            for split, file in zip(SPLITS, self.files(), strict=True)
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
