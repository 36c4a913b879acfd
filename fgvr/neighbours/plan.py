"""Plans a nearest-neighbour search: which method, where, and in how many pieces. The one place that decides.

Exact search takes 2·N·M·d operations: seconds for thousands of vectors, minutes on one H100 for ten million. It is used
as long as it fits the allowed time, since it needs no tuning and misses nothing; beyond that, an inverted file
(IVF-Flat) with 4√M lists, of which each query probes a few. A long search is split into tasks, each one block of
queries against the whole database; a database that does not fit on a machine is split into shards, whose results are
merged.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fgvr.neighbours.exact import FP32, Product
from fgvr.neighbours.machine import Machine

Method = Literal["auto", "exact", "ivf"]

REACHED = 0.5  # share of the product's rate that a whole search reaches, including selection
EXACT_SECONDS = {"cpu": 60.0, "cuda": 7200.0}
FALL_BACK = 5.0  # exact search may take this many times the allowed time if an inverted file misses too many
HERE_SECONDS = 300.0  # longer searches run in tasks, so that a dying machine loses little
BYTES = 2  # bytes per stored number


@dataclass(frozen=True)
class Size:
    """Number of queries, number of database vectors, and their dimension."""

    queries: int
    database: int
    dim: int

    @property
    def operations(self) -> float:
        """Operations of exact search."""
        return 2.0 * self.queries * self.database * self.dim

    @property
    def bytes(self) -> float:
        """Bytes of the database's vectors."""
        return float(BYTES * self.database * self.dim)


@dataclass(frozen=True)
class Wanted:
    """What a search must achieve and may cost.

    Attributes:
        method: overrides the choice between exact and IVF.
        recall: recall that an inverted file must reach on a sample.
        exact_seconds: time allowed for exact search; None: `EXACT_SECONDS` of the device.
    """

    method: Method = "auto"
    recall: float = 0.95
    exact_seconds: float | None = None


DEFAULT = Wanted()


@dataclass(frozen=True)
class Plan:
    """How to search.

    Attributes:
        method: exact, or through an inverted file.
        product: product for exact search, which also measures the recall of an inverted file.
        lists: number of lists of the inverted file.
        tasks: whether to run one task per block of queries on the cluster, instead of all in this process.
        shards: number of parts of the database that are searched separately.
        seconds: expected time.
        reasons: why, in words.
        exact_seconds: expected time of exact search; 0 if unknown.
        falls_back: use exact search if the inverted file cannot reach the required recall.
    """

    method: Literal["exact", "ivf"]
    product: Product = FP32
    lists: int = 0
    tasks: bool = False
    shards: int = 1
    seconds: float = 0.0
    reasons: tuple[str, ...] = ()
    exact_seconds: float = 0.0
    falls_back: bool = False

    def exactly(self, why: str) -> Plan:
        """The same plan with exact search instead of an inverted file."""
        reasons = (*self.reasons, f"{why}: searched exactly instead, about {self.exact_seconds:,.0f} s")
        return replace(self, method="exact", lists=0, seconds=self.exact_seconds, reasons=reasons, falls_back=False)

    @classmethod
    def read(cls, known: dict[str, Any]) -> Plan:
        """The plan from its `asdict` form `known`."""
        product = Product(known["product"]["device"], known["product"]["dtype"])
        return cls(**{**known, "product": product, "reasons": tuple(known["reasons"])})

    def facts(self) -> dict[str, Any]:
        """The plan as JSON types, for a table's metadata."""
        return {
            **{name: value for name, value in asdict(self).items() if name not in {"product", "reasons"}},
            "device": self.product.device,
            "dtype": self.product.dtype,
            "reasons": list(self.reasons),
        }


def plan(size: Size, machine: Machine, wanted: Wanted = DEFAULT) -> Plan:
    """The plan for a search.

    Args:
        size: size of the search.
        machine: the machine, with its measured rate.
        wanted: what the search must achieve and may cost.
    """
    device = machine.product.device
    allowed = EXACT_SECONDS[device] if wanted.exact_seconds is None else wanted.exact_seconds
    seconds = exact_seconds = size.operations / (REACHED * machine.rate * machine.machines)
    reasons = [
        f"exact search of {size.queries:,} × {size.database:,} vectors of {size.dim} numbers: about {seconds:,.0f} s "
        f"on {machine.machines} × {device} at half of the measured {machine.rate / 1e9:,.0f} GFLOP/s "
        f"({machine.product.dtype}; fp32 {machine.fp32_rate / 1e9:,.0f}); {allowed:,.0f} s are allowed"
    ]
    lists = lists_for(size.database)
    method: Literal["exact", "ivf"]
    if wanted.method == "auto":
        method = "exact" if seconds <= allowed else "ivf"
    else:
        method = wanted.method
        reasons.append(f"the method is set: {method}")
    if method == "ivf":
        seconds = ivf_operations(size, lists) / (REACHED * machine.fp32_rate * machine.machines)
        reasons.append(f"inverted file with {lists:,} lists: about {seconds:,.0f} s")
    shards = max(1, math.ceil(size.bytes / machine.memory))
    if shards > 1:
        reasons.append(
            f"the database takes {size.bytes / 2**30:,.1f} GiB and a machine has {machine.memory / 2**30:,.1f} for it: "
            f"{shards} shards"
        )
    tasks = seconds > HERE_SECONDS or shards > 1 or (machine.machines > 1 and seconds > EXACT_SECONDS["cpu"])
    reasons.append("in tasks on the cluster, one per block of queries" if tasks else "in this process")
    exact_lists = lists if method == "ivf" else 0
    falls_back = method == "ivf" and exact_seconds <= FALL_BACK * allowed
    return Plan(method, machine.product, exact_lists, tasks, shards, seconds, tuple(reasons), exact_seconds, falls_back)


def lists_for(database: int) -> int:
    """Number of inverted lists: about 4√M, or 2√M if training them would take longer than they save."""
    return max(1, int((4 if database >= 250_000 else 2) * math.sqrt(database)))


def ivf_operations(size: Size, lists: int, probed: int = 16) -> float:
    """Operations of an inverted file: training, assigning vectors and queries to lists, and the products."""
    training = 2.0 * TRAINING_ROUNDS * TRAINING_VECTORS * lists**2 * size.dim
    quantising = 2.0 * (size.queries + size.database) * lists * size.dim
    return training + quantising + size.operations * min(1.0, probed / lists)


TRAINING_ROUNDS = 4  # of k-means; more do not increase the measured recall
TRAINING_VECTORS = 40  # per list; FAISS wants 39
