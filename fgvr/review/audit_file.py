"""The file of an audit's sample: written once, before anybody looks, and never replaced."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from fgvr import storage

PREFIX: Final = "audit"


@dataclass(frozen=True)
class Drawn:
    """One photo of the sample.

    Attributes:
        image_id: its number in the run.
        uri: its URI.
        stratum: index into `AuditSample.sizes`.
        name: what the run calls it.
        score: the run's confidence; −1 where it has none.
        other: what the second method calls it, in an audit of differences; else "".
    """

    image_id: int
    uri: str
    stratum: int
    name: str
    score: float
    other: str = ""


@dataclass(frozen=True)
class AuditSample:
    """A sample and how it was drawn; its photos are looked at in this order, of which any beginning is random, too.

    Attributes:
        seed: of the draw.
        sizes: photos in each stratum of the whole set.
        photos: the drawn photos, in random order.
        wanted: half-width of the 95% interval for which the size was chosen; 0: not chosen so.
        methods: the tables whose names differ on all photos, in an audit of differences; else empty.
        at: when it was drawn, ISO 8601 in UTC.
    """

    seed: int
    sizes: tuple[int, ...]
    photos: tuple[Drawn, ...]
    wanted: float = 0.0
    methods: tuple[str, ...] = ()
    at: str = ""

    @property
    def file(self) -> str:
        """Its file's name in the folder `review`."""
        return "-".join([PREFIX, *self.methods]) + ".json"

    def store(self, place: str) -> AuditSample:
        """Write it into the folder `review`; returns the sample that holds: an earlier one, if there is one."""
        facts = asdict(self) | {"at": datetime.now(UTC).isoformat(timespec="seconds"), "token": uuid.uuid4().hex}
        storage.create_bytes(storage.join(place, self.file), json.dumps(facts, indent=0).encode())
        return read_sample(place, self.file)


def read_sample(place: str, file: str = f"{PREFIX}.json") -> AuditSample:
    """The stored sample; raises FileNotFoundError where none was drawn."""
    facts = json.loads(storage.read_bytes(storage.join(place, file)))
    facts.pop("token", None)
    photos = tuple(Drawn(**row) for row in facts.pop("photos"))
    return AuditSample(photos=photos, sizes=tuple(facts.pop("sizes")), methods=tuple(facts.pop("methods")), **facts)


def held_out(place: str) -> frozenset[str]:
    """URIs of all photos of all audit samples in the folder `review`: never trained on, whoever decided them."""
    files = [name for name in storage.list_files(place, ".json") if name.startswith(PREFIX)]
    return frozenset(photo.uri for file in files for photo in read_sample(place, file).photos)
