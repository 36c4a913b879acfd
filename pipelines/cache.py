"""cache: show and remove what this machine caches outside of run folders: models, vectors, decoded photos.

    python pipelines/cache.py                        # list the entries by kind and age; removes nothing
    python pipelines/cache.py --clean                # remove what exceeds the limit, and leftovers of broken downloads
    python pipelines/cache.py --older-than 30d       # remove what was not used for this long (h, d or w)
    python pipelines/cache.py --all --kind images    # remove everything of one kind that no process uses

The cache lies below FGVR_CACHE (~/.cache/fgvr); everything in it can be fetched or computed again. `folders`: models,
checkpoints and vectors fetched from object stores, at most FGVR_CACHE_GB (100 GiB, or a quarter of the disk). `images`:
decoded training images, at most makd.cache_gb. Both evict the least recently used entries by themselves, but never one
that a process uses. Other folders there are yours (benchmarks keep trained models there) and are removed only when
`--kind` names them. On a cluster each machine has its own cache.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.progress import duration
from fgvr import disk_cache
from fgvr.commands import as_called, program
from fgvr.digests import KEPT
from fgvr.disk_cache import GIB, Entry
from fgvr.errors import UserError
from fgvr.redact import safe

SECONDS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
SOURCE_WIDTH = 60


def as_text(kinds: dict[str, list[Entry]]) -> str:
    """All entries as text for a terminal, least recently used first."""
    root = disk_cache.root()
    total = sum(disk_cache.total(entries) for entries in kinds.values())
    lines = [f"{root}: {size_of(total)}, {size_of(disk_cache.free_bytes(root))} free on its disk"]
    for kind, entries in kinds.items():
        what = disk_cache.KINDS.get(kind, "yours: removed only with --kind")
        bound = f" of {size_of(disk_cache.bound(root / kind))}" if kind == disk_cache.FETCHED else ""
        lines += ["", f"{kind}: {size_of(disk_cache.total(entries))}{bound} ({what})"]
        lines += [_line(entry) for entry in entries]
    return safe("\n".join(lines) + "\n")


def _line(entry: Entry) -> str:
    age = f"{duration(max(0.0, time.time() - entry.used))} ago"
    source = entry.source if len(entry.source) <= SOURCE_WIDTH else f"…{entry.source[1 - SOURCE_WIDTH :]}"
    state = "in use  " if entry.busy else ""
    return f"  {entry.folder.name:24}{size_of(entry.bytes):>12}  used {age:16}{state}{source}".rstrip()


def size_of(size: float) -> str:
    """The size in the largest unit that gives at least 1."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if size >= 0.995 * unit:
            return f"{size / unit:.2f} {name}"
    return f"{size / 2**10:.2f} KiB" if size >= 1000 else f"{size:.0f} B"


def kinds_there(chosen: Sequence[str]) -> dict[str, list[Entry]]:
    """Entries by kind; all kinds where none is chosen. Raises CacheError for an unknown kind."""
    root = disk_cache.root()
    there = (
        sorted(folder.name for folder in root.iterdir() if folder.is_dir() and folder.name != KEPT)
        if root.is_dir()
        else []
    )
    unknown = sorted(set(chosen) - set(there) - set(disk_cache.KINDS))
    if unknown:
        raise disk_cache.CacheError(f"{root} has no {', '.join(unknown)}; there are: {', '.join(there) or 'none'}")
    return {kind: disk_cache.entries(root / kind) for kind in there if not chosen or kind in chosen}


def seconds_of(text: str) -> float:
    """An age such as 30d, 12h or 2w in seconds; raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; give hours, days or weeks: 12h, 30d, 2w")
    return float(match[1]) * SECONDS[match[2]]


def remove(
    kinds: dict[str, list[Entry]], *, named: Sequence[str], unused_for: float
) -> tuple[list[Entry], list[Entry]]:
    """Remove entries unused for `unused_for` seconds; returns what was removed, and what a process still uses.

    Kinds that do not belong to this program are left alone unless they are `named`.
    """
    gone: list[Entry] = []
    busy: list[Entry] = []
    for kind, entries in kinds.items():
        if kind not in disk_cache.KINDS and kind not in named:
            continue
        for entry in entries:
            if time.time() - entry.used >= unused_for:
                (gone if disk_cache.remove(entry) else busy).append(entry)
        disk_cache.sweep(disk_cache.root() / kind)
    return gone, busy


def clean(kinds: dict[str, list[Entry]]) -> list[Entry]:
    """Shrink fetched folders below their limit, and remove leftovers of interrupted downloads."""
    gone = []
    for kind in set(kinds) & set(disk_cache.KINDS):
        folder = disk_cache.root() / kind
        rests = [entry for entry in kinds[kind] if entry.folder.name.startswith(".")]
        gone += [entry for entry in rests if disk_cache.remove(entry)]
        if kind == disk_cache.FETCHED:
            disk_cache.make_room(folder, disk_cache.bound(folder))
        gone += [entry for entry in kinds[kind] if entry not in rests and not entry.folder.exists()]
        disk_cache.sweep(folder)
    return gone


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 2 for arguments that cannot be used."""
    parser = argparse.ArgumentParser(
        prog=program(), description=as_called(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--clean", action="store_true", help="remove what exceeds a limit, and leftovers")
    what.add_argument("--older-than", type=seconds_of, metavar="AGE", help="remove what was not used for 12h, 30d, 2w")
    what.add_argument("--all", action="store_true", help="remove everything that no process uses")
    parser.add_argument("--kind", action="append", default=[], help="only these: folders, images, or another folder")
    options = parser.parse_args(argv)
    try:
        kinds = kinds_there(options.kind)
        gone: list[Entry] = []
        busy: list[Entry] = []
        if options.clean:
            gone = clean(kinds)
        elif options.all or options.older_than is not None:
            unused_for = 0.0 if options.all else options.older_than
            gone, busy = remove(kinds, named=options.kind, unused_for=unused_for)
        else:
            sys.stdout.write(as_text(kinds))
            return 0
    except UserError as error:
        sys.stderr.write(safe(f"cache: {error}\n"))
        return 2
    _tell(gone, busy)
    return 0


def _tell(gone: list[Entry], busy: list[Entry]) -> None:
    lines = [f"removed {_place(entry.folder)}, {size_of(entry.bytes)}" for entry in gone]
    lines += [f"left {_place(entry.folder)}, {size_of(entry.bytes)}: a process uses it" for entry in busy]
    lines.append(f"{len(gone)} removed, {size_of(disk_cache.total(gone))} free again")
    sys.stdout.write(safe("\n".join(lines) + "\n"))


def _place(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


if __name__ == "__main__":
    raise SystemExit(main())
