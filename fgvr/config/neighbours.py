"""The search for each image's nearest images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fgvr.config.base import Part, Workers


class NeighbourSearch(Part):
    """neighbours: how the nearest images of candidates and duplicates are searched. docs/neighbours.md."""

    method: Literal["auto", "exact", "ivf"] = "auto"
    """`exact`, `ivf` (an inverted file, which misses a few), or exact while that takes at most `exact_seconds`."""
    recall: float = Field(default=0.95, gt=0, le=1)
    """Share of the true nearest images that an inverted file must find, measured on a sample; it probes more lists
    until it does."""
    exact_seconds: float | None = Field(default=None, gt=0)
    """Time that exact search may take by the measured rate of the matrix product; null: 60 on CPUs, 7200 on GPUs. Five
    times as long where an inverted file turns out to find less than `recall`; beyond, the run stops."""
    tasks: bool | None = None
    """In tasks on the cluster, one for `workers.rows_per_part` images, of which a killed run keeps the finished ones;
    null: where the search takes more than five minutes or its vectors do not fit into memory. false: in the driver."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory for vectors on one machine, GiB; a larger set is searched in shards. null: half of what is free here."""
    workers: Workers = Workers(rows_per_part=65_536)
    """Of the tasks; with `num_gpus` above 0 they compute on a GPU."""
