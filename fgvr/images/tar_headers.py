"""The header blocks of tar files: ustar, GNU and pax, including what Solaris, BSD, macOS and star write.

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
"""Limit for the bytes of a long name or of one pax value; real ones have a few hundred."""
MAX_PAX: Final = 64 * 2**20
"""Limit for the bytes of a whole pax header: macOS and BSD store whole extended attributes there."""

_OCTAL: Final = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_LENGTH: Final = re.compile(rb"(\d{1,9}) ")
_HEAD: Final = 270
"""Bytes of a pax record that are looked at first; the keys that count have less than a hundred."""
_SPARSE: Final = "GNU.sparse."
_NEEDED: Final = frozenset(("path", "size", "linkpath", "SCHILY.realsize"))
BEFORE: Final = frozenset((b"L", b"K", b"x", b"X", b"g"))
"""Flags of extended headers, which describe the member that follows; X is Solaris' variant of x."""
_MAGICS: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Kind(StrEnum):
    """What a member is; only a file can hold an image."""

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
    """The archive cannot be read any further; the message says from which byte, and why."""


@dataclass(frozen=True)
class Header:
    """A header block by itself; an extended header may override what it says.

    `name`, and `link`, the name to which a link leads: as `text_of` gives them.
    """

    name: str
    flag: bytes
    size: int
    link: str = ""

    @property
    def kind(self) -> Kind:
        """What the member is. Old archives mark folders only by a trailing slash."""
        kind = _KINDS.get(self.flag, Kind.OTHER)
        return Kind.FOLDER if kind is Kind.FILE and self.name.endswith("/") else kind


def parse_header(block: bytes) -> Header:
    """Parse a header block of 512 bytes; raises ValueError, which says what is wrong with it."""
    if len(block) < BLOCK:
        raise ValueError("the archive ends inside a header")
    sum_field = _OCTAL.fullmatch(block[148:156])
    stated = int(sum_field[1] or b"0", 8) if sum_field else -1
    blanked = block[:148] + b" " * 8 + block[156:]
    signed = sum(blanked) - 256 * sum(byte > 127 for byte in blanked)  # some old programs summed signed bytes
    if stated not in {sum(blanked), signed}:
        packed = next((name for magic, name in _MAGICS.items() if block.startswith(magic)), None)
        raise ValueError(f"this is {packed}-compressed: unpack it to a plain .tar" if packed else "no header is here")
    name = text_of(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{text_of(block[345:500])}/{name}"
    return Header(name, block[156:157], _number(block[124:136]), text_of(block[157:257]))


Read = Callable[[int, int], bytes]
"""(start, length) → bytes, or fewer at the end of the file."""


def begins_here(read: Read, at: int) -> bool:
    """Whether a header or an end mark begins at a byte."""
    block = read(at, BLOCK)
    if len(block) == BLOCK and not block.strip(b"\0"):
        return True
    try:
        parse_header(block)
    except ValueError:
        return False
    return True


@dataclass
class Said:
    """What the extended headers of a member say. It overrides the member's own header, whose fields are too short.

    Attributes:
        long_name: from GNU tar's header.
        pax: pax records for the member's name, size and holes, including those for all members (`g`).
        long_link: from GNU tar's header of a link.
    """

    long_name: str | None
    pax: dict[str, str]
    long_link: str | None = None

    def take(self, read: Read, at: int, header: Header) -> None:
        """Merge the content of the extended header at byte `at`; later headers win. Raises TarDamage."""
        if header.flag == b"L":
            self.long_name = text_of(extended(read, at, header))
        elif header.flag == b"K":
            self.long_link = text_of(extended(read, at, header)) if header.size <= MAX_EXTENDED else None
        else:
            self.pax = {**self.pax, **pax_records(read, at, header)}
            if header.flag == b"g" and "size" in self.pax:
                raise TarDamage(f"from byte {at:,}: a header that gives all members one size")

    def name(self, header: Header) -> str:
        """The member's name. In its own header, Python replaces characters (`caf?.jpg`) and GNU tar cuts long names."""
        own = self.long_name if self.long_name is not None else header.name
        return self.pax.get("GNU.sparse.name") or self.pax.get("path") or own

    def link(self, header: Header) -> str:
        """The name to which a link leads."""
        return self.pax.get("linkpath") or (header.link if self.long_link is None else self.long_link)

    def size(self, header: Header) -> int:
        """The size of the member's bytes in the archive; raises ValueError."""
        stated = self.pax.get("size") or str(header.size)
        if not stated.isascii() or not stated.isdigit() or len(stated) > 18:
            raise ValueError("a pax header with an impossible size")
        return int(stated)

    @property
    def sparse(self) -> bool:
        """Whether the member is stored as a sparse file, without its holes, as GNU tar and star write them."""
        return "SCHILY.realsize" in self.pax or any(key.startswith(_SPARSE) for key in self.pax)


def extended(read: Read, at: int, header: Header) -> bytes:
    """The content of the extended header at a byte; raises TarDamage."""
    _check_length(at, header, MAX_EXTENDED)
    data = read(at + BLOCK, header.size)
    if len(data) < header.size:
        raise TarDamage(f"from byte {at:,}: the file ends in an extended header")
    return data


def _check_length(at: int, header: Header, most: int) -> None:
    if header.size > most:
        raise TarDamage(f"from byte {at:,}: an extended header of {header.size:,} bytes")


def pax_records(read: Read, at: int, header: Header) -> dict[str, str]:
    """Parses the pax records that are needed here. A record is its own length, a blank, `key=value`, and a newline.

    Other records are skipped without reading them: their values may be binary, and as long as whole files.
    """
    _check_length(at, header, MAX_PAX)
    records: dict[str, str] = {}
    place, stop = at + BLOCK, at + BLOCK + header.size
    while place < stop:
        head = read(place, min(stop - place, _HEAD))
        if not head:
            raise TarDamage(f"from byte {at:,}: the file ends in an extended header")
        if not head[0]:
            break
        length = _LENGTH.match(head)
        end = place + int(length[1]) if length else 0
        first = length.end() if length else 0
        raw, is_there, _ = head[first : max(end - place, 0)].partition(b"=")
        is_long = end - place > len(head)  # its key may be, too: then it is none of those that count
        if end > stop or end <= place + first or not (is_there or is_long) or read(end - 1, 1) != b"\n":
            raise TarDamage(f"from byte {at:,}: a broken pax header")
        key = raw.decode(errors="replace")
        if is_there and (key in _NEEDED or key.startswith(_SPARSE)):
            value = place + first + len(raw) + 1
            if end - value > MAX_EXTENDED and key != "linkpath":
                raise TarDamage(f"from byte {at:,}: a pax header with a {key} of {end - value:,} bytes")
            records[key] = read(value, min(end - 1 - value, MAX_EXTENDED)).decode(errors="surrogateescape")
        place = end
    if place > stop or len(read(stop - 1, 1)) < 1:
        raise TarDamage(f"from byte {at:,}: the file ends in an extended header")
    return records


def _number(field: bytes) -> int:
    """A number in octal digits or, if the highest bit is set, in base 256; raises ValueError."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
        if value >= 2**60:
            raise ValueError("an impossible number in a header")
        return value
    digits = _OCTAL.fullmatch(field)
    if digits is None:
        raise ValueError("an invalid number in a header")
    return int(digits[1] or b"0", 8)


def padded(size: int) -> int:
    """`size` rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def text_of(field: bytes) -> str:
    """A name up to the first zero byte; bytes that are not UTF-8 become surrogates, so that names stay distinct."""
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def shown_name(name: str) -> str:
    """A name as people are shown it, and as URIs hold it: replacement characters for bytes that are not UTF-8."""
    return name if name.isascii() else name.encode(errors="surrogateescape").decode(errors="replace")
