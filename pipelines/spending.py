"""What stages are expected to cost, for `run.budget`: prices, machines, and the load per row of the estimate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from cluster import budget
from cluster.budget import StageCost
from fgvr.config import Config, ConfigError
from fgvr.report.costs import Billing, usd_of
from fgvr.report.results import StageResult
from pipelines.bill import Bill, Line
from pipelines.billing import billing
from pipelines.registry import STAGES, added_tables
from pipelines.run_tables import Look
from pipelines.stage import Stage


def check_budget(config: Config, stages: Iterable[Stage]) -> None:
    """Raise a ConfigError where `run.budget.usd` cannot be counted, since something that these stages use has no price.

    What has no price would be spent without end, and nobody would notice.
    """
    limit = config.run.budget.usd
    if limit is None:
        return
    money = billing(config)
    if money.prices is None:
        raise ConfigError(
            f"run.budget.usd = {limit:g}: there are no prices to count in; set evaluate.prices to a file with your"
            " prices, or to `shipped` for those of this version (or limit run.budget.tokens instead)"
        )
    unpriced: set[str] = set()
    for stage in stages:
        usd_of(StageResult(stage.table, 0, 0, 0), money, unpriced)
    if unpriced:
        raise ConfigError(
            f"run.budget.usd = {limit:g}: evaluate.prices = {config.evaluate.prices} has no price of"
            f" {', '.join(sorted(unpriced))}; add it (0 for what is free for you), or limit run.budget.tokens instead"
        )


def expect(look: Look, bill: Bill | None) -> None:
    """Tell the spending of this run what its stages are billed for, and what the bill expects them to take."""
    spending = budget.current()
    if spending is None:
        return
    money = billing(look.config)
    spending.prices = money.prices
    names = (*STAGES, *added_tables(look.config))
    costs = {name: StageCost(money.models.get(name), _usd_per_second(name, money)) for name in names}
    for line in () if bill is None else bill.lines:
        costs[line.ask.stage] = _expected(costs[line.ask.stage], look, line)
    for work in () if bill is None else bill.works:
        known = costs[work.task.stage]
        costs[work.task.stage] = replace(known, rows=work.rows, seconds=(work.seconds or 0.0) / work.rows)
    spending.costs = costs


def _expected(known: StageCost, look: Look, line: Line) -> StageCost:
    """What a missing row will take: less where replies are kept, as the bill says."""
    begun = look.unfinished.get(line.ask.stage)
    missing = max(1, line.ask.rows if begun is None else len(begun.left))
    row = line.load.times(1 / missing)
    seconds = (line.seconds or 0.0) / missing
    return replace(
        known,
        requests=row.requests,
        prompt=row.prompt,
        cached=row.cached,
        output=row.output,
        seconds=seconds,
        rows=missing,
    )


def _usd_per_second(stage: str, money: Billing) -> float:
    """What everything that the stage's workers reserve costs; 0 where it has no price."""
    models: Mapping[str, str] = {}
    return usd_of(StageResult(stage, 1.0, 0, 0), replace(money, models=models), set())
