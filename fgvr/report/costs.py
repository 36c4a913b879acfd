"""Hours and US$ per method, as in the NeaR paper's table 1, from the recorded seconds and tokens of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fgvr.part_worker import UNCOUNTED
from fgvr.report.prices import Prices
from fgvr.report.results import Costs, MethodCost, StageResult

MILLION = 1_000_000
IMAGES = 10_000
"""Number of images to which inference is extrapolated, as in the paper."""


@dataclass(frozen=True)
class Machine:
    """What all workers of a stage reserve together."""

    cpus: float = 1
    gpus: float = 0


@dataclass(frozen=True)
class Billing:
    """What is paid for, and to whom.

    Attributes:
        prices: None if no price file was given.
        models: stage → name of the model behind a server that is paid by the token.
        machines: stage → what it runs on; a stage that is missing uses one core.
    """

    prices: Prices | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    machines: Mapping[str, Machine] = field(default_factory=dict)


@dataclass(frozen=True)
class Paid:
    """The stages that a method pays for; the cost of inference stages is scaled to IMAGES images."""

    preparation: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    inference: tuple[str, ...] = ()


def method_costs(paid: Mapping[Any, Paid], stages: Sequence[StageResult], billing: Billing) -> Costs:
    """The cost of each method.

    Args:
        paid: method → the stages that it pays for.
        stages: stages of the run; a stage that the run lacks costs nothing.
        billing: prices, and what they apply to.
    """
    found = {stage.name: stage for stage in stages}
    costs = {str(method): _cost(those, found, billing) for method, those in paid.items()}
    prices = billing.prices
    return Costs(IMAGES, costs, "" if prices is None else f"{prices.date}, {prices.source}")


def _cost(paid: Paid, found: Mapping[str, StageResult], billing: Billing) -> MethodCost:
    once = [found[name] for name in (*paid.preparation, *paid.training) if name in found]
    rated = [found[name] for name in paid.inference if name in found and found[name].rows]
    unpriced: set[str] = set()
    fixed = sum(usd_of(stage, billing, unpriced) for stage in once)
    per_image = sum(usd_of(stage, billing, unpriced) / stage.rows for stage in rated)

    def hours(names: Sequence[str]) -> float:
        return sum(found[name].seconds for name in names if name in found) / 3600

    return MethodCost(
        preparation_hours=hours(paid.preparation),
        training_hours=hours(paid.training),
        inference_hours=sum(stage.seconds / stage.rows for stage in rated) / 3600 * IMAGES,
        usd=None if unpriced else fixed + IMAGES * per_image,
        unpriced=tuple(sorted(unpriced)),
        usd_million=None if unpriced else fixed + MILLION * per_image,
        timed_images=min((stage.rows for stage in rated), default=0),
    )


def usd_of(stage: StageResult, billing: Billing, unpriced: set[str]) -> float:
    """Cost of a stage, from its measured or estimated seconds and tokens; adds what has no price to `unpriced`."""
    prices = billing.prices
    if prices is None:
        unpriced.add("no price file (evaluate.prices)")
        return 0.0
    usd = 0.0
    model = billing.models.get(stage.name)
    if model is not None and model in prices.models:
        tokens = [float(stage.tokens.get(f"{kind}_tokens", 0)) for kind in ("prompt", "cached", "output")]
        usd += prices.models[model].usd(*tokens)
        if stage.tokens.get(UNCOUNTED):
            unpriced.add(f"tokens of {model}, which its server does not report")
    elif model is not None:
        unpriced.add(model)
    machine = billing.machines.get(stage.name, Machine())
    # The price of a GPU hour includes the machine around it.
    what, units = ("gpu_hour", machine.gpus) if machine.gpus else ("cpu_hour", machine.cpus)
    rate = getattr(prices, what)
    if rate is None:
        unpriced.add(what)
        return usd
    return usd + stage.seconds / 3600 * units * float(rate)
