"""Files that hold many images each: found, listed side by side, and in order. One that is damaged is a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from fgvr.archives.parquet import ParquetDamage
from fgvr.archives.places import Unlisted, file_of
from fgvr.archives.tar import TarDamage
from fgvr.datasets.folder import walk
from fgvr.datasets.left_out_names import LeftOutNames
from fgvr.datasets.rows import LISTING, SourceError, chunk
from fgvr.datasets.sorted_runs import Spool
from fgvr.omissions import Omissions, Why, ending_of, sentences
from fgvr.read_ahead import read_ahead
from fgvr.schemas import Reason

THREADS: Final = 8
"""Files that are listed side by side: it is waiting for a disk or a network."""
MOST_NUMBERED: Final = 1_000_000

_NUMBERS: Final = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_PACKED: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")


@dataclass(frozen=True)
class Shard:
    """A file: its URI as `fgvr.archives.places` has it, and the folders between the source's path and it.

    `refused` is the URI of a row that fails in its place: a link to where the source may not lead.
    """

    uri: str
    folders: tuple[str, ...] = ()
    refused: str = ""


@dataclass
class Shards:
    """The files of a source; after `chunks` was read, `bad` says what was wrong with which.

    Attributes:
        path: of the source, for messages.
        files: in the order of their URIs.
        bad: a text for each file that could not be read to its end.
    """

    path: str
    files: list[Shard]
    bad: list[str] = field(default_factory=list)

    def chunks(self, listed: Callable[[Shard], Iterator[pa.Table]]) -> Iterator[pa.Table]:
        """The listings of all files, in order, each with a last row for what is damaged.

        Args:
            listed: chunks of a file's listing; called in threads.

        Raises:
            SourceError: there is damage, and no image.
        """
        images = 0
        for rows, problem in read_ahead(lambda shard: _listed(shard, listed), self.files, threads=THREADS):
            if problem is not None:
                self.bad.append(problem)
            images += rows.rows - (problem is not None)
            yield from rows
        if self.bad and not images:
            raise SourceError(f"ingest.source.path = {self.path}: no image can be listed; {self.bad[0]}")


def find_shards(
    path: str,
    ending: str,
    exclude: Sequence[str] = (),
    omissions: Omissions | None = None,
    allowed_roots: Sequence[str] = (),
) -> Shards:
    """The files that a source's `path` names: itself, numbered ones, or those below it that end in `ending`.

    Args:
        path: of the source.
        ending: `.tar` or `.parquet`.
        exclude: names of files and folders that are not searched (`ingest.source.exclude`).
        omissions: counts the other files below `path`.
        allowed_roots: as in `ingest.limits`; links may lead there.

    Raises:
        SourceError: there are none, or compressed tars among them.
    """
    if path.lower().startswith(("http://", "https://")):
        raise SourceError(
            f"ingest.source.path = {path}: files with many images are read from disks and object stores; download "
            "them, or list single images by URL (ingest.source.kind: table)"
        )
    names = numbered(path)
    single = len(names) > 1 or path.lower().endswith((ending, *_PACKED))
    if single:
        found = [Shard(file_of(name)) for name in names]
    else:
        omissions = omissions or Omissions()
        found = []
        for file in walk(path, LeftOutNames(exclude, omissions), allowed_roots):
            if file.uri.lower().endswith((ending, *_PACKED)):
                found.append(Shard(file_of(file.uri), file.folders, file.refused))
            else:
                omissions.count(Why.NO_ARCHIVE, ending_of(file.uri))
    packed = [shard.uri for shard in found if shard.uri.lower().endswith(_PACKED)]
    if packed and ending == ".tar":
        raise SourceError(
            f"ingest.source.path = {path}: {len(packed)} compressed archives ({packed[0]} …). Workers read single "
            "images from the middle of a file, which a compressed one does not allow: unpack each to a plain .tar; "
            "photos are compressed already, so that it grows little"
        )
    found = [shard for shard in found if shard.uri.lower().endswith(ending)]
    if not found:
        there = "" if omissions is None else "; ".join(sentences(omissions.facts()).values())
        raise SourceError(f"ingest.source.path = {path}: no file ends in {ending}{there and f' ({there})'}")
    return Shards(path, sorted(found, key=lambda shard: shard.uri))


def numbered(path: str) -> list[str]:
    """`a-{08..11}.tar` as a-08.tar … a-11.tar; any other path as it is.

    Raises:
        SourceError: the numbers fall, or there are more than a million.
    """
    found = _NUMBERS.search(path)
    if found is None:
        return [path]
    first, last = int(found[1]), int(found[2])
    if not first <= last < first + MOST_NUMBERED:
        raise SourceError(f"ingest.source.path = {path}: {found[0]} must rise, over {MOST_NUMBERED:,} numbers at most")
    width = len(found[1])
    return [f"{path[: found.start()]}{number:0{width}d}{path[found.end() :]}" for number in range(first, last + 1)]


def _listed(shard: Shard, listed: Callable[[Shard], Iterator[pa.Table]]) -> tuple[Spool, str | None]:
    rows = Spool(LISTING, memory_bytes=8 * 2**20)
    if shard.refused:
        rows.append(chunk(uri=[shard.refused]))
        return rows, f"{shard.uri}: a link to outside of the source; ingest.limits.allowed_roots may name the place"
    try:
        for table in listed(shard):
            rows.append(table)
    except FileNotFoundError:
        reason, detail = Reason.NOT_FOUND, "there is no such file"
    except (TarDamage, ParquetDamage, pa.ArrowInvalid) as error:
        reason, detail = Reason.CORRUPT, str(error)
    except (OSError, pa.ArrowException) as error:  # permission, network, and Arrow's word for some kinds of damage
        reason, detail = Reason.UNREADABLE, f"{type(error).__name__}: {error}"
    else:
        return rows, None
    rows.append(chunk(uri=[Unlisted(shard.uri, reason, detail).uri]))
    return rows, f"{shard.uri}: {detail}"
