"""Decoded images for models that answer: read by threads a little ahead, failures kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from fgvr.config.data import ImageLimits
from fgvr.images.read import ImageError, read_image
from fgvr.prefetch import read_ahead
from fgvr.schemas import Failure

Result = TypeVar("Result")


@dataclass(frozen=True)
class Picture:
    """A decoded image and the name of its content, under which an engine keeps what it computed from it."""

    image: Image.Image
    content_id: str

    @classmethod
    def of(cls, image: Image.Image) -> Picture:
        """Name an image by the hash of its pixels: one name can never stand for two contents."""
        digest = hashlib.blake2b(f"{image.size}{image.mode}".encode(), digest_size=16)
        digest.update(image.tobytes())
        return cls(image, digest.hexdigest())


class PictureReader:
    """Iterates over the images that can be read, once; afterwards `places` and `failures` say which they were.

    Only `2 · threads` decoded images wait at any time: a part of 256 photos of 12 megapixels would take 9 GB.
    """

    def __init__(self, uris: Sequence[str], limits: ImageLimits, *, threads: int) -> None:
        """The images at `uris`; `threads` read and decode them."""
        self._uris, self._limits, self._threads = uris, limits, threads
        self.places: list[int] = []
        """Positions in `uris` of the pictures given out so far."""
        self.failures: dict[int, Failure] = {}
        """Why the images at the other positions could not be read."""

    def __iter__(self) -> Iterator[tuple[int, Picture]]:
        """(position, picture), in order."""
        for place, picture in enumerate(read_ahead(self._read, self._uris, threads=self._threads)):
            if isinstance(picture, Failure):
                self.failures[place] = picture
            else:
                self.places.append(place)
                yield place, picture

    def in_order(self, given: Iterable[Result], failed: Callable[[Failure], Result]) -> list[Result]:
        """One result per URI: those `given` for the pictures, in order, and `failed` where there was none."""
        # The results may come from a generator that draws the pictures: only then is it known which there are.
        of_pictures = list(given)
        results = {place: failed(failure) for place, failure in self.failures.items()}
        results |= dict(zip(self.places, of_pictures, strict=True))
        return [results[place] for place in range(len(self._uris))]

    def _read(self, uri: str) -> Picture | Failure:
        try:
            return Picture.of(read_image(uri, self._limits))
        except ImageError as error:
            return error.failure
