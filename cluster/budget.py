"""What a run has spent, and its stop between two parts before it would spend more than `run.budget`.

Spent is what replies of servers cost, counted by the workers as they arrive (`fgvr.spending`), tokens of engines, and
the hours of the machines. The sums of all sessions lie in the run folder, so that a stopped run goes on by the same
command with a raised budget, and work that was resumed or whose replies were kept is not counted twice.

No part is begun that is expected to end beyond the budget, those under way counted in: what a part costs is known from
the dearest part so far, and before the first one from the estimate that was printed at the start. So a run exceeds its
budget by no more than what the parts under way cost beyond that, two for each worker.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from cluster import lease
from cluster.heartbeat import Heartbeats, leave
from cluster.lease import LeaseLost
from cluster.part_actor import COMPUTED
from cluster.pool import Gate, Part
from fgvr import storage
from fgvr.config.run import Budget
from fgvr.errors import UserError
from fgvr.report.prices import Prices, money
from fgvr.spending import SPENT, Tokens

log = logging.getLogger(__name__)

FILE = "spending.json"
"""In the run folder: what all sessions together have spent."""
UNKNOWN_SECONDS = 1e-9
"""Seconds per row of a stage whose rate is not known: it may begin as long as anything is left for its machines."""
WRITE_SECONDS = 1.0
"""Shortest time between two writes of the file while parts arrive."""


class BudgetReached(UserError):
    """The next part would cost more than is left of `run.budget`; what is finished is kept."""

    status = 3


@dataclass(frozen=True)
class Amount:
    """An amount of money and of tokens."""

    usd: float = 0.0
    tokens: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.usd + other.usd, self.tokens + other.tokens)

    def times(self, count: float) -> Amount:
        """The amount of `count` things."""
        return Amount(self.usd * count, self.tokens * count)

    def most(self, other: Amount) -> Amount:
        """The larger of both, for money and for tokens."""
        return Amount(max(self.usd, other.usd), max(self.tokens, other.tokens))

    def fits(self, more: Amount, limit: Budget) -> bool:
        """Whether the budget allows this and `more`; what costs no money or no tokens may do so without any left."""
        dear = limit.usd is not None and more.usd > 0 and self.usd + more.usd > limit.usd * (1 + 1e-9)
        return not dear and (limit.tokens is None or more.tokens <= 0 or self.tokens + more.tokens <= limit.tokens)

    def in_words(self, limit: Budget) -> str:
        """In the units of the budget."""
        paid = [] if limit.usd is None else [f"US$ {money(self.usd)}"]
        return " and ".join([*paid, *([] if limit.tokens is None else [f"{self.tokens:,.0f} tokens"])])


@dataclass(frozen=True)
class StageCost:
    """What a stage is billed for, as the config and the estimate say before it begins.

    Attributes:
        model: name of the model behind a server, which is paid by the token; None: none.
        usd_per_second: of everything that its workers reserve; 0 where machines have no price.
        requests: expected requests per row.
        prompt: expected prompt tokens per row, of what is not kept.
        cached: of these, those from a prefix cache.
        output: expected tokens of the answers per row.
        seconds: expected wall seconds per row; 0: unknown.
        rows: expected rows; what a stage that is one piece of work costs as a whole.
    """

    model: str | None = None
    usd_per_second: float = 0.0
    requests: float = 0.0
    prompt: float = 0.0
    cached: float = 0.0
    output: float = 0.0
    seconds: float = 0.0
    rows: float = 0.0


@dataclass
class Ledger:
    """What was spent, over all sessions.

    Attributes:
        models: replies of servers, by model.
        engines: tokens of engines that the run's own workers computed, by stage.
        seconds: wall seconds by stage.
    """

    models: dict[str, Tokens] = field(default_factory=dict)
    engines: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The content of the file."""
        models = {name: each.as_json() for name, each in self.models.items()}
        return json.dumps({"models": models, "engines": self.engines, "seconds": self.seconds}, indent=1).encode()

    @classmethod
    def read(cls, folder: str) -> Ledger:
        """The ledger in a run folder; an empty one where nothing was spent yet."""
        try:
            facts = json.loads(storage.read_bytes(storage.join(folder, FILE)))
        except FileNotFoundError:
            return cls()
        models = {name: Tokens.of_json(each) for name, each in facts["models"].items()}
        return cls(models, dict(facts["engines"]), dict(facts["seconds"]))


@dataclass
class _Running:
    """The stage that is computed, and what its parts have cost in this session.

    Attributes:
        stage: name of its table.
        began: when it began, in seconds of this process.
        asked: what models had been asked when the last part was finished.
        dearest: the dearest part, per row, without machines: other parts may be as dear.
        rows: rows of all parts but the first, before which models are loaded.
        since: when that first part was finished; None: it is not.
        last: when the last one was.
    """

    stage: str
    began: float
    asked: Amount
    dearest: Amount = field(default_factory=Amount)
    rows: int = 0
    since: float | None = None
    last: float = 0.0

    @property
    def seconds(self) -> float:
        """Wall seconds since it began."""
        return time.monotonic() - self.began if self.stage else 0.0

    @property
    def seconds_a_row(self) -> float:
        """Mean wall seconds per row after the first part; 0: not known yet."""
        return 0.0 if self.since is None or not self.rows else (self.last - self.since) / self.rows

    def part(self, rows: int, asked: Amount) -> None:
        """Note a finished part of so many rows."""
        new = Amount(asked.usd - self.asked.usd, asked.tokens - self.asked.tokens)
        self.asked, self.last = asked, time.monotonic()
        self.dearest = self.dearest.most(new.times(1 / max(rows, 1)))
        if self.since is None:
            self.since = self.last
        else:
            self.rows += rows


class Spending:
    """The spending of a run, in the driver's process.

    Args:
        folder: the run folder.
        limit: the budget; without any limit everything is counted and nothing is stopped.
    """

    def __init__(self, folder: str, limit: Budget) -> None:
        self.folder, self.limit = folder, limit
        self.prices: Prices | None = None
        self.costs: dict[str, StageCost] = {}
        self.ledger = Ledger.read(folder)
        self._heard: dict[tuple[str, str], Tokens] = {}  # (process, model) → its sums when last heard
        self._written = 0.0
        self._running = _Running("", 0.0, Amount())

    @property
    def spent(self) -> Amount:
        """Everything so far, the running stage included."""
        usd = self._asked().usd + self._cost(self._running.stage).usd_per_second * self._running.seconds
        usd += sum(seconds * self._cost(stage).usd_per_second for stage, seconds in self.ledger.seconds.items())
        return Amount(usd, self._asked().tokens)

    def _asked(self) -> Amount:
        """What models were asked so far: the money for servers, and all tokens."""
        usd, models = 0.0, self.ledger.models
        for model, tokens in models.items():
            price = None if self.prices is None else self.prices.models.get(model)
            usd += 0.0 if price is None else price.usd(tokens.prompt, tokens.cached, tokens.output)
        of_servers = sum(each.prompt + each.output for each in models.values())
        return Amount(usd, float(of_servers + sum(self.ledger.engines.values())))

    def _cost(self, stage: str) -> StageCost:
        return self.costs.get(stage, StageCost())

    @contextmanager
    def over(self, stage: str) -> Iterator[None]:
        """Within the block, `stage` is what is computed; its seconds are counted, however the block ends."""
        self._running = _Running(stage, time.monotonic(), self._asked())
        try:
            yield
        finally:
            seconds, self._running = self._running.seconds, _Running("", 0.0, Amount())
            self.ledger.seconds[stage] = self.ledger.seconds.get(stage, 0.0) + seconds
            self._write()

    def heard(self, summary: dict[str, Any]) -> None:
        """Take the sums of a process out of a part's summary or a call's result, and count what is new in them."""
        self._add(summary.pop(SPENT, None) or {})

    def heard_all(self, told: Iterable[str]) -> None:
        """The same of heartbeats, as JSON: those of processes that died among them."""
        for text in told:
            self._add(json.loads(text))

    def _add(self, told: Mapping[str, Any]) -> None:
        for model, facts in told.get("models", {}).items():
            sums, place = Tokens.of_json(facts), (str(told["process"]), model)
            new = sums - self._heard.get(place, Tokens())
            if new.requests <= 0:  # heard before
                continue
            self._heard[place] = sums
            self.ledger.models[model] = self.ledger.models.get(model, Tokens()) + self._assumed(new)
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._write()

    def _assumed(self, new: Tokens) -> Tokens:
        """Replies without token counts get those of the estimate: a budget must not take them for free."""
        cost = self._cost(self._running.stage)
        if not new.uncounted or not cost.requests:
            return new
        each = new.uncounted / cost.requests
        return replace(
            new, prompt=new.prompt + round(each * cost.prompt), output=new.output + round(each * cost.output)
        )

    def part(self, rows: int, totals: Mapping[str, int]) -> None:
        """Count a finished part of the running stage: its rows, and its tokens where an engine computed them."""
        stage = self._running.stage
        if self._cost(stage).model is None:
            tokens = totals.get("prompt_tokens", 0) + totals.get("output_tokens", 0)
            self.ledger.engines[stage] = self.ledger.engines.get(stage, 0) + tokens
        self._running.part(rows, self._asked())

    def _row(self) -> Amount:
        """What a further row of the running stage is expected to cost."""
        running, cost = self._running, self._cost(self._running.stage)
        price = None if self.prices is None or cost.model is None else self.prices.models.get(cost.model)
        usd = 0.0 if price is None else price.usd(cost.prompt, cost.cached, cost.output)
        asked = running.dearest if running.dearest.tokens else Amount(usd, cost.prompt + cost.output)
        seconds = running.seconds_a_row or cost.seconds or UNKNOWN_SECONDS
        return asked + Amount(seconds * cost.usd_per_second)

    def may_begin(self, rows: int, under_way: int) -> bool:
        """Whether one more part may be begun.

        Args:
            rows: rows of the part.
            under_way: rows of parts that were begun and are not finished.
        """
        if self.limit.is_open or not rows:
            return True
        return self.spent.fits(self._row().times(rows + under_way), self.limit)

    def check_part(self, rows: int) -> None:
        """Raise BudgetReached if a part of so many rows may not be begun, although nothing is under way."""
        if not self.may_begin(rows, 0):
            raise self._reached(self.spent, f"a further part of {rows:,} rows", self._row().times(rows))

    def check_whole(self) -> None:
        """At the start of a stage that is one piece of work; raises BudgetReached if it is expected to cost too much.

        A stage of which nothing is expected may begin as long as the budget is not used up.
        """
        spent, whole = self.spent, self._row().times(max(1, self._cost(self._running.stage).rows))
        if not self.limit.is_open and not spent.fits(whole, self.limit):
            raise self._reached(spent, "all", whole)

    def check(self) -> None:
        """While a stage that is one piece of work is computed; raises BudgetReached once the budget is used up."""
        spent = self.spent
        used_up = self.limit.usd is not None and spent.usd > self.limit.usd
        if used_up and self._cost(self._running.stage).usd_per_second:
            raise self._reached(spent, "more", Amount())

    def _reached(self, spent: Amount, what: str, cost: Amount) -> BudgetReached:
        limit = self.limit
        more = spent + cost
        given = " and ".join(
            [
                *([] if limit.usd is None else [f"--run.budget.usd {_up(max(more.usd, limit.usd)):g}"]),
                *([] if limit.tokens is None else [f"--run.budget.tokens {_up(max(more.tokens, limit.tokens)):.0f}"]),
            ]
        )
        known = cost.tokens > 0 or cost.usd > 1e-6  # less stands for an unknown rate
        costs = f" would cost about {cost.in_words(limit)}" if known else " would cost more"
        return BudgetReached(
            f"run.budget: {spent.in_words(limit)} of {limit.in_words()} are spent, and {what} of {self._running.stage}"
            f"{costs}. What is finished is kept: the same command with a larger budget (at least {given}) goes on from"
            " there"
        )

    def _write(self) -> None:
        self._written = time.monotonic()
        with suppress(LeaseLost):  # another session counts on
            lease.check(self.folder)
            leave(storage.join(self.folder, FILE), self.ledger.to_json())


def _up(value: float) -> float:
    """A positive value rounded up in its third digit."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return step * math.ceil(value / step)


class PartGate(Gate):
    """Counts a stage's parts, and lets another one begin while the budget lasts."""

    def __init__(
        self, spending: Spending, rows: int, rows_per_part: int, failed: Mapping[int, int] | None = None
    ) -> None:
        """Take the sizes of the parts.

        Args:
            spending: the spending of the run.
            rows: of the whole table; 0: of a single call, which was checked as a whole.
            rows_per_part: of each part but the last.
            failed: of the parts of which only failed rows are tried again, how many these are.
        """
        self._spending, self._rows, self._size, self._failed = spending, rows, rows_per_part, failed or {}

    def may_begin(self, part: Part, under_way: int) -> bool:
        """See Gate."""
        return self._spending.may_begin(self._rows_of(part), under_way * self._size)

    def check(self, part: Part) -> None:
        """See Gate; raises BudgetReached."""
        self._spending.check_part(self._rows_of(part))

    def _rows_of(self, part: Part) -> int:
        return self._failed.get(part.number, max(0, min(self._size, self._rows - part.number * self._size)))

    def done(self, summary: dict[str, Any]) -> None:
        """See Gate."""
        self._spending.heard(summary)
        new = summary.get(COMPUTED, summary)
        if "totals" in new:
            self._spending.part(new["rows"], new["totals"])

    def lost(self, heartbeats: Heartbeats) -> None:
        """See Gate; nothing is heard where Ray is gone, too."""
        from ray.exceptions import RayError

        try:
            self._spending.heard_all(heartbeats.all_spent())
        except (RayError, RuntimeError, OSError) as error:
            log.debug("what a worker has spent could not be read: %s", error)


def gate(rows: int = 0, rows_per_part: int = 1, failed: Mapping[int, int] | None = None) -> Gate:
    """The gate for the parts of a table of this process's run, or for a single call; outside of a run it is open.

    Arguments as for PartGate.
    """
    return Gate() if _spending is None else PartGate(_spending, rows, rows_per_part, failed)


_spending: Spending | None = None  # that of this process's run


@contextmanager
def counted(folder: str, limit: Budget) -> Iterator[Spending]:
    """Within the block, the spending of a run is counted."""
    global _spending  # noqa: PLW0603  # a process has one run, just as it has one Ray session
    outer, _spending = _spending, Spending(folder, limit)
    try:
        yield _spending
    finally:
        _spending._write()
        _spending = outer


def current() -> Spending | None:
    """The spending of this process's run; None outside of one."""
    return _spending


def check() -> None:
    """Raise BudgetReached where the budget of this process's run is used up; outside of a run there is none."""
    if _spending is not None:
        _spending.check()
