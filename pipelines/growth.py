"""Photos that were added to a source since it was listed (`run.increment`): they get ids behind those that are there.

The grown listing is a samples table of its own: all rows of the one before, as they were, and the new photos after
them. So ids stay, and row-parallel tables take over what an earlier one has (`cluster/kept_rows.py`). A photo that is
gone keeps its row. What decides a grown listing is the first one and a digest of each addition; `growth.json` in the
run folder holds both, since only the listing itself finds out what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import storage
from fgvr.schemas import SAMPLES
from fgvr.tables import GROWN

if TYPE_CHECKING:
    from fgvr.sources.source import SampleRows
    from fgvr.tables import Table
    from pipelines.run_tables import Run

FILE: Final = "growth.json"
DIGEST: Final = 16
"""Bytes of a URI's digest: two of a billion URIs are alike with a chance of 10⁻²¹."""


@dataclass(frozen=True)
class Growth:
    """What was added to a source, listing by listing.

    Attributes:
        first: what decides the listing that grew.
        steps: a digest of the photos of each addition.
    """

    first: Mapping[str, Any]
    steps: tuple[str, ...] = ()

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides the latest listing."""
        return {**self.first, **({"grown": list(self.steps)} if self.steps else {})}

    @property
    def before(self) -> Growth:
        """The listing before the latest addition."""
        return Growth(self.first, self.steps[:-1])

    @classmethod
    def read(cls, run: Run, lineage: str) -> Growth | None:
        """The growth of a source in a run's folder; None where nothing was listed yet."""
        facts = _known(run).get(lineage)
        return None if facts is None else cls(facts["first"], tuple(facts["steps"]))

    def keep(self, run: Run, lineage: str) -> None:
        """Remember it, now that its table is finished."""
        known, facts = _known(run), {"first": dict(self.first), "steps": list(self.steps)}
        if known.get(lineage) != facts:
            run.keep(FILE, json.dumps(known | {lineage: facts}).encode())


def _known(run: Run) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(storage.read_bytes(storage.join(run.folder, FILE)))
    except FileNotFoundError:
        return {}
    return found


@dataclass(frozen=True)
class Added:
    """The photos of a new listing that an earlier one does not have.

    Attributes:
        before: the earlier listing.
        listed: the new one.
        rows: new photos.
        gone: photos of the earlier listing that the new one does not have.
        digest: of the new photos' URIs; "" where there are none.
        splits: split → new photos.
    """

    before: Table
    listed: SampleRows
    rows: int
    gone: int
    digest: str
    splits: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, before: Table, listed: SampleRows, rows_per_part: int) -> Added:
        """Compare the URIs of two listings; in memory are 16 bytes per photo of the earlier one."""
        known = _digests_in(before)
        rows, seen, digest, splits = 0, 0, hashlib.sha256(), dict[str, int]()
        for part in listed.parts(rows_per_part):
            new = part.filter(pa.array(~_among(known, part["uri"])))
            seen += part.num_rows - new.num_rows
            rows += new.num_rows
            for uri in new["uri"].to_pylist():
                digest.update(uri.encode() + b"\0")
            for item in pc.value_counts(new["split"]).to_pylist():
                splits[item["values"]] = splits.get(item["values"], 0) + item["counts"]
        return cls(before, listed, rows, before.rows - seen, digest.hexdigest()[:16] if rows else "", splits)

    def parts(self, rows_per_part: int) -> Iterator[pa.Table]:
        """All rows of the grown listing, in parts of one size but the last."""
        waiting: list[pa.Table] = []
        count = 0
        for table in self._rows():
            rest = table
            while count + rest.num_rows >= rows_per_part:
                head, rest = rest.slice(0, rows_per_part - count), rest.slice(rows_per_part - count)
                yield pa.concat_tables([*waiting, head])
                waiting, count = [], 0
            waiting, count = [*waiting, rest], count + rest.num_rows
        if count:
            yield pa.concat_tables(waiting)

    def _rows(self) -> Iterator[pa.Table]:
        known, numbers = _digests_in(self.before), dict[str, int]()
        for part in self.before.batches():
            rows = part.cast(SAMPLES)
            pairs = rows.group_by(["class_name", "class_id"]).aggregate([])
            named = zip(pairs["class_name"].to_pylist(), pairs["class_id"].to_pylist(), strict=True)
            numbers.update({name: number for name, number in named if name is not None and number is not None})
            yield rows
        start = self.before.rows
        for part in self.listed.parts(self.before.rows_per_part):
            new = part.filter(pa.array(~_among(known, part["uri"])))
            names = new["class_name"].to_pylist()
            if self.listed.numbers is not None:  # the source gives no ids: known classes keep theirs
                for name in sorted({name for name in names if name is not None} - numbers.keys()):
                    numbers[name] = max(numbers.values(), default=-1) + 1
                ids = pa.array([None if name is None else numbers[name] for name in names], pa.int32())
                new = new.set_column(new.schema.get_field_index("class_id"), SAMPLES.field("class_id"), ids)
            ids = pa.array(np.arange(start, start + new.num_rows, dtype=np.int64))
            yield new.set_column(new.schema.get_field_index("image_id"), SAMPLES.field("image_id"), ids)
            start += new.num_rows

    @property
    def history(self) -> list[dict[str, Any]]:
        """The earlier listings, as row-parallel stages look for them (`cluster.kept_rows.GROWN`)."""
        earlier: Sequence[dict[str, Any]] = self.before.extra.get(GROWN, ())
        return [*earlier, {"fingerprint": self.before.fingerprint, "rows": self.before.rows}]

    def in_words(self) -> str:
        """What has changed, for the console."""
        gone = f"; {self.gone:,} are not listed any more and keep their rows" if self.gone else ""
        return f"{self.rows:,} photos were added to {self.before.rows:,}{gone}"


def _digests_in(samples: Table) -> np.ndarray:
    """Digests of all URIs of a listing, sorted, bytes [N]."""
    found = np.empty(samples.rows, dtype=f"V{DIGEST}")
    start = 0
    for part in samples.batches(["uri"]):
        own = _digests(part["uri"])
        found[start : start + len(own)] = own
        start += len(own)
    return np.sort(found.view(_PAIR).reshape(-1))


_PAIR: Final = np.dtype([("high", "<u8"), ("low", "<u8")])


def _digests(uris: pa.ChunkedArray) -> np.ndarray:
    data = b"".join(hashlib.blake2b(uri.encode(), digest_size=DIGEST).digest() for uri in uris.to_pylist())
    return np.frombuffer(data, dtype=f"V{DIGEST}")


def _among(known: np.ndarray, uris: pa.ChunkedArray) -> np.ndarray:
    """Which URIs are among those with these sorted digests, bool [n]."""
    own = _digests(uris).view(_PAIR).reshape(-1)
    if not len(known):
        return np.zeros(len(own), dtype=bool)
    places = np.minimum(np.searchsorted(known, own), len(known) - 1)
    return np.asarray(known[places] == own)
