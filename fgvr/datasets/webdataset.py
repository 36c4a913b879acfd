"""WebDataset: images in tars, with members of the same key beside them. Members become places, nothing is extracted.

An image that is a link, a device, a pipe or a sparse file is a row that fails with a reason; folders and hidden members
are none, and what is none is counted. A member's name is text for people and the key for its class; it is never used as
a path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from fgvr import storage
from fgvr.archives.places import TarPlace, Unlisted
from fgvr.archives.ranges import Window
from fgvr.archives.tar import Kind, Member, TarDamage, members
from fgvr.config.data import WebDatasetSource
from fgvr.datasets.folder import readable_endings
from fgvr.datasets.rows import CHUNK, SourceError, chunk
from fgvr.datasets.shards import Shard
from fgvr.datasets.unlisted_members import UnlistedMembers
from fgvr.omissions import Omissions
from fgvr.schemas import Reason

MAX_LABEL_BYTES: Final = 64 * 2**10
"""A member that says a class and is longer says none."""
MAX_GROUP: Final = 1000
"""Images of one key that wait for their class."""


@dataclass
class _Group:
    """Neighbouring members of one key."""

    key: str = ""
    images: list[str] = field(default_factory=list)
    class_name: str | None = None


class TarLister:
    """Lists tars of one source; `unread` has, for each tar, how many members should have said a class and did not."""

    def __init__(self, source: WebDatasetSource, omissions: Omissions | None = None) -> None:
        """`omissions` counts what is no row. Raises SourceError where `class_names` is not there or no text."""
        self._source = source
        self._omissions = omissions or Omissions()
        self._endings = readable_endings(source.extensions)
        self._names = _class_names(source.class_names)
        self.unread: list[int] = []

    def listed(self, shard: Shard) -> Iterator[pa.Table]:
        """Chunks of a tar's listing; raises TarDamage and OSError, after what comes before the damage."""
        split = shard.folders[0] if self._source.split_from == "top" and shard.folders else None
        uris: list[str] = []
        classes: list[str | None] = []
        unread = 0
        window = Window(shard.uri)
        damage: TarDamage | OSError | None = None
        group = _Group()
        unlisted = UnlistedMembers(self._source.exclude)
        walk = members(window.read, window.size)
        while True:
            try:
                member = next(walk, None)
            except (TarDamage, OSError) as error:
                damage, member = error, None
            if member is not None and (member.kind is Kind.FOLDER or unlisted.has(member.name)):
                continue
            key, ending = ("", "") if member is None else _key(member.name)
            if member is None or key != group.key or len(group.images) == MAX_GROUP:
                uris += group.images
                classes += [group.class_name] * len(group.images)
                group = _Group(key, [], group.class_name if key == group.key else None)
            if len(uris) >= CHUNK or (member is None and uris):
                yield chunk(uri=uris, class_name=classes, split=[split] * len(uris))
                uris, classes = [], []
            if member is None:
                break
            if ending and member.name.lower().endswith(self._endings):
                group.images.append(_place(shard, member))
                unlisted.image(key)
            elif ending.lower() == self._source.class_from:
                group.class_name = self._class(window, member)
                unread += group.class_name is None
            else:
                unlisted.other(key, member.name)
        self._omissions.add(unlisted.end())
        self.unread.append(unread)
        if damage is not None:
            raise damage

    def _class(self, window: Window, member: Member) -> str | None:
        if member.kind is not Kind.FILE or member.size > MAX_LABEL_BYTES:
            return None
        try:
            text = window.read(member.offset, member.size).decode().strip()
            if self._source.class_from == "json":
                value = json.loads(text)[self._source.class_key]
                text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
            if self._names is not None and (self._source.class_from == "cls" or text.isdigit()):
                number = int(text)
                return self._names[number] if number >= 0 else None
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            RecursionError,
        ):  # not UTF-8, no JSON, no such key or number
            return None
        return text or None


def _key(name: str) -> tuple[str, str]:
    """(key, ending) of a member that is not hidden: path and name up to the name's first dot, and what follows."""
    folder, slash, base = name.rpartition("/")
    start, _, ending = base.partition(".")
    return f"{folder}{slash}{start}", ending


def _place(shard: Shard, member: Member) -> str:
    if member.kind is Kind.FILE:
        return TarPlace(shard.uri, member.offset, member.size, member.name).uri
    detail = f"{member.kind.value} in an archive is not read: {member.name} before byte {member.offset:,}"
    return Unlisted(shard.uri, Reason.UNREADABLE, detail).uri


def _class_names(path: str | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return [line.strip() for line in storage.read_bytes(path).decode().splitlines()]
    except FileNotFoundError as error:
        raise SourceError(f"ingest.source.class_names = {path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"ingest.source.class_names = {path}: not a text file: {error}") from error
