"""WebDataset: images in tars, with members of the same key beside them. Members are located, nothing is extracted.

An image that is a symbolic link, a device, a pipe or a sparse file becomes a row that fails with a reason; a hard link
has the bytes of the earlier member to which it leads, or fails. Folders and hidden members become no rows; whatever
becomes no row is counted. A member's name is shown to people, and its bytes give the key for its class; it is never
used as a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final
from unicodedata import normalize

import pyarrow as pa

from fgvr import storage
from fgvr.config.data import WebDatasetSource
from fgvr.images.parquet import Window, read_range
from fgvr.images.places import TarPlace, Unlisted
from fgvr.images.tar import Kind, Member, TarDamage, members, shown_name
from fgvr.images.tar_headers import Read
from fgvr.images.tar_links import links_followed
from fgvr.json_text import read_json
from fgvr.names.spelling import one_form
from fgvr.schemas import Reason
from fgvr.sources.columns import SHOWN_COLUMNS, near_miss
from fgvr.sources.folder import readable_endings
from fgvr.sources.omissions import Omissions, UnlistedMembers
from fgvr.sources.rows import CHUNK, SourceError, chunk
from fgvr.sources.shards import Shard
from fgvr.text_files import decoded, lines

MAX_LABEL_BYTES: Final = 64 * 2**10
"""A class member longer than this is ignored."""
MOST_KEYS: Final = 1000
"""How many keys of JSON members are remembered, for the message that none of them is the class key."""
MOST_LINKED: Final = 256
"""How many members that give classes to hard links are kept: equal labels are often links to one of them."""
MAX_GROUP: Final = 1000
"""How many images of one key may wait for their class, or classes for their images."""

_IMAGE, _CLASS = "image", "class"


@dataclass
class _Group:
    """Adjacent members with the same key.

    Attributes:
        key: path and name up to the name's first dot.
        images: (place, stem) of images without a class so far; a stem is path and name without the known ending.
        classes: stem → class, None if the class member could not be read.
        used: stems whose class was given to an image.
    """

    key: str = ""
    images: list[tuple[str, str]] = field(default_factory=list)
    classes: dict[str, str | None] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @property
    def is_long(self) -> bool:
        """Whether the group has reached its limit, so that its images must no longer wait."""
        return max(len(self.images), len(self.classes)) >= MAX_GROUP

    def class_of(self, stem: str) -> str | None:
        """The class of the same stem, else of its longest prefix up to a dot: `9.left.jpg` has the class of `9.cls`."""
        while stem not in self.classes:
            shorter, dot, _ = stem.rpartition(".")
            if not dot or len(shorter) < len(self.key):
                return None
            stem = shorter
        self.used.add(stem)
        return self.classes[stem]


@dataclass(frozen=True)
class Beside:
    """What became of a tar's class members.

    Attributes:
        found: number of class members.
        unread: how many of them belong to an image but could not be read.
        alone: how many of them have no image beside them.
    """

    found: int = 0
    unread: int = 0
    alone: int = 0


class TarLister:
    """Lists the tars of one source; `beside` says, per tar, what became of the members beside its images."""

    def __init__(self, source: WebDatasetSource, omissions: Omissions | None = None) -> None:
        """`omissions` counts what becomes no row. Raises SourceError if `class_names` is missing or not text."""
        self._source = source
        self._omissions = omissions or Omissions()
        self._endings = readable_endings(source.extensions)
        self._names = _class_names(source.class_names)
        self.beside: list[Beside] = []
        self._with_key = 0  # number of JSON members that have the class key
        self._other_keys: set[str] = set()

    def listed(self, shard: Shard) -> Iterator[pa.Table]:
        """Chunks of a tar's listing; at damage, raises TarDamage or OSError after yielding what comes before it."""
        split = shard.folders[0] if self._source.split_from == "top" and shard.folders else None
        rows = _Rows(split)
        window = Window(shard.uri)
        damage: TarDamage | OSError | None = None
        unlisted = UnlistedMembers(self._source.exclude)
        linked = lru_cache(MOST_LINKED)(lambda start, length: read_range(shard.uri, start, start + length))
        walk = links_followed(members(window.read, window.size))
        while True:
            try:
                member = next(walk, None)
            except (TarDamage, OSError) as error:
                damage, member = error, None
            if member is None:
                break
            name = _with_slashes(member.name)
            if member.kind is Kind.FOLDER or unlisted.has(name):
                continue
            key, stem, kind = self._parts(name)
            if key != rows.group.key or rows.group.is_long:
                rows.end_group(key, stem)
                if len(rows.uris) >= CHUNK:
                    yield rows.taken()
            if kind == _IMAGE:
                rows.group.images.append((_place(shard, member), stem))
                unlisted.image(key)
            elif kind == _CLASS:
                rows.group.classes[stem] = self._class(window.read, linked, member)
            else:
                unlisted.other(key, shown_name(name))
        self._omissions.add(unlisted.end())
        rows.end_group("", "")
        yield rows.taken()
        self.beside.append(Beside(rows.found, rows.unread, rows.alone))
        if damage is not None:
            raise damage

    def remarks(self) -> list[str]:
        """Notes on the class members, after the tars were listed."""
        kind = f".{self._source.class_from}"
        unread, alone = sum(tar.unread for tar in self.beside), sum(tar.alone for tar in self.beside)
        said = []
        if unread:
            said.append(f"{unread:,} {kind} members say no class (ingest.source.class_from)")
        if alone:
            said.append(
                f"{alone:,} {kind} members belong to no photo: the members of a sample are neighbours in a tar and "
                "have one name up to the ending"
            )
        if self._source.class_from != "none" and not sum(tar.found for tar in self.beside):
            said.append(f"no member of the tars ends in {kind} (ingest.source.class_from)")
        return said

    def _parts(self, name: str) -> tuple[str, str, str]:
        """(key, stem, kind) of a non-hidden member, from its name, in Unicode's composed form: macOS has another.

        A key ends at the first dot of a name. A stem ends where a known ending begins, which distinguishes v1.00.jpg
        from v1.01.jpg, two samples with the same key.
        """
        name = normalize("NFC", name)
        folder, slash, base = name.rpartition("/")
        start, dot, _ = base.partition(".")
        key = f"{folder}{slash}{start}"
        if not dot:
            return key, name, ""
        lower = name.lower()
        endings = [ending for ending in self._endings if lower.endswith(ending)]
        if endings:
            return key, name[: -len(max(endings, key=len))], _IMAGE
        if self._source.class_from != "none" and lower.endswith(f".{self._source.class_from}"):
            return key, name[: -len(self._source.class_from) - 1], _CLASS
        return key, name, ""

    def check_key(self) -> None:
        """Raises SourceError if none of the tars' JSON members had the class key; call it after listing."""
        if self._other_keys and not self._with_key:
            key, there = self._source.class_key, sorted(self._other_keys)
            near = near_miss(there, "class_column", key, cutoff=0.6)
            shown = ", ".join(there[:SHOWN_COLUMNS]) + (" …" if len(there) > SHOWN_COLUMNS else "")
            meant = "" if near is None else f"; did you mean {near}?"
            raise SourceError(f"ingest.source.class_key = {key}: no .json member has it; there are {shown}{meant}")

    def _keyed(self, content: Any) -> Any:
        """The class in a JSON member; raises KeyError or TypeError."""
        if isinstance(content, dict) and self._source.class_key not in content and len(self._other_keys) < MOST_KEYS:
            self._other_keys.update(content)
        found = content[self._source.class_key]
        self._with_key += 1
        return found

    def _class(self, read: Read, linked: Read, member: Member) -> str | None:
        if member.kind is not Kind.FILE or member.size > MAX_LABEL_BYTES:
            return None
        try:
            text = decoded((linked if member.link else read)(member.offset, member.size)).strip()
            if self._source.class_from == "json":
                text = _json_text(self._keyed(read_json(text)))
            if self._names is not None and (self._source.class_from == "cls" or text.isdigit()):
                number = int(text)
                return (self._names[number] or None) if number >= 0 else None
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            RecursionError,
        ):  # not text, not JSON, a key twice, no such key or number
            return None
        return text if one_form(text) else None


class _Rows:
    """Rows of a tar that wait to be passed on, and the group that is being gathered."""

    def __init__(self, split: str | None) -> None:
        self.uris: list[str] = []
        self.group = _Group()
        self.found = self.unread = self.alone = 0
        self._split = split
        self._classes: list[str | None] = []

    def end_group(self, key: str, stem: str) -> None:
        """Give the gathered images their classes; `key` and `stem` are those of the next member.

        If the next member has the same key, the group only reached its limit, and images of its stem keep waiting.
        """
        group, following, lacking = self.group, _Group(key), False
        goes_on = key == group.key
        for place, image in group.images:
            name = group.class_of(image)
            if goes_on and image == stem and name is None and len(following.images) < MAX_GROUP // 2:
                following.images.append((place, image))
                continue
            self.uris.append(place)
            self._classes.append(name)
            lacking |= name is None
        for of, name in group.classes.items():
            if goes_on and of in {key, stem}:
                following.classes[of] = name
                continue
            self.found += 1
            self.unread += name is None and of in group.used
            # 0.meta.json beside 0.json: other data about a photo whose class is known.
            self.alone += of not in group.used and (lacking or not group.images or of == group.key)
        following.used = group.used & following.classes.keys()
        self.group = following

    def taken(self) -> pa.Table:
        """The rows as a listing chunk."""
        rows = chunk(uri=self.uris, class_name=self._classes, split=[self._split] * len(self.uris))
        self.uris, self._classes = [], []
        return rows


def _with_slashes(name: str) -> str:
    """A member's name with `/`: some Windows programs write backslashes between folders."""
    return name if "/" in name else name.replace("\\", "/")


def _json_text(value: object) -> str:
    """The class in a JSON value: text or a whole number; anything else is no class."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _place(shard: Shard, member: Member) -> str:
    if member.kind is Kind.FILE:
        return TarPlace(shard.uri, member.offset, member.size, shown_name(member.name), shown_name(member.link)).uri
    name = shown_name(member.name)
    detail = f"{member.kind.value} in an archive is not read: {name} before byte {member.offset:,}"
    if member.kind is Kind.HARD_LINK:
        detail += f"; no file before it is called {shown_name(member.link)}"
    return Unlisted(shard.uri, Reason.UNREADABLE, detail).uri


def _class_names(path: str | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return [one_form(line) for line in lines(decoded(storage.read_bytes(path)))]
    except FileNotFoundError as error:
        raise SourceError(f"ingest.source.class_names = {path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"ingest.source.class_names = {path}: not a text file: {error.reason}") from error
