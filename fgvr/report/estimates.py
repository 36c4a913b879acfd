"""What a run was expected to take, written before it asked or computed anything, beside what it took."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from fgvr import storage
from fgvr.report.costs import Billing, usd_of
from fgvr.report.results import StageResult

FILE = "estimates.json"
"""In the run folder: stage → its estimate, made when nothing of its table was there."""


@dataclass(frozen=True)
class Estimate:
    """What one stage was expected to take.

    Attributes:
        rows: rows of its table.
        requests: requests to its model; 0 where it asks none.
        prompt_tokens: of all requests, those from a prefix cache included.
        output_tokens: of all answers; an upper bound where they are not measured.
        seconds: wall time; None: it was unknown.
        usd: cost; None: it was unknown.
        source: where the time comes from, in words.
    """

    rows: int
    requests: float = 0
    prompt_tokens: float = 0
    output_tokens: float = 0
    seconds: float | None = None
    usd: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Outcome:
    """A stage's estimate beside what it took; `usd` is None where a price or token count is not known."""

    stage: str
    expected: Estimate
    took: StageResult
    usd: float | None


def read_estimates(folder: str) -> dict[str, Estimate]:
    """The estimates in a run folder; none in one of an earlier version."""
    try:
        facts = json.loads(storage.read_bytes(storage.join(folder, FILE)))
    except FileNotFoundError:
        return {}
    return {stage: Estimate(**each) for stage, each in facts.items()}


def estimates_json(estimates: Mapping[str, Estimate]) -> bytes:
    """The content of the file."""
    return json.dumps({stage: asdict(each) for stage, each in estimates.items()}, indent=1).encode()


def outcomes(estimates: Mapping[str, Estimate], stages: Iterable[StageResult], billing: Billing) -> Sequence[Outcome]:
    """The stages with an estimate, in the order in which they ran."""
    found = []
    for stage in stages:
        if stage.name in estimates:
            unpriced: set[str] = set()
            usd = usd_of(stage, billing, unpriced)
            found.append(Outcome(stage.name, estimates[stage.name], stage, None if unpriced else usd))
    return found
