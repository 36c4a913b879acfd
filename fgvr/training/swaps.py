"""Generated pictures that stand in for photos in training, at random (SaSPA, Michaeli and Fried, NeurIPS 2024).

Which photo of a step is replaced, and by which of its pictures, depends on seed, epoch and step alone, as crops do: a
resumed run and any number of workers see the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fgvr import storage
from fgvr.array_files import open_array, save_array
from fgvr.arrays import Ids
from fgvr.models.student import Pixels
from fgvr.training.examples import MappedUris, write_uris

RULES = 1
"""Increase it when the same pictures would be shown in other steps."""
SOURCES, URIS, FACTS = "sources.npy", "uris.arrow", "pictures.json"
NO_PICTURE = -1


@dataclass(frozen=True)
class Pictures:
    """P pictures of training images.

    Attributes:
        sources: the position of each one's photo in the examples, int64 [P], ascending.
        uris: where the pictures are.
        alpha: probability with which a photo that has pictures is replaced by one of them.
        identity: what determines the pictures' content, see `fgvr.training.image_store`.
    """

    sources: Ids
    uris: Sequence[str]
    alpha: float
    identity: str

    def write(self, uri: str) -> None:
        """Write a folder of files that can be memory-mapped."""
        save_array(storage.join(uri, SOURCES), self.sources)
        with storage.new_file(storage.join(uri, URIS)) as file:
            write_uris(file, self.uris)
        facts = {"alpha": self.alpha, "identity": self.identity}
        storage.write_bytes(storage.join(uri, FACTS), json.dumps(facts).encode())

    @classmethod
    def read(cls, uri: str) -> Pictures:
        """Memory-map what `write` wrote."""
        folder: Path = storage.fetch_folder(uri)
        facts = json.loads((folder / FACTS).read_bytes())
        return cls(open_array(folder / SOURCES), MappedUris(str(folder / URIS)), facts["alpha"], facts["identity"])


class PictureStore(Protocol):
    """Decoded pictures by their number, such as `fgvr.training.image_store.ImageStore`."""

    def __getitem__(self, number: int) -> Pixels:
        """The picture, uint8 [H, W, 3]; raises ImageError."""
        ...


class Swaps:
    """Decides which images of a step are replaced."""

    def __init__(self, pictures: Pictures, store: PictureStore) -> None:
        """`store`: the pictures, by their place in `pictures`."""
        self.alpha, self.store = pictures.alpha, store
        self.sources, self.starts, self.counts = np.unique(pictures.sources, return_index=True, return_counts=True)

    def draw(self, positions: Ids, random: np.random.Generator) -> Ids:
        """The picture that replaces each image, int64 [n]; `NO_PICTURE` where the photo itself is shown.

        Args:
            positions: of the images of a whole step, int64 [n].
            random: it gives two numbers per image, whether or not there are pictures of it.
        """
        whether, which = random.random((len(positions), 2)).T
        picked: npt.NDArray[np.int64] = np.full(len(positions), NO_PICTURE, np.int64)
        if not len(self.sources):
            return picked
        at = np.minimum(np.searchsorted(self.sources, positions), len(self.sources) - 1)
        swapped = (self.sources[at] == positions) & (whether < self.alpha)
        chosen = self.starts[at] + (which * self.counts[at]).astype(np.int64)
        picked[swapped] = chosen[swapped]
        return picked
