"""Who has worked on a table that is not finished, and under which limits; in the manifest when it is."""

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
"""Reason of a failed row → the field of `ingest.limits` that it failed by."""


@dataclass(frozen=True)
class Begun:
    """What its sessions have in common.

    Attributes:
        made_with: environments that worked on it, each once.
        limits: the lowest limits that rows were computed under, by their field in `ingest.limits`.
    """

    made_with: list[Environment]
    limits: dict[str, int]

    @classmethod
    def of(cls, name: str, known: Self | None, now: Environment, limits: ImageLimits, earlier: Table | None) -> Self:
        """With this session, which is said where it is of another kind than the last one.

        Args:
            name: of the table.
            known: its sessions so far.
            now: this session's environment.
            limits: this session's.
            earlier: the finished table whose failed rows are tried again.
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
        """As an earlier session left it in the table's folder `uri`."""
        try:
            return cls(**json.loads(storage.read_bytes(storage.join(uri, BEGUN))))
        except FileNotFoundError:
            return None

    def write(self, uri: str) -> None:
        """Leave it in the table's folder `uri`, for the session that goes on."""
        storage.write_bytes(storage.join(uri, BEGUN), json.dumps(asdict(self)).encode())


def limits_raised(table: Table | None, limits: ImageLimits) -> bool:
    """Whether rows of a table failed by limits that are higher now: they are tried again, and all others stay."""
    return table is not None and any(
        reason in table.failures and field in table.limits and getattr(limits, field) > table.limits[field]
        for reason, field in LIMIT_OF.items()
    )
