"""Segments of the reply cache: many replies in one file, appended by one process, read by all.

A segment begins with a random word, which also precedes each reply: no server reply can look like a record, and after a
torn or damaged record the next one can be found. Beside a finished segment lies its index.
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

IN_RUN = "replies"
"""The cache's folder in a run folder."""
SEGMENT, INDEX = ".replies", ".index"
FORMAT = b"fgvrrep1"
WORD = 8
HEADER = len(FORMAT) + WORD
RECORD = struct.Struct(f"<{WORD}s32sII")
"""The segment's word, the reply's key, the length of its body, and the CRC-32 of key and body."""
BUCKET = 2**14
"""Approximate number of replies that are sorted per step."""

Index = npt.NDArray[np.uint64]
"""[2, n], ascending: the first 8 bytes of each key, and the offset of its record."""


@dataclass(frozen=True)
class Found:
    """Records found in a segment: the first bytes of their keys, their offsets, and where to continue reading."""

    keys: list[int]
    places: list[int]
    end: int

    def index(self) -> Index:
        """Ascending by key; among equal keys the later record comes last."""
        index = np.array([self.keys, self.places], dtype="<u8").reshape(2, -1)
        return index[:, np.argsort(index[0], kind="stable")]


def short(key: bytes) -> int:
    """The first 8 bytes of a key, by which it is looked up."""
    return int.from_bytes(key[:8], "big")


def header(word: bytes) -> bytes:
    """The first bytes of a segment."""
    return FORMAT + word


def record(word: bytes, key: bytes, body: bytes) -> bytes:
    """A reply as stored in a segment."""
    return RECORD.pack(word, key, len(body), zlib.crc32(body, zlib.crc32(key))) + body


def body_of(data: bytes, key: bytes) -> bytes | None:
    """The body of a record, if it is complete and has this key; else None."""
    if len(data) < RECORD.size:
        return None
    _, own, length, check = RECORD.unpack_from(data)
    body = data[RECORD.size : RECORD.size + length]
    whole = own == key and len(body) == length and zlib.crc32(body, zlib.crc32(key)) == check
    return body if whole else None


def scan(data: bytes | mmap, start: int = 0) -> Found:
    """The complete records of a segment from an offset on; torn and damaged ones are skipped."""
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
    """Scan a local segment, which may still be growing."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= max(start, HEADER):
            return Found([], [], start)
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            return scan(data, start)


def read_index(uri: str) -> Index | None:
    """The index, or None if it is missing or damaged."""
    try:
        index: Index = np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return index if index.ndim == 2 and index.shape[0] == 2 else None


def write_index(uri: str, index: Index) -> None:
    """Write the index beside a finished segment."""
    file = io.BytesIO()
    np.save(file, index, allow_pickle=False)
    storage.write_bytes(uri, file.getvalue())


def read_reply(uri: str, place: int, key: bytes) -> bytes | None:
    """The body of a record in a segment; None if it is damaged, or has another key."""
    head = storage.read_bytes(uri, place, place + RECORD.size)
    if len(head) < RECORD.size:
        return None
    length = RECORD.unpack(head)[2]
    return body_of(storage.read_bytes(uri, place, place + RECORD.size + length), key)


class Places:
    """The merged index of any number of segments, ascending by key, in a memory-mapped temporary file.

    It takes 20 bytes of disk per reply, and only as much memory as is free: one gigabyte for fifty million.
    """

    def __init__(self, before: Places | None = None, more: Mapping[int, Index] | None = None) -> None:
        """Merge `before` and `more` (by segment number): among equal keys, later segments are found first."""
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
        for bucket in range(buckets if parts else 0):  # one range of keys at a time, so that little is sorted at once
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
        """(segment number, offset) of the records that may have this key, latest first."""
        for at in latest(self.keys, key):
            yield int(self.segments[at]), int(self.places[at])


def latest(keys: npt.NDArray[np.uint64], key: int) -> Iterator[int]:
    """Positions of a key in an ascending array, last position first."""
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
