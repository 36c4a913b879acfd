"""URIs of images inside container files. They hold all that a worker needs to read one image: a sample stays a URI.

    tar+s3://bucket/shard-000.tar#000000000051200+8124/000123.jpg     offset and size of the member, name
    tar+s3://bucket/shard-000.tar#000000000051200+8124/9.jpg=0.jpg    a hard link to 0.jpg, whose bytes these are
    parquet+file:///data/photos.parquet#000003.000000123/5f2a91bc      row group, row in it, mark of the row group
    unlisted+file:///data/shard-007.tar#corrupt/ends%20at%20byte%2051,200   what could not be listed, and why

Numbers have leading zeros, so that sorted URIs follow the order of the bytes in the file. What follows the last `#` is
percent-encoded: member names in an archive are untrusted. They are shown to people, but never used as a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from fgvr import storage
from fgvr.images.tar import BLOCK
from fgvr.schemas import Reason

TAR: Final = "tar+"
PARQUET: Final = "parquet+"
UNLISTED: Final = "unlisted+"

_MEMBER: Final = re.compile(r"(\d{1,18})\+(\d{1,18})/([^=]*)(?:=(.*))?")
_ROW: Final = re.compile(r"(\d{1,9})\.(\d{1,12})/([0-9a-f]{8})/(.+)")
_FAILED: Final = re.compile(r"([a-z_]+)/(.*)")
SHOWN: Final = 300
"""How many characters of a detail a URI keeps."""


@dataclass(frozen=True)
class TarPlace:
    """A tar member: its bytes are [`offset`, `offset` + `size`) of the file `shard`.

    Attributes:
        name: as in the archive.
        link: of a hard link: the name of the member to whose bytes it leads.
    """

    shard: str
    offset: int
    size: int
    name: str
    link: str = ""

    @property
    def uri(self) -> str:
        """The URI as it stands in the samples table."""
        of = f"={quote(self.link)}" if self.link else ""  # in a quoted name there is no =
        return f"{TAR}{self.shard}#{self.offset:015d}+{self.size}/{quote(self.name)}{of}"


@dataclass(frozen=True)
class ParquetPlace:
    """`column` in row `row` of row group `group` of a file; `mark` changes if the row group was rewritten."""

    file: str
    group: int
    row: int
    mark: str
    column: str


@dataclass(frozen=True)
class Unlisted:
    """Something that exists but could not be listed; its row fails with this reason in every stage that reads it."""

    file: str
    reason: Reason
    detail: str

    @property
    def uri(self) -> str:
        """The URI as it stands in the samples table."""
        return f"{UNLISTED}{self.file}#{self.reason.value}/{quote(self.detail[:SHOWN])}"


Place = TarPlace | ParquetPlace | Unlisted


def is_inside(uri: str) -> bool:
    """Whether a URI refers to an image inside a container file."""
    return uri.startswith((TAR, PARQUET, UNLISTED))


def parse(uri: str) -> Place:
    """The parsed URI; raises ValueError for a URI that no listing wrote."""
    start, _, inside = uri.rpartition("#")
    kind, _, file = start.partition("+")
    if kind == "tar" and (member := _MEMBER.fullmatch(inside)) and int(member[1]) >= BLOCK:
        return TarPlace(file, int(member[1]), int(member[2]), unquote(member[3]), unquote(member[4] or ""))
    if kind == "parquet" and (row := _ROW.fullmatch(inside)):
        return ParquetPlace(file, int(row[1]), int(row[2]), row[3], unquote(row[4]))
    if kind == "unlisted" and (failed := _FAILED.fullmatch(inside)) and failed[1] in set(Reason):
        return Unlisted(file, Reason(failed[1]), unquote(failed[2]))
    raise ValueError("not the URI of an image inside a file")


def file_of(path: str) -> str:
    """A file's URI as used in these URIs: local paths become `file://`, so that every one has a scheme."""
    return storage.local_path(storage.absolute(path)).as_uri() if storage.is_local(path) else path


def name_of(uri: str) -> str:
    """What people are shown for such a URI: the member's name, the row, or the file that could not be listed."""
    try:
        place = parse(uri)
    except ValueError:
        return uri
    match place:
        case TarPlace():
            return place.name.rpartition("/")[2]
        case ParquetPlace():
            return f"{place.file.rpartition('/')[2]}, row group {place.group}, row {place.row}"
        case Unlisted():
            return place.file.rpartition("/")[2]
