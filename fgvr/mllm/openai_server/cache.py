"""A cache of a server's replies, keyed by the content of the request: no question is ever paid for twice."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from typing import Any

import numpy as np

from fgvr import storage
from fgvr.config.label_sources import AskedModel
from fgvr.config.run import Config
from fgvr.mllm.openai_server.cache_segments import (
    IN_RUN,
    INDEX,
    SEGMENT,
    Index,
    Places,
    latest,
    read_index,
    read_reply,
    scan_file,
    short,
)
from fgvr.mllm.openai_server.cache_writer import writer_of

LOOK_SECONDS = 30.0
"""How often to look for replies that other processes cached."""
MERGE_AT = 16
"""Segments whose indexes are held in memory, 2 MB each, before all indexes are merged into a sorted file."""


class ReplyCache:
    """A folder of reply bodies, on a local disk or an object store, with many per file (`cache_segments`).

    Safe for any number of threads and workers: each process appends to its own segment, and finds its own replies at
    once and those of others within half a minute. With fifty million replies a worker needs a few megabytes of memory:
    the merged index is a memory-mapped file. Caches of earlier versions, with one file per reply, can be read.
    """

    def __init__(self, folder: str) -> None:
        """`folder` need not exist."""
        self.folder = folder
        self._lock = threading.Lock()
        self._looked: float | None = None
        self._finished = 0  # number of own finished segments at the last look
        self._names: list[str] = []  # names of indexed segments, by number
        self._places = Places()
        self._recent: dict[int, Index] = {}  # indexes of segments that are not in `_places` yet
        self._growing: dict[int, int] = {}  # for segments without an index: bytes scanned so far
        self._old = False

    def find(self, key: str) -> bytes | None:
        """The body cached under `key`, or None."""
        digest = _digest(key)
        found = writer_of(self.folder).find(digest)
        for _ in range(2 if found is None else 0):
            try:
                found = next(
                    (body for place in self._may_lie(short(digest)) if (body := self._read(*place, digest))), None
                )
                break
            except FileNotFoundError:  # a batch that was just merged into a finished segment
                self._looked = None
        return self._of_earlier_versions(key) if found is None and self._old else found

    def keep(self, key: str, body: bytes) -> None:
        """Cache a good reply; raises OSError if the folder cannot be written."""
        writer_of(self.folder).keep(_digest(key), body)

    def _read(self, number: int, place: int, digest: bytes) -> bytes | None:
        return read_reply(storage.join(self.folder, f"{self._names[number]}{SEGMENT}"), place, digest)

    def _may_lie(self, key: int) -> list[tuple[int, int]]:
        """(segment, offset) pairs that may hold a key, latest first."""
        with self._lock:
            late = self._looked is None or time.monotonic() - self._looked > LOOK_SECONDS
            if late or self._finished != writer_of(self.folder).finished:
                self._look()
            recent = sorted(self._recent.items(), reverse=True)
            found = [(number, int(index[1, at])) for number, index in recent for at in latest(index[0], key)]
            return [*found, *self._places.find(key)]

    def _look(self) -> None:
        """Find new segments, and what was appended to growing ones."""
        writer = writer_of(self.folder)
        self._looked, self._finished = time.monotonic(), writer.finished
        files = self._listed()
        known = {name: number for number, name in enumerate(self._names)}
        for name in sorted(file.removesuffix(SEGMENT) for file in files if file.endswith(SEGMENT)):
            number = known.get(name, len(self._names))
            if name.startswith(writer.name) or (name in known and number not in self._growing):
                continue
            index = self._index_of(name, number, has_index=f"{name}{INDEX}" in files)
            if index is not None:
                if name not in known:
                    self._names.append(name)
                self._recent[number] = index
                self._merge()

    def _merge(self) -> None:
        """Merge the indexes of finished segments into the file, if there are many in memory."""
        complete = {number: index for number, index in self._recent.items() if number not in self._growing}
        if len(complete) > MERGE_AT:
            self._places = Places(self._places, complete)
            self._recent = {number: index for number, index in self._recent.items() if number in self._growing}

    def _listed(self) -> set[str]:
        """Names of the files in the folder."""
        fs, path = storage.resolve(self.folder)
        try:
            found = fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return set()
        self._old = any(entry["type"] == "directory" for entry in found)
        return {entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "file"}

    def _index_of(self, name: str, number: int, *, has_index: bool) -> Index | None:
        """The index of a segment's replies; None: not known (yet), or nothing is new."""
        if has_index and (index := read_index(storage.join(self.folder, f"{name}{INDEX}"))) is not None:
            self._growing.pop(number, None)
            return index
        if not storage.is_local(self.folder):
            return None  # its index is written after it
        try:
            found = scan_file(storage.local_path(self.folder) / f"{name}{SEGMENT}", self._growing.get(number, 0))
        except FileNotFoundError:
            return None
        before = self._recent.get(number)
        self._growing[number] = found.end
        new = found.index()
        if before is None:
            return new
        both = np.concatenate([before, new], axis=1)
        return both[:, np.argsort(both[0], kind="stable")]

    def _of_earlier_versions(self, key: str) -> bytes | None:
        """A reply from an earlier version's cache: one file per reply, in a folder named by its first two letters."""
        try:
            return storage.read_bytes(storage.join(self.folder, key[:2], f"{key}.json"))
        except (FileNotFoundError, NotADirectoryError):
            return None


def _digest(key: str) -> bytes:
    """32 bytes for a key: its hex digits decoded, or the hash of any other text."""
    try:
        digest = bytes.fromhex(key)
    except ValueError:
        digest = b""
    return digest if len(digest) == 32 else hashlib.sha256(key.encode()).digest()


def reply_key(server: str, request: dict[str, Any]) -> str:
    """SHA-256, in hex, of everything that determines a reply: the server and the whole request with its image bytes."""
    text = json.dumps([server, request], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def with_run_replies(config: Config, folder: str) -> Config:
    """The config of a run in `folder`, with the path filled in for backends that cache replies in the run folder."""
    replies = storage.join(folder, IN_RUN)
    llms = {
        "questions": config.questions.llm,
        "signatures": config.signatures.llm,
        "hierarchy": config.hierarchy.llm,
        "finer": config.baselines.finer.llm,
    }
    kept = {name: None if llm is None else llm.keeping(replies) for name, llm in llms.items()}
    finer = config.baselines.finer.model_copy(update={"llm": kept["finer"]})
    sources = tuple(
        source.model_copy(update={"mllm": source.mllm.keeping(replies)})
        if isinstance(source, AskedModel) and source.mllm is not None
        else source
        for source in config.label.sources
    )
    return config.model_copy(
        update={
            "mllm": config.mllm.keeping(replies),
            "label": config.label.model_copy(update={"sources": sources}),
            "questions": config.questions.model_copy(update={"llm": kept["questions"]}),
            "signatures": config.signatures.model_copy(update={"llm": kept["signatures"]}),
            "hierarchy": config.hierarchy.model_copy(update={"llm": kept["hierarchy"]}),
            "baselines": config.baselines.model_copy(update={"finer": finer}),
        }
    )
