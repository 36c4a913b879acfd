"""Which listing of a source is valid in a run: the first one, or a later one made after photos were replaced.

A listing is made once and kept, since new files would give all images new ids. But where photos were replaced under the
same names (`fgvr.sources.marks`), everything computed from them describes other photos. They are then listed again,
which makes a new samples table, and a new table of everything computed from it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import Any

from cluster.fingerprint import fingerprint_of
from fgvr import storage
from fgvr.config.data import Ingest
from fgvr.failures import shown_uri
from fgvr.sources import marks
from fgvr.tables import MANIFEST, Table
from pipelines.run_tables import Run

log = logging.getLogger(__name__)

MARKS = "marks.json"
"""Beside the samples table: URI of each listed file → what distinguishes it from another file of the same name."""
LISTINGS = "listings.json"
"""In the run folder: fingerprint of a source's first listing → key of its latest one, if photos were replaced."""


@dataclass(frozen=True)
class Listing:
    """A listing of a source.

    Attributes:
        run: the run in whose folder the listing is remembered.
        first: what decides the first listing of this source.
        replaced: key of the photos from which this listing was made; empty for the first one.
        grown: digests of what was added to it (`pipelines.growth`).
    """

    run: Run
    first: dict[str, Any]
    replaced: str = ""
    grown: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Run, decides: dict[str, Any]) -> Listing:
        """The latest listing of the source that `decides` describes."""
        first = cls(run, decides)
        return replace(first, replaced=first._known().get(first._key, ""))

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides this listing."""
        return self.ungrown | ({"grown": list(self.grown)} if self.grown else {})

    @property
    def ungrown(self) -> dict[str, Any]:
        """What decides the listing to which photos were added."""
        return self.first | ({"replaced": self.replaced} if self.replaced else {})

    @property
    def is_made(self) -> bool:
        """Whether the table of this listing is finished."""
        return storage.exists(self._path(MANIFEST))

    def looked_at(self, ingest: Ingest) -> tuple[Listing, marks.Marks | None]:
        """This listing, or a new one where some of its photos were replaced, with the current state of the photos.

        The state is None where photos are not checked: by `ingest.source.replaced`, because there are too many, or
        before a list that names them has been read.
        """
        if getattr(ingest.source, "replaced", "keep") == "keep":
            return self, None
        try:
            before: marks.Marks | None = json.loads(storage.read_bytes(self._path(MARKS)))
        except FileNotFoundError:
            if storage.exists(self._path(MANIFEST)):
                return self, None
            before = None
        now = marks.look(ingest.source, before, ingest.limits.allowed_roots)
        changed = [] if before is None or now is None else marks.replaced(before, now)
        if before is None or now is None or not changed:
            return self, now
        log.warning(
            "ingest: %s of %s listed files were replaced since (size, time or ETag; %s): they are listed again and all "
            "is computed anew. To keep what is finished: --ingest.source.replaced keep",
            f"{len(changed):,}",
            f"{len(before):,}",
            shown_uri(changed[0]),
        )
        return replace(self, replaced=marks.digest(before, now), grown=()), now

    def keep(self) -> None:
        """Remember this listing, now that its table is finished."""
        known = self._known()
        if known.get(self._key, "") != self.replaced:
            self.run.keep(LISTINGS, json.dumps(known | {self._key: self.replaced}).encode())

    @property
    def _key(self) -> str:
        return fingerprint_of("samples", self.first, [])

    def table(self) -> Table:
        """The finished table of this listing; raises FileNotFoundError."""
        return Table.load(self._path(""))

    def _path(self, name: str) -> str:
        return storage.join(self.run.folder, "tables", "samples", fingerprint_of("samples", self.deciding, []), name)

    def _known(self) -> dict[str, str]:
        try:
            known: dict[str, str] = json.loads(storage.read_bytes(storage.join(self.run.folder, LISTINGS)))
        except FileNotFoundError:
            return {}
        return known
