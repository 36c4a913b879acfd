"""The members of a tar file with their offsets: ustar, GNU and pax archives, walked header by header.

Why not `tarfile`: it takes a damaged or missing header after the first member for the end of the archive, so the rest
would be lost silently; it reads extended headers of any size into memory; and how it treats hostile archives differs
between Python's patch releases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from fgvr.images.tar_headers import (
    BEFORE,
    BLOCK,
    FILES,
    MAX_EXTENDED,
    Header,
    Kind,
    Read,
    Said,
    TarDamage,
    begins_here,
    padded,
    parse_header,
    pax_records,
    shown_name,
)

__all__ = ["BLOCK", "Kind", "Member", "TarDamage", "is_at", "members", "parse_header", "shown_name"]

MAX_END: Final = 16 * 2**20
"""Bytes after an end mark that are searched for a further archive; programs pad with up to 1 MiB of zeros."""
MOST_BEFORE: Final = 16
"""Limit for the extended headers of one member; programs write two or three."""
_WITH_BYTES: Final = {Kind.FILE, Kind.SPARSE, Kind.OTHER}


@dataclass(frozen=True)
class Member:
    """A member; `offset` and `size` locate its bytes in the archive.

    Attributes:
        name: in a code page, its bytes are surrogates: `shown_name` for people and URIs.
        link: the name of the member to which a hard link leads (`fgvr.images.tar_links`).
    """

    name: str
    kind: Kind
    offset: int
    size: int
    link: str = ""


def members(read: Read, size: int) -> Iterator[Member]:
    """All members in order, extended headers applied; if archives were joined by `cat`, those of all of them.

    Args:
        read: (start, length) → bytes, or fewer at the end of the file.
        size: size of the archive in bytes.

    Raises:
        TarDamage: in place of whatever follows the damage: a broken header, a member cut off by the end of the file,
            an archive without its end mark.
    """
    at, of_all = 0, dict[str, str]()
    while True:
        start, said = at, Said(None, dict(of_all))
        header = _header_at(read, at)
        if header is None:
            following = _next_archive(read, at, size)
            if following is None:
                return
            at, of_all = following, {}
            continue
        while header.flag in BEFORE:  # extended headers precede the member's own header
            said.take(read, at, header)
            if header.flag == b"g":
                of_all |= said.pax
            at += BLOCK + padded(header.size)
            header = _header_at(read, at)
            if header is None:
                raise TarDamage(f"from byte {start:,}: an extended header without a member")
        member = _member(read, at, header, said)
        has_bytes = member.kind in _WITH_BYTES or header.flag in FILES
        at = member.offset + (padded(member.size) if has_bytes else 0)
        if member.offset + (member.size if has_bytes else 0) > size:
            raise TarDamage(f"from byte {start:,}: the file ends at {size:,}, in the middle of a member")
        yield member


def is_at(read: Read, name: str, offset: int, size: int) -> bool:
    """Whether the bytes at an offset belong to a file of this name (as shown) and size, as `members` would list it.

    The name may stand in the header block right before the bytes, or in an extended header before that one. Those have
    any length and are searched backwards: each is a header whose content ends where the next header begins.
    """
    first = offset - BLOCK
    try:
        own = parse_header(read(first, BLOCK))
        is_link = own.kind is Kind.HARD_LINK
        if (is_link and (not size or begins_here(read, offset))) or not (is_link or own.flag in FILES):
            return False
        if shown_name(own.name) == name and own.size == size:
            return own.kind is not Kind.FOLDER
        before: list[tuple[int, Header]] = []
        for place in islice(_headers_before(read, first), MOST_BEFORE):
            before.insert(0, place)
            said = Said(None, {})
            for at, header in before:
                said.take(read, at, header)
            if shown_name(said.name(own)) == name and said.size(own) == size and not said.sparse:
                return True
        of_all = parse_header(read(0, BLOCK))
        if of_all.flag != b"g" or "path" not in pax_records(read, 0, of_all):
            return False
    except (ValueError, TarDamage):
        return False
    return any(
        (shown_name(member.name), member.offset, member.size, member.kind) == (name, offset, size, Kind.FILE)
        for member in _up_to(read, offset, size)
    )


def _headers_before(read: Read, first: int) -> Iterator[tuple[int, Header]]:
    """The extended headers of the member whose own header block is at `first`, from the last to the first."""
    end, at = first, first - 2 * BLOCK
    while at >= 0 and end - at <= MAX_EXTENDED + 2 * BLOCK:
        block = read(at, BLOCK)
        try:
            header = parse_header(block) if block[156:157] in BEFORE else None
        except ValueError:
            header = None
        if header is not None and header.flag in BEFORE and at + BLOCK + padded(header.size) == end:
            yield at, header
            end, at = at, at - BLOCK
        at -= BLOCK


def _up_to(read: Read, offset: int, size: int) -> Iterator[Member]:
    """The members up to the one at `offset`, for archives whose first header names all of them."""
    try:
        for member in members(read, offset + padded(size)):
            yield member
            if member.offset >= offset:
                return
    except TarDamage:
        return


def _next_archive(read: Read, at: int, size: int) -> int | None:
    """Offset of a further archive after the end mark at `at`; None if there is none. Other bytes there are ignored."""
    end = min(size, at + MAX_END)
    while at < end:
        blocks = read(at, 64 * BLOCK)
        zeros = len(blocks) - len(blocks.lstrip(b"\0"))
        if zeros < len(blocks):
            at += zeros // BLOCK * BLOCK
            try:
                parse_header(read(at, BLOCK))
            except ValueError:
                return None
            return at
        if not blocks:
            return None
        at += len(blocks)
    return None


def _header_at(read: Read, at: int) -> Header | None:
    """The header at an offset, or None at the end mark: two blocks of zeros, although some programs write only one."""
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


def _member(read: Read, at: int, header: Header, said: Said) -> Member:
    name = said.name(header)
    kind, offset = Header(name, header.flag, header.size).kind, at + BLOCK
    try:
        size = said.size(header)
    except ValueError as error:
        raise TarDamage(f"from byte {at:,}: {error}") from error
    if said.sparse:
        return Member(name, Kind.SPARSE, offset, size)
    if kind is Kind.HARD_LINK and size and not begins_here(read, offset) and begins_here(read, offset + padded(size)):
        kind = Kind.FILE  # pax and star may write the bytes again; others state the size of the file that is linked to
    if kind is Kind.SPARSE:  # the map of its holes continues in further blocks
        more = read(at, BLOCK)[482]
        while more:
            block = read(offset, BLOCK)
            if len(block) < BLOCK:
                raise TarDamage(f"from byte {at:,}: the file ends in the map of a sparse file")
            offset, more = offset + BLOCK, block[504]
    return Member(name, kind, offset, size, said.link(header) if kind is Kind.HARD_LINK else "")
