"""The search for each image's nearest images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fgvr.config.base import Part, Workers


class NeighbourSearch(Part):
    """neighbours: how the nearest images are searched for candidates and duplicates. docs/neighbours.md."""

    method: Literal["auto", "exact", "ivf"] = "auto"
    """`exact`, `ivf` (an inverted file, which misses a few neighbours), or `auto`: exact while that takes at most
    `exact_seconds`, else ivf."""
    recall: float = Field(default=0.95, gt=0, le=1)
    """Share of the true nearest images that the inverted file must find, measured on a sample; it probes more lists
    until it does."""
    exact_seconds: float | None = Field(default=None, gt=0)
    """Time that exact search may take, in seconds, estimated from the measured speed of matrix products; null: 60 on
    CPUs, 7200 on GPUs. Five times as long is allowed where an inverted file turns out to find less than `recall`;
    beyond that the run stops."""
    tasks: bool | None = None
    """Search in tasks on the cluster, one per `workers.rows_per_part` images, so that a killed run keeps the finished
    ones; false: in the driver; null: in tasks where the search takes more than five minutes or its vectors do not fit
    into memory."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory for vectors on one machine, in GiB; a larger set is searched in shards. null: half of the free memory of
    this machine."""
    workers: Workers = Workers(rows_per_part=65_536)
    """Workers of the search tasks; with `num_gpus` above 0 they compute on GPUs."""
