"""The header blocks of tars: ustar, GNU and pax ones, and what Solaris, BSD, macOS and star write into them.

Formats: POSIX.1-2017 `pax`, GNU tar's manual ("Basic Tar Format"), libarchive's tar(5).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

BLOCK: Final = 512
MAX_EXTENDED: Final = 2**20
"""Bytes of a long name, or of one value of a pax header; real ones have a few hundred."""
MAX_PAX: Final = 64 * 2**20
"""Bytes of a whole pax header: those of macOS and BSD hold whole extended attributes."""

_OCTAL: Final = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_RECORD: Final = re.compile(rb"(\d{1,9}) ([^=]{1,255})=")
BEFORE: Final = frozenset((b"L", b"K", b"x", b"X", b"g"))
"""Flags of headers that say something of the member behind them; X is Solaris' x."""
_MAGICS: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Kind(StrEnum):
    """What a member is; only a file has an image's bytes."""

    FILE = "a file"
    HARD_LINK = "a hard link"
    SOFT_LINK = "a symbolic link"
    DEVICE = "a device"
    FOLDER = "a folder"
    PIPE = "a named pipe"
    SPARSE = "a sparse file"
    OTHER = "a member of an unknown type"


_KINDS: Final = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SOFT_LINK,
    b"3": Kind.DEVICE,
    b"4": Kind.DEVICE,
    b"5": Kind.FOLDER,
    b"6": Kind.PIPE,
    b"S": Kind.SPARSE,
}
FILES: Final = frozenset(flag for flag, kind in _KINDS.items() if kind is Kind.FILE)


class TarDamage(Exception):
    """The archive cannot be read on; the message says from which byte, and why."""


@dataclass(frozen=True)
class Header:
    """A header block by itself; `size` is what the block says, which an extended header may override."""

    name: str
    flag: bytes
    size: int

    @property
    def kind(self) -> Kind:
        """Old archives mark folders by a slash only."""
        kind = _KINDS.get(self.flag, Kind.OTHER)
        return Kind.FOLDER if kind is Kind.FILE and self.name.endswith("/") else kind


def parse_header(block: bytes) -> Header:
    """A header block of 512 bytes; raises ValueError, which says what is wrong with it."""
    if len(block) < BLOCK:
        raise ValueError("the archive ends inside a header")
    sum_field = _OCTAL.fullmatch(block[148:156])
    stated = int(sum_field[1] or b"0", 8) if sum_field else -1
    blanked = block[:148] + b" " * 8 + block[156:]
    signed = sum(blanked) - 256 * sum(byte > 127 for byte in blanked)  # as some old programs added up
    if stated not in {sum(blanked), signed}:
        packed = next((name for magic, name in _MAGICS.items() if block.startswith(magic)), None)
        raise ValueError(f"this is {packed}-compressed: unpack it to a plain .tar" if packed else "no header is here")
    name = text_of(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{text_of(block[345:500])}/{name}"
    return Header(name, block[156:157], _number(block[124:136]))


Read = Callable[[int, int], bytes]
"""(start, length) → bytes, fewer where the file ends."""


@dataclass
class Said:
    """What the headers before a member's own say of it; they win, since the own one has no room for it.

    Attributes:
        long_name: of GNU tar's header.
        pax: records of pax's that name the member, its size or its holes, those for all members (`g`) included.
    """

    long_name: str | None
    pax: dict[str, str]

    def take(self, read: Read, at: int, header: Header) -> None:
        """What the extended header at a byte says, over what those before it said; raises TarDamage."""
        if header.flag == b"L":
            self.long_name = text_of(extended(read, at, header))
        elif header.flag != b"K":  # the target of a link
            self.pax = {**self.pax, **pax_records(read, at, header)}
            if header.flag == b"g" and "size" in self.pax:
                raise TarDamage(f"from byte {at:,}: a header that says one size of all members")

    def name(self, header: Header) -> str:
        """Of the member. Python writes `caf?.jpg` into a header block, GNU tar the beginning of a long name."""
        own = self.long_name if self.long_name is not None else header.name
        return self.pax.get("GNU.sparse.name") or self.pax.get("path") or own

    def size(self, header: Header) -> int:
        """Of the member's bytes in the archive; raises ValueError."""
        stated = self.pax.get("size") or str(header.size)
        if not stated.isascii() or not stated.isdigit() or len(stated) > 18:
            raise ValueError("a pax header with an impossible size")
        return int(stated)

    @property
    def sparse(self) -> bool:
        """Whether the member's bytes are a file without its holes, as GNU tar and star write them."""
        return "SCHILY.realsize" in self.pax or any(key.startswith("GNU.sparse.") for key in self.pax)


def extended(read: Read, at: int, header: Header) -> bytes:
    """The content of an extended header at a byte; raises TarDamage."""
    _check_length(at, header, MAX_EXTENDED)
    data = read(at + BLOCK, header.size)
    if len(data) < header.size:
        raise TarDamage(f"from byte {at:,}: the file ends in an extended header")
    return data


def _check_length(at: int, header: Header, most: int) -> None:
    if header.size > most:
        raise TarDamage(f"from byte {at:,}: an extended header of {header.size:,} bytes")


def pax_records(read: Read, at: int, header: Header) -> dict[str, str]:
    """Records of a length, which counts itself, a blank, `key=value` and a line's end; those that are needed here.

    The others are passed over unread: their values may be binary, and as long as whole files.
    """
    _check_length(at, header, MAX_PAX)
    records: dict[str, str] = {}
    place, stop = at + BLOCK, at + BLOCK + header.size
    while place < stop:
        head = read(place, min(stop - place, 270))
        if not head:
            raise TarDamage(f"from byte {at:,}: the file ends in an extended header")
        if not head[0]:
            break
        record = _RECORD.match(head)
        end = place + int(record[1]) if record else 0
        if record is None or end > stop or end <= place + record.end() or read(end - 1, 1) != b"\n":
            raise TarDamage(f"from byte {at:,}: a broken pax header")
        key = record[2].decode(errors="replace")
        if key in {"path", "size", "SCHILY.realsize"} or key.startswith("GNU.sparse."):
            if end - place > MAX_EXTENDED:
                raise TarDamage(f"from byte {at:,}: a pax header with a {key} of {end - place:,} bytes")
            records[key] = read(place + record.end(), end - 1 - place - record.end()).decode(errors="replace")
        place = end
    if place > stop or len(read(stop - 1, 1)) < 1:
        raise TarDamage(f"from byte {at:,}: the file ends in an extended header")
    return records


def _number(field: bytes) -> int:
    """A number in octal digits or, with the highest bit set, in base 256; raises ValueError."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
        if value >= 2**60:
            raise ValueError("an impossible number in a header")
        return value
    digits = _OCTAL.fullmatch(field)
    if digits is None:
        raise ValueError("a number that is none in a header")
    return int(digits[1] or b"0", 8)


def padded(size: int) -> int:
    """Bytes that a content of `size` takes in whole blocks."""
    return -(-size // BLOCK) * BLOCK


def text_of(field: bytes) -> str:
    """A name up to the first zero byte; what is not UTF-8 becomes replacement characters."""
    return field.partition(b"\0")[0].decode(errors="replace")
