"""Estimates beside what stages took, as numbers and on the page."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest
from sample_report import content

from fgvr import storage
from fgvr.report.costs import Billing, Machine
from fgvr.report.estimates import FILE, Estimate, estimates_json, outcomes, read_estimates
from fgvr.report.page import render
from fgvr.report.prices import ModelPrice, Prices
from fgvr.report.results import StageResult

EXPECTED = {
    "answers": Estimate(100, 100, 102_200, 3_200, None, 0.2364, ""),
    "near": Estimate(100, seconds=60.0, source="a probe of 20 photos"),
    "never": Estimate(5),
}
TOOK = [
    StageResult("samples", 1.0, 120, 0),
    StageResult("answers", 36.0, 100, 0, tokens={"prompt_tokens": 90_000, "cached_tokens": 0, "output_tokens": 600}),
    StageResult("near", 90.0, 100, 0),
]


def test_estimates_are_kept_in_the_run_folder(tmp_path: Path) -> None:
    assert read_estimates(str(tmp_path)) == {}
    storage.write_bytes(storage.join(str(tmp_path), FILE), estimates_json(EXPECTED))
    assert read_estimates(str(tmp_path)) == EXPECTED


def test_money_is_reckoned_as_in_the_table_of_costs() -> None:
    prices = Prices(
        date=dt.date(2026, 1, 1), source="a list", models={"m": ModelPrice(input=2, output=10)}, cpu_hour=0.1
    )
    billing = Billing(prices, {"answers": "m"}, {"near": Machine(cpus=2, gpus=1)})
    found = outcomes(EXPECTED, TOOK, billing)
    assert [outcome.stage for outcome in found] == ["answers", "near"]
    # 90,000 × 2 + 600 × 10 millionths, and 36 s of a core at US$ 0.10 an hour; of the GPU the price is not known.
    assert found[0].usd == pytest.approx(0.186 + 0.001)
    assert found[1].usd is None


def test_the_page_shows_both_and_has_no_such_table_without_estimates() -> None:
    page = content()
    assert 'id="estimates"' not in render(page)
    found = outcomes(EXPECTED, TOOK, Billing())
    text = render(replace(page, outcomes=found, spent="Spent so far: US$ 1 of US$ 5 (run.budget)."))
    section = text.partition('id="estimates"')[2].partition("</section>")[0]
    for words in ("102,200", "90,000", "unknown", "1 min 0 s", "1 min 30 s", "a probe of 20 photos", "US$ 5"):
        assert words in section
