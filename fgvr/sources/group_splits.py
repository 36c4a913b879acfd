"""Splits by groups: photos that belong together (of one sender, visit, product) are all trained on, or all tested on.

A random split of such photos flatters: the test photos show the same things as those that were learned. Each group is
drawn by a hash of its own text and the seed, so that no table of groups is needed, photos that come later fall into
the split of their group, and another order or number of photos changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from fgvr.config.data import ParquetSource, TableSource
from fgvr.metadata.stored import as_text
from fgvr.names.spelling import one_form
from fgvr.sources.rows import DEFAULT_SPLIT, LISTING

TEST: Final = "test"
SHOWN: Final = 3
"""Names that a remark shows."""


class GroupSplits:
    """Draws the split of photos without one, and notes what a reader of the results should know.

    Memory: 8 bytes per group, and the names of the classes.
    """

    def __init__(self, source: TableSource | ParquetSource) -> None:
        self.column, self.share, self.seed = source.group_column, source.test_share, source.test_seed
        self.drawn = Counter[str]()
        self.given = 0
        self.alone = 0
        self._groups: dict[str, list[np.ndarray]] = {}
        self._classes: dict[str, set[str]] = {}
        self._example: dict[int, str] = {}

    def __call__(self, chunks: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Chunks of a listing with the splits that were drawn; splits that the source gives stay."""
        for rows in chunks:
            yield self._of_chunk(rows)

    def _of_chunk(self, rows: pa.Table) -> pa.Table:
        groups = self._groups_of(rows)
        given = [one_form(split) if split else "" for split in rows["split"].to_pylist()]
        hashes = np.array([_hash(group, self.seed) for group in groups], np.uint64)
        splits: list[str | None] = list(given)
        if self.share is not None:
            test = hashes.astype(np.float64) < self.share * 2.0**64
            for place, split in enumerate(given):
                if not split:
                    splits[place] = TEST if test[place] else DEFAULT_SPLIT
                    self.drawn[splits[place] or ""] += 1
        self.given += sum(map(bool, given))
        self._note(hashes, groups, splits, rows["class_name"].to_pylist())
        column = pa.array([split or None for split in splits], LISTING.field("split").type)
        return rows.set_column(LISTING.get_field_index("split"), LISTING.field("split"), column)

    def _groups_of(self, rows: pa.Table) -> list[str]:
        """The group of each photo; one without is a group of its own."""
        uris = [uri or "" for uri in rows["uri"].to_pylist()]
        if self.column is None:
            return [f"\0{uri}" for uri in uris]
        facts = [json.loads(text) if text else {} for text in rows["metadata"].to_pylist()]
        groups = [as_text(fact.get(self.column)) for fact in facts]
        self.alone += sum(group is None for group in groups)
        return [f"\0{uri}" if group is None else group for uri, group in zip(uris, groups, strict=True)]

    def _note(self, hashes: np.ndarray, groups: list[str], splits: list[str | None], classes: list[str | None]) -> None:
        for split in {split or DEFAULT_SPLIT for split in splits}:
            here = [place for place, each in enumerate(splits) if (each or DEFAULT_SPLIT) == split]
            found = np.unique(hashes[here])
            self._groups.setdefault(split, []).append(found)
            self._classes.setdefault(split, set()).update(name for place in here if (name := classes[place]))
        for place, group in enumerate(groups):
            if len(self._example) < 1000 and not group.startswith("\0"):
                self._example.setdefault(int(hashes[place]), group)

    def remarks(self) -> list[str]:
        """Notes for a reader of the results; complete after the last chunk."""
        said = []
        total = self.drawn.total()
        if self.share is not None and total:
            of = "photos" if self.column is None else f"groups by {self.column}"
            said.append(
                f"split drawn by {of}, seed {self.seed}: {self.drawn[TEST]:,} of {total:,} photos "
                f"({100 * self.drawn[TEST] / total:.3g}%) are in {TEST}"
            )
            if only := sorted(self._classes.get(TEST, set()) - self._classes.get(DEFAULT_SPLIT, set())):
                said.append(
                    f"{len(only):,} classes have photos in {TEST} only, which nothing can learn: "
                    f"{', '.join(only[:SHOWN])}{' …' if len(only) > SHOWN else ''}"
                )
        if self.share is not None and not total and self.given:
            said.append("ingest.source.test_share drew nothing: the source names the split of every photo")
        if self.column is not None:
            if self.alone:
                said.append(f"{self.alone:,} photos have no {self.column}: each counts as a group of its own")
            said += self._on_both_sides()
        return said

    def _on_both_sides(self) -> list[str]:
        """Groups with photos in training and in another split, where the source gives the splits."""
        unique = {split: np.unique(np.concatenate(parts)) for split, parts in self._groups.items()}
        ours = unique.get(DEFAULT_SPLIT, np.zeros(0, np.uint64))
        said = []
        for split, theirs in sorted(unique.items()):
            both = [] if split == DEFAULT_SPLIT else np.intersect1d(ours, theirs).tolist()
            if both:
                example = next((self._example[each] for each in both if each in self._example), None)
                shown = "" if example is None else f", e.g. {example}"
                said.append(
                    f"{len(both):,} groups by {self.column} have photos in {DEFAULT_SPLIT} and in {split}{shown}: "
                    f"scores on {split} flatter. Without the source's splits (split_column null) and with "
                    "ingest.source.test_share whole groups are drawn"
                )
        return said


def _hash(group: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}\0{group}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def group_splits(source: TableSource | ParquetSource) -> GroupSplits | None:
    """What draws and checks the splits of a source; None where neither is asked for."""
    return None if source.group_column is None and source.test_share is None else GroupSplits(source)
