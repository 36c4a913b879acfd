"""Which sessions worked on an unfinished table, and under which limits; the finished table's manifest repeats it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from cluster.stage_files import BEGUN
from fgvr import storage
from fgvr.config.data import ImageLimits
from fgvr.schemas import Reason
from fgvr.tables import Table
from fgvr.versions import Environment, mixture_in_table, with_one_more

log = logging.getLogger(__name__)

LIMIT_OF: Mapping[str, str] = {Reason.TOO_MANY_BYTES: "max_bytes", Reason.TOO_MANY_PIXELS: "max_pixels"}
"""Reason of a failed row → the field of `ingest.limits` that it exceeded."""


@dataclass(frozen=True)
class Begun:
    """The environments and limits of all sessions that worked on a table.

    Attributes:
        made_with: environments that worked on it, without repetition.
        limits: the lowest limits under which rows were computed, by their field in `ingest.limits`.
    """

    made_with: list[Environment]
    limits: dict[str, int]

    @classmethod
    def of(cls, name: str, known: Self | None, now: Environment, limits: ImageLimits, earlier: Table | None) -> Self:
        """Add this session; logs it where its environment differs from that of the last one.

        Args:
            name: name of the table.
            known: the sessions so far.
            now: this session's environment.
            limits: this session's limits.
            earlier: the finished table whose failed rows are retried.
        """
        before = known.made_with if known is not None else [] if earlier is None else earlier.made_with
        if said := mixture_in_table(name, before, now):
            log.warning("%s", said)
        own = {field: int(getattr(limits, field)) for field in LIMIT_OF.values()}
        lowest = (
            own if known is None else {field: min(own[field], known.limits.get(field, own[field])) for field in own}
        )
        return cls(with_one_more(before, now), lowest)

    @classmethod
    def read(cls, uri: str) -> Self | None:
        """Read what an earlier session left in the table's folder `uri`."""
        try:
            return cls(**json.loads(storage.read_bytes(storage.join(uri, BEGUN))))
        except FileNotFoundError:
            return None

    def write(self, uri: str) -> None:
        """Write it to the table's folder `uri`, for the session that resumes."""
        storage.write_bytes(storage.join(uri, BEGUN), json.dumps(asdict(self)).encode())


def limits_raised(table: Table | None, limits: ImageLimits) -> bool:
    """Whether rows of a table failed because of limits that are higher now: only these rows are retried."""
    return table is not None and any(
        reason in table.failures and field in table.limits and getattr(limits, field) > table.limits[field]
        for reason, field in LIMIT_OF.items()
    )
