"""Segments of kept replies: many of them in one file, appended by one process, read by all.

A segment begins with a word drawn for it, which stands before each reply, too: what a server answers cannot look like
a record, and behind a torn or damaged record the next one is found. Beside a segment that is complete lies its index.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr import storage

SEGMENT, INDEX = ".replies", ".index"
FORMAT = b"fgvrrep1"
WORD = 8
HEADER = len(FORMAT) + WORD
RECORD = struct.Struct(f"<{WORD}s32sII")
"""The segment's word, the reply's key, the length of its body, and the CRC-32 of key and body."""
BUCKET = 2**14
"""Replies whose places are sorted at once, about."""

Index = npt.NDArray[np.uint64]
"""[2, n], ascending: the first 8 bytes of keys, and where their records begin."""


@dataclass(frozen=True)
class Found:
    """Records of a segment: their keys' first bytes and places, and where a reader may go on."""

    keys: list[int]
    places: list[int]
    end: int

    def index(self) -> Index:
        """Ascending by key; of equal keys the later record comes last."""
        index = np.array([self.keys, self.places], dtype="<u8").reshape(2, -1)
        return index[:, np.argsort(index[0], kind="stable")]


def short(key: bytes) -> int:
    """The first 8 bytes of a key, by which it is looked up."""
    return int.from_bytes(key[:8], "big")


def header(word: bytes) -> bytes:
    """With which a segment begins."""
    return FORMAT + word


def record(word: bytes, key: bytes, body: bytes) -> bytes:
    """A reply in a segment."""
    return RECORD.pack(word, key, len(body), zlib.crc32(body, zlib.crc32(key))) + body


def body_of(data: bytes, key: bytes) -> bytes | None:
    """The body of a record, where it is whole and of this key."""
    if len(data) < RECORD.size:
        return None
    _, own, length, check = RECORD.unpack_from(data)
    body = data[RECORD.size : RECORD.size + length]
    whole = own == key and len(body) == length and zlib.crc32(body, zlib.crc32(key)) == check
    return body if whole else None


def scan(data: bytes | mmap, start: int = 0) -> Found:
    """The whole records of a segment from a place on; what is torn or damaged is left out."""
    found = Found([], [], start)
    if data[: len(FORMAT)] != FORMAT or len(data) < HEADER:
        return found
    word = bytes(data[len(FORMAT) : HEADER])
    at = max(start, HEADER)
    end = start
    while (at := data.find(word, at)) >= 0 and at + RECORD.size <= len(data):
        _, key, length, check = RECORD.unpack_from(data, at)
        behind = at + RECORD.size + length
        if behind <= len(data) and zlib.crc32(data[at + RECORD.size : behind], zlib.crc32(key)) == check:
            found.keys.append(short(key))
            found.places.append(at)
            at = end = behind
        else:
            at += 1
    return Found(found.keys, found.places, end)


def scan_file(path: Path, start: int = 0) -> Found:
    """Of a local segment, which may still be written."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= max(start, HEADER):
            return Found([], [], start)
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            return scan(data, start)


def read_index(uri: str) -> Index | None:
    """None where there is none, or it is damaged."""
    try:
        index: Index = np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return index if index.ndim == 2 and index.shape[0] == 2 else None


def write_index(uri: str, index: Index) -> None:
    """Beside a segment that is complete."""
    file = io.BytesIO()
    np.save(file, index, allow_pickle=False)
    storage.write_bytes(uri, file.getvalue())


def read_reply(uri: str, place: int, key: bytes) -> bytes | None:
    """The body of a record of a segment; None where it is damaged, or of another key."""
    head = storage.read_bytes(uri, place, place + RECORD.size)
    if len(head) < RECORD.size:
        return None
    length = RECORD.unpack(head)[2]
    return body_of(storage.read_bytes(uri, place, place + RECORD.size + length), key)


class Places:
    """Where replies lie, of any number of segments, ascending by key, in a file without a name that is mapped.

    It takes 20 bytes a reply of the disk, and of memory what the system can spare: fifty million are a gigabyte.
    """

    def __init__(self, before: Places | None = None, more: Mapping[int, Index] | None = None) -> None:
        """Those `before`, and `more` by number of segment: of equal keys those of later segments are found first."""
        parts = [] if before is None or not before.count else [(before.keys, before.places, before.segments)]
        for number, index in sorted((more or {}).items()):
            parts.append((index[0], index[1], np.full(index.shape[1], number, dtype="<i4")))
        self.count: int = sum(len(part[0]) for part in parts)
        self.keys: npt.NDArray[np.uint64] = _mapped(self.count, "<u8")
        self.places: npt.NDArray[np.uint64] = _mapped(self.count, "<u8")
        self.segments: npt.NDArray[np.int32] = _mapped(self.count, "<i4")
        buckets = 1 + self.count // BUCKET
        edges = np.array([bucket * 2**64 // buckets for bucket in range(1, buckets)], dtype=np.uint64)
        cuts = [np.concatenate([[0], np.searchsorted(part[0], edges), [len(part[0])]]).tolist() for part in parts]
        done = 0
        for bucket in range(buckets if parts else 0):  # a share of all keys at a time: little is sorted at once
            found = [
                tuple(column[cut[bucket] : cut[bucket + 1]] for column in part)
                for part, cut in zip(parts, cuts, strict=True)
            ]
            keys, places, segments = (np.concatenate(columns) for columns in zip(*found, strict=True))
            order = np.argsort(keys, kind="stable")
            to = slice(done, done + len(keys))
            self.keys[to], self.places[to], self.segments[to] = keys[order], places[order], segments[order]
            done = to.stop

    def find(self, key: int) -> Iterator[tuple[int, int]]:
        """Number of the segment and place in it of the records that may be a key's, the latest first."""
        for at in latest(self.keys, key):
            yield int(self.segments[at]), int(self.places[at])


def latest(keys: npt.NDArray[np.uint64], key: int) -> Iterator[int]:
    """Where a key stands among ascending ones, the last place first."""
    at = int(np.searchsorted(keys, np.uint64(key), side="right")) - 1
    while at >= 0 and int(keys[at]) == key:
        yield at
        at -= 1


def _mapped(count: int, dtype: str) -> npt.NDArray[Any]:
    if not count:
        return np.zeros(0, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        file.truncate(count * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype=dtype, mode="r+", shape=(count,))
