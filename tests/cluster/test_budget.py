"""What a run has spent, by hand from tokens and prices; and when its budget lets no further part begin."""

import datetime as dt
import json
import time
from pathlib import Path

import pytest

from cluster import budget
from cluster.budget import Amount, BudgetReached, PartGate, Spending, StageCost, counted
from cluster.part_actor import COMPUTED
from cluster.pool import Part
from fgvr import spending, storage
from fgvr.config.run import Budget
from fgvr.report.prices import ModelPrice, Prices
from fgvr.spending import SPENT, Tokens

PRICES = Prices(
    date=dt.date(2026, 1, 1),
    source="a list",
    models={"small": ModelPrice(input=2, cached=1, output=10)},
    gpu_hour=3,
    cpu_hour=0.1,
)


def told(process: str, requests: int, *, prompt: int = 1000, cached: int = 400, output: int = 50) -> dict[str, object]:
    """The sums of a worker after so many equal replies."""
    sums = Tokens(requests, requests * prompt, requests * cached, requests * output)
    return {"process": process, "models": {"small": sums.as_json()}}


def spent(folder: Path, limit: Budget, **cost: float) -> Spending:
    made = Spending(str(folder), limit)
    made.prices = PRICES
    made.costs = {"answers": StageCost(model="small", **cost)}
    return made


def test_a_process_counts_replies_by_model_and_not_what_it_was_told_before() -> None:
    spending.begin()
    spending.pay("small", 1000, 400, 50)
    spending.pay("small", 1000, None, 50)
    spending.pay("other", None, None, None)
    assert spending.paid() == {"small": Tokens(2, 2000, 400, 100), "other": Tokens(1, uncounted=1)}
    first = spending.told()
    spending.begin()
    assert spending.told() == {}
    spending.pay("small", 1, 0, 1)
    assert spending.told()["process"] != first["process"]


def test_sums_of_processes_are_added_once_however_often_they_are_heard(tmp_path: Path) -> None:
    made = spent(tmp_path, Budget())
    made.heard({SPENT: told("a", 3)})
    made.heard({SPENT: told("a", 3)})
    made.heard_all([json.dumps(told("a", 2)), json.dumps(told("b", 1))])  # an old heartbeat, and that of a dead worker
    made.heard({"rows": 5})
    # 4 replies: 600 new and 400 cached prompt tokens, 50 of the answer: 1200 + 400 + 500 millionths of a dollar.
    assert made.ledger.models["small"] == Tokens(4, 4000, 1600, 200)
    assert made.spent.usd == pytest.approx(4 * 2100e-6)
    assert made.spent.tokens == 4200


def test_the_sums_of_all_sessions_count_and_machines_by_the_hour(tmp_path: Path) -> None:
    with counted(str(tmp_path), Budget(usd=1)) as first:
        first.heard({SPENT: told("a", 3)})
        first.ledger.seconds["near"] = 1800
    with counted(str(tmp_path), Budget(usd=1)) as second:
        second.prices = PRICES
        second.costs = {"near": StageCost(usd_per_second=3 / 3600)}
        second.heard({SPENT: told("of another session", 1)})
        assert second.spent.usd == pytest.approx(4 * 2100e-6 + 1.5)
        with second.over("near"), pytest.raises(BudgetReached, match=r"US\$ 1.51 of US\$ 1 are spent"):
            second.check()
    assert budget.current() is None
    budget.check()  # outside of a run there is no budget


def test_a_part_begins_only_if_it_ends_within_the_budget_with_those_under_way(tmp_path: Path) -> None:
    # A row is expected to take 1,050 tokens, a part of ten 10,500.
    made = spent(tmp_path, Budget(tokens=25_000), requests=1, prompt=1000, output=50)
    with made.over("answers"):
        assert made.may_begin(10, 0)
        assert made.may_begin(10, 10)
        assert not made.may_begin(10, 20)  # 31,500
        gate = PartGate(made, 36, 10)
        gate.done({"rows": 10, "totals": {"prompt_tokens": 10_000}, SPENT: told("a", 10)})
        assert made.spent.tokens == 10_500
        assert gate.may_begin(Part(1), 0)
        assert not gate.may_begin(Part(1), 1)
        gate.done({"rows": 10, "totals": {}, SPENT: told("a", 20)})
        with pytest.raises(BudgetReached) as stopped:
            gate.check(Part(1))
        assert made.may_begin(3, 0)  # the last part of a table may be smaller
    words = str(stopped.value)
    assert "21,000 tokens of 25,000 tokens are spent" in words
    assert "a further part of 10 rows of answers would cost about 10,500 tokens" in words
    assert "at least --run.budget.tokens 31500" in words
    assert BudgetReached.status == 3


def test_of_a_part_that_is_tried_again_only_its_failed_rows_count(tmp_path: Path) -> None:
    made = spent(tmp_path, Budget(tokens=5_000), requests=1, prompt=1000, output=50)
    with made.over("answers"):
        gate = PartGate(made, 36, 10, {1: 2})
        gate.check(Part(1, again=True))  # 2,100
        with pytest.raises(BudgetReached):
            gate.check(Part(0))


def test_what_parts_have_cost_replaces_the_estimate_and_the_dearest_counts(tmp_path: Path) -> None:
    made = spent(tmp_path, Budget(usd=0.1), requests=1, prompt=1000, output=50)
    with made.over("answers"):
        gate = PartGate(made, 36, 10)
        gate.done({"rows": 10, "totals": {}, SPENT: told("a", 10, prompt=100, cached=0, output=0)})
        assert made._row().usd == pytest.approx(200e-6)  # and not the estimate, 2,500
        gate.done({"rows": 10, "totals": {}, SPENT: {**told("b", 10, prompt=600, cached=0, output=0)}})
        assert made._row().usd == pytest.approx(1200e-6)
        gate.done({"rows": 10, "totals": {}})  # all of its replies had been kept
        assert made._row().usd == pytest.approx(1200e-6)


def test_before_anything_was_paid_for_the_estimate_counts_and_kept_replies_cost_nothing(tmp_path: Path) -> None:
    made = spent(tmp_path, Budget(tokens=1_000), requests=1, prompt=1000, output=50)
    with made.over("answers"):
        with pytest.raises(BudgetReached, match="0 tokens of 1,000 tokens are spent"):
            made.check_part(1)  # the budget is smaller than one request
        made.costs["answers"] = StageCost(model="small")  # as the bill says where every reply is kept
        assert made.may_begin(10, 50)


def test_replies_without_token_counts_are_not_free(tmp_path: Path) -> None:
    made = spent(tmp_path, Budget(tokens=10_000), requests=2, prompt=1000, output=50)
    uncounted = {"process": "a", "models": {"small": Tokens(3, uncounted=3).as_json()}}
    with made.over("answers"):
        made.heard({SPENT: uncounted})
    assert made.ledger.models["small"] == Tokens(3, 1500, 0, 75, 3)  # half a row's load for each request


def test_tokens_of_an_engine_count_by_rows_that_were_computed_now(tmp_path: Path) -> None:
    made = Spending(str(tmp_path), Budget(tokens=100))
    made.costs = {"aspects": StageCost()}
    with made.over("aspects"):
        gate = PartGate(made, 8, 4)
        new = {"rows": 1, "totals": {"prompt_tokens": 30, "output_tokens": 2}}
        gate.done({"rows": 4, "totals": {"prompt_tokens": 120, "output_tokens": 8}, COMPUTED: new})
        assert made.spent.tokens == 32
        # 32 for each of four rows, beside the 32 that are spent.
        with pytest.raises(BudgetReached):
            gate.check(Part(1))


def test_loading_a_model_is_not_taken_for_the_cost_of_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    made = Spending(str(tmp_path), Budget(usd=100))
    made.prices, made.costs = PRICES, {"aspects": StageCost(usd_per_second=1.0)}
    with made.over("aspects"):
        gate = PartGate(made, 36, 10)
        for arrives in (60.0, 65.0, 70.0):  # a minute for the model and the first part
            now[0] = arrives
            gate.done({"rows": 10, "totals": {}})
        assert made._row() == Amount(usd=0.5)
        assert made.spent.usd == 70
        assert gate.may_begin(Part(1), 4)
        assert not gate.may_begin(Part(1), 6)


def test_a_stage_in_one_piece_is_refused_if_its_estimate_is_too_high(tmp_path: Path) -> None:
    made = spent(tmp_path, Budget(usd=2))
    made.costs["makd"] = StageCost(usd_per_second=0.001, seconds=3.0, rows=1000)
    with made.over("makd"), pytest.raises(BudgetReached, match=r"all of makd would cost about US\$ 3"):
        made.check_whole()
    made.costs["makd"] = StageCost(usd_per_second=0.001)  # nothing is known: it may begin, and is watched
    with made.over("makd"):
        made.check_whole()
    made.ledger.seconds["makd"] = 2001.0
    with made.over("makd"), pytest.raises(BudgetReached, match="all of makd would cost more"):
        made.check_whole()


def test_what_costs_nothing_goes_on_without_anything_left(tmp_path: Path) -> None:
    made = spent(tmp_path, Budget(tokens=1000))
    made.heard({SPENT: told("a", 1)})  # 1,050 tokens: the last part was dearer than expected
    made.costs |= {"labels": StageCost(), "embeddings": StageCost(usd_per_second=1.0)}
    for stage in ("labels", "embeddings"):
        with made.over(stage):
            made.check_whole()
            made.check()
            made.check_part(1000)


def test_without_a_budget_everything_is_counted_and_nothing_stopped(tmp_path: Path) -> None:
    with counted(str(tmp_path), Budget()) as made, made.over("answers"):
        gate = budget.gate(36, 10)
        gate.done({"rows": 10, "totals": {}, SPENT: told("a", 10)})
        assert gate.may_begin(Part(1), 1000)
        made.check_whole()
        made.check()
    kept = json.loads(storage.read_bytes(storage.join(str(tmp_path), budget.FILE)))
    assert kept["models"]["small"]["requests"] == 10
    assert set(kept["seconds"]) == {"answers"}
    assert type(budget.gate(36, 10)) is budget.Gate
