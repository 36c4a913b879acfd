"""The members of a tar as places in the file: ustar, GNU and pax archives, walked header by header.

Why not `tarfile`: it takes a damaged or missing header behind the first member for the end of the archive, so that the
rest would be lost without a word; it reads extended headers of any size into memory; and what it makes of hostile
archives differs between Python's patch releases. Formats: POSIX.1-2017 `pax`, and GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

BLOCK: Final = 512
MAX_EXTENDED: Final = 2**20
"""Bytes of an extended header (long names, pax records); real ones have a few hundred."""

_OCTAL: Final = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_RECORD: Final = re.compile(rb"(\d{1,7}) ([^=]+)=")
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
_WITH_BYTES: Final = {Kind.FILE, Kind.SPARSE, Kind.OTHER}


class TarDamage(Exception):
    """The archive cannot be read on; the message says from which byte, and why."""


@dataclass(frozen=True)
class Member:
    """A member: `offset` and `size` are those of its bytes in the archive."""

    name: str
    kind: Kind
    offset: int
    size: int


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
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return Header(name, block[156:157], _number(block[124:136]))


def members(read: Callable[[int, int], bytes], size: int) -> Iterator[Member]:
    """All members in their order, extended headers applied.

    Args:
        read: (start, length) → bytes, fewer where the file ends.
        size: of the archive, bytes.

    Raises:
        TarDamage: in the place of what is behind the damage: a broken header, a member that the end of the file cuts
            off, an archive without its end mark.
    """
    at = 0
    while True:
        start, long_name, pax = at, None, {}
        while True:  # a member may have several headers before its own
            header = _header_at(read, at)
            if header is None:
                if at != start:
                    raise TarDamage(f"from byte {start:,}: an extended header without a member")
                return
            if header.flag not in {b"L", b"K", b"x", b"g"}:
                break
            data = _extended(read, at, header)
            if header.flag == b"L":
                long_name = _text(data)
            elif header.flag == b"x":
                pax = _pax(data, at)
            at += BLOCK + _padded(header.size)
        member = _member(read, at, header, long_name, pax)
        at = member.offset + (_padded(member.size) if member.kind in _WITH_BYTES else 0)
        if member.offset + (member.size if member.kind in _WITH_BYTES else 0) > size:
            raise TarDamage(f"from byte {start:,}: the file ends at {size:,}, in the middle of a member")
        yield member


def _header_at(read: Callable[[int, int], bytes], at: int) -> Header | None:
    """The header at an offset, or None at the end mark: two blocks of zeros, of which some programs write one."""
    block = read(at, BLOCK)
    if not block:
        raise TarDamage(f"from byte {at:,}: the file ends without an end mark; it has been cut off")
    if block.count(0) == BLOCK:
        following = read(at + BLOCK, BLOCK)
        if following.count(0) != len(following):
            raise TarDamage(f"from byte {at:,}: zeros between the members")
        return None
    try:
        return parse_header(block)
    except ValueError as error:
        raise TarDamage(f"from byte {at:,}: {error}") from error


def _extended(read: Callable[[int, int], bytes], at: int, header: Header) -> bytes:
    if header.size > MAX_EXTENDED:
        raise TarDamage(f"from byte {at:,}: an extended header of {header.size:,} bytes")
    data = read(at + BLOCK, header.size)
    if len(data) < header.size:
        raise TarDamage(f"from byte {at:,}: the file ends in an extended header")
    return data


def _member(
    read: Callable[[int, int], bytes], at: int, header: Header, long_name: str | None, pax: dict[str, str]
) -> Member:
    name = pax.get("path", long_name if long_name is not None else header.name)
    kind, size, offset = Header(name, header.flag, header.size).kind, header.size, at + BLOCK
    if "size" in pax:
        if not pax["size"].isascii() or not pax["size"].isdigit() or len(pax["size"]) > 18:
            raise TarDamage(f"from byte {at:,}: a pax header with an impossible size")
        size = int(pax["size"])
    if any(key.startswith("GNU.sparse.") for key in pax):
        return Member(pax.get("GNU.sparse.name", name), Kind.SPARSE, offset, size)
    if kind is Kind.SPARSE:  # the map of its holes goes on in further blocks
        more = read(at, BLOCK)[482]
        while more:
            block = read(offset, BLOCK)
            if len(block) < BLOCK:
                raise TarDamage(f"from byte {at:,}: the file ends in the map of a sparse file")
            offset, more = offset + BLOCK, block[504]
    return Member(name, kind, offset, size)


def _pax(data: bytes, at: int) -> dict[str, str]:
    """Records of a length, which counts itself, a blank, `key=value` and a line's end."""
    records: dict[str, str] = {}
    place = 0
    while place < len(data) and data[place]:
        record = _RECORD.match(data, place)
        end = place + int(record[1]) if record else 0
        if record is None or end > len(data) or end <= record.end() or data[end - 1 : end] != b"\n":
            raise TarDamage(f"from byte {at:,}: a broken pax header")
        records[record[2].decode(errors="replace")] = data[record.end() : end - 1].decode(errors="replace")
        place = end
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


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(field: bytes) -> str:
    """A name up to the first zero byte; what is not UTF-8 becomes replacement characters."""
    return field.partition(b"\0")[0].decode(errors="replace")
