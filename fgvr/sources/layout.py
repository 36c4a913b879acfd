"""Official downloads of public data sets, unpacked: reading their list files, and checking that the photos exist.

Each data set is a subclass: it says which files list the images and what a line in them means. Everything is read
through `fgvr.storage`, so a download may also lie in a bucket.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa

from fgvr import storage
from fgvr.config.data import LayoutSource
from fgvr.sources.allowed_places import AllowedPlaces
from fgvr.sources.rows import SourceError, chunk
from fgvr.text_files import decoded, lines

SHOWN = 3
"""How many missing items a message names."""


@dataclass(frozen=True)
class Listed:
    """An image named by a list file.

    Attributes:
        path: path of the image, relative to the download's root.
        split: train, val or test.
        class_id: counted from 0; the files themselves mostly count from 1.
        class_name: the class in words.
        metadata: what else the download says about the image, JSON types.
    """

    path: str
    split: str
    class_id: int
    class_name: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class Layout(ABC):
    """A download at `source.path`.

    Class attributes:
        title: the data set's name.
        site: where the download is offered.
        holds: what it unpacks to, in words.
        inside: folders that the download or other tools unpack to; `source.path` may be their parent.
        marker: a file directly below the root, by which the root is recognised.
        images: official number of images per split.
        classes: official number of classes.
    """

    title: ClassVar[str]
    site: ClassVar[str]
    holds: ClassVar[str]
    inside: ClassVar[tuple[str, ...]] = ()
    marker: ClassVar[str]
    images: ClassVar[Mapping[str, int]]
    classes: ClassVar[int]

    def __init__(self, source: LayoutSource) -> None:
        self.source = source

    @cached_property
    def root(self) -> str:
        """URI of the folder that paths in the list files are relative to."""
        given = storage.absolute(self.source.path)
        places = [given, *(storage.join(given, name) for name in self.inside)]
        return next((place for place in places if storage.exists(storage.join(place, self.marker))), given)

    @abstractmethod
    def files(self) -> Sequence[str]:
        """The files that determine the listing; names relative to the root."""

    @abstractmethod
    def listed(self) -> Iterator[Listed]:
        """The images in the order of the list files; raises SourceError if a file differs from the published one."""

    def counts(self) -> Mapping[str, int]:
        """Number of images that a complete download gives with these settings, per split of the download."""
        return self.images

    def state(self) -> dict[str, Any]:
        """What determines the samples besides the settings and the content of the list files."""
        return {}

    def remarks(self) -> list[str]:
        """Notes for a reader of the results, besides those on unexpected image counts."""
        return []

    def listing_files(self) -> list[str]:
        """URIs of the list files; raises SourceError if one is missing."""
        names = self.files()
        for name in names:
            if not storage.exists(storage.join(self.root, name)):
                raise self.missing(name)
        return [storage.join(self.root, name) for name in names]

    def read(self, allowed_roots: Sequence[str] = ()) -> tuple[pa.Table, list[str]]:
        """All images as a listing chunk, and notes; images outside the download become failing rows.

        Args:
            allowed_roots: as in `ingest.limits`.

        Raises:
            SourceError: a list file or a listed photo is missing, or a file differs from the published one.
        """
        self.listing_files()
        rows = list(self.listed())
        self._check_photos([row.path for row in rows])
        merged = "val" if self.source.val_as_train else None
        allowed = AllowedPlaces(self.root, self.root, allowed_roots, lists_own_files=True)
        table = chunk(
            uri=allowed.checked(pa.array([storage.join(self.root, row.path) for row in rows], pa.large_string())),
            split=["train" if row.split == merged else row.split for row in rows],
            class_id=[row.class_id for row in rows],
            class_name=[row.class_name for row in rows],
            metadata=[json.dumps(row.metadata, ensure_ascii=False) if row.metadata else None for row in rows],
        )
        return table, [*self._deviations(rows), *self.remarks(), *allowed.remarks()]

    def text(self, name: str) -> str:
        """A list file's text; raises SourceError if it is missing or not UTF-8."""
        try:
            return decoded(self._bytes(name))
        except UnicodeDecodeError as error:
            raise SourceError(f"{storage.join(self.root, name)}: not a text file: {error}") from error

    def fields(self, name: str, count: int) -> Iterator[tuple[str, list[str]]]:
        """(place for messages, words) per line of a text file; the last of the `count` words may contain blanks."""
        for number, line in enumerate(lines(self.text(name)), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            words = line.split(maxsplit=count - 1)
            place = f"{storage.join(self.root, name)}, line {number}"
            if len(words) != count:
                raise SourceError(f"{place}: {line!r} has {len(words)} fields instead of {count}")
            yield place, words

    def mat(self, name: str, *variables: str) -> list[Any]:
        """Variables of a MATLAB file as NumPy arrays, with axes of length 1 removed.

        Raises:
            SourceError: the file is missing, is not a MATLAB file (a web page saved under its name), or lacks a
                variable.
        """
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        uri = storage.join(self.root, name)
        try:
            found = loadmat(io.BytesIO(self._bytes(name)), squeeze_me=True)
        except (MatReadError, ValueError, TypeError, LookupError, OSError, NotImplementedError, zlib.error) as error:
            raise SourceError(f"{uri}: not a MATLAB file as it was published: {error}; download it again") from error
        for variable in variables:
            if variable not in found:
                raise SourceError(f"{uri}: it has no variable {variable!r}, so it is not the file of {self.title}")
        return [found[variable] for variable in variables]

    def missing(self, what: str) -> SourceError:
        """The error for something missing, which says what the official download contains."""
        fact = f"{what} is missing" if storage.exists(self.source.path) else "there is no such folder"
        return SourceError(f"ingest.source.path = {self.source.path}: {fact}; {self._official()}")

    def _bytes(self, name: str) -> bytes:
        try:
            return storage.read_bytes(storage.join(self.root, name))
        except FileNotFoundError:
            raise self.missing(name) from None

    def _official(self) -> str:
        return f"the official download of {self.title} ({self.site}) holds {self.holds}: {self._counts(self.counts())}"

    def _counts(self, images: Mapping[str, int]) -> str:
        return " + ".join(f"{count:,} {split}" for split, count in images.items()) + " images"

    def _check_photos(self, paths: Sequence[str]) -> None:
        there = photos_below(self.root, paths)
        absent = [path for path in paths if path not in there]
        if absent:
            raise SourceError(
                f"ingest.source.path = {self.source.path}: {len(absent):,} of {len(paths):,} listed photos are not "
                f"there ({first(absent)}); {self._official()}. Unpack it again; photos that are a sample on "
                "purpose are listed by a CSV (ingest.source.kind: table)"
            )

    def _deviations(self, rows: Sequence[Listed]) -> list[str]:
        found = Counter(row.split for row in rows)
        official = self.counts()
        counts = {split: found[split] for split in official}
        classes = len({row.class_id for row in rows})
        if counts == dict(official) and classes == self.classes:
            return []
        return [
            f"{self.title}: {self._counts(counts)} of {classes} classes, where the official download holds "
            f"{self._counts(official)} of {self.classes}: scores do not compare with published ones"
        ]


def first(names: Sequence[str]) -> str:
    """The first few names of a list, for a message."""
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")


def photos_below(root: str, paths: Iterable[str]) -> set[str]:
    """Those of `paths` that exist below `root`, and other files beside them; lists folders instead of testing paths."""
    folders = {path.rpartition("/")[0] for path in paths}
    if storage.is_local(root):
        return {f"{folder}/{name}" for folder in folders for name in _names(storage.join(root, folder))}
    fs, inside = storage.resolve(root)
    found: set[str] = set()
    for top in {folder.partition("/")[0] for folder in folders}:
        place = storage.join(inside, top)
        fs.invalidate_cache(place)
        found.update(name.removeprefix(inside.rstrip("/")).lstrip("/") for name in fs.find(place))
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(storage.local_path(folder))  # noqa: PTH208  # iterdir makes a Path of every photo
    except (FileNotFoundError, NotADirectoryError):
        return []
