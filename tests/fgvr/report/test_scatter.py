"""Accuracy against cost: places by hand, names apart, and methods without a price."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from fgvr.evaluation.images import MethodResult
from fgvr.report.costs import Billing, Paid, method_costs
from fgvr.report.prices import Prices
from fgvr.report.results import Costs, MethodCost, StageResult
from fgvr.report.scatter import BOTTOM, HEIGHT, LEFT, LINE, RIGHT, TOP, WIDTH, in_usd, scatter


def results(**top1: float | None) -> dict[str, MethodResult]:
    def scores(value: float | None) -> Any:
        return None if value is None else SimpleNamespace(top1=value)

    return {name: MethodResult(10, 0, 3, scores(value)) for name, value in top1.items()}


def costs(**usd: float | None) -> Costs:
    return Costs(10_000, {name: MethodCost(0, 0, 0, None, (), value) for name, value in usd.items()})


def test_dots_lie_where_their_numbers_say() -> None:
    found = scatter(results(mllm=65.0, near=90.0), costs(mllm=1000.0, near=1.0))
    assert found is not None
    near, mllm = found.dots  # from top to bottom
    assert (near.name, near.x, near.y) == ("NeaR", LEFT, TOP)
    assert mllm.x == pytest.approx(WIDTH - RIGHT)
    assert mllm.y == pytest.approx(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * 5 / 30)
    assert mllm.words == "65.0 % top-1, US$ 1,000 per million photos"
    assert [tick.text for tick in found.x_ticks] == ["1", "10", "100", "1,000"]
    assert [tick.text for tick in found.y_ticks] == ["60", "70", "80", "90"]


def test_names_do_not_lie_over_each_other() -> None:
    found = scatter(results(base=60.0, makd=60.2, near=60.4), costs(base=1.0, makd=1.05, near=1.1))
    assert found is not None
    heights = [dot.text_y for dot in found.dots]
    assert all(later - earlier >= LINE for earlier, later in itertools.pairwise(heights))


def test_without_a_price_a_score_or_a_second_method() -> None:
    found = scatter(results(mllm=65.0, near=90.0, base=50.0), costs(mllm=10.0, near=1.0, base=None))
    assert found is not None
    assert found.missing == ["Student"]
    assert scatter(results(mllm=65.0, near=90.0), costs(mllm=10.0, near=None)) is None
    assert scatter(results(mllm=None, near=None), costs(mllm=10.0, near=1.0)) is None
    assert scatter(results(mllm=65.0), None) is None
    free = scatter(results(mllm=65.0, near=65.0), costs(mllm=0.0, near=0.0))
    assert free is not None  # drawn at a cent, and neither axis is empty
    assert len(free.x_ticks) >= 2


def test_a_million_photos_by_hand() -> None:
    stages = [StageResult("near", 3600, 100, 0), StageResult("predictions", 36, 1000, 0)]
    money = Billing(Prices.model_validate({"date": "2026-01-01", "source": "a list", "cpu_hour": 0.5}))
    found = method_costs({"near": Paid((), ("near",), ("predictions",))}, stages, money).methods["near"]
    assert found.usd == pytest.approx(0.5 + 0.005 * 10)
    assert found.usd_million == pytest.approx(0.5 + 0.005 * 1000)


def test_us_dollars_in_words() -> None:
    assert [in_usd(value) for value in (0.05, 1.29, 10, 42.4, 1200)] == ["0.05", "1.3", "10", "42", "1,200"]
