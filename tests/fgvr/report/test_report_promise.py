"""The report's promised precision: numbers by hand, and both pictures on the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from fgvr.calibration.promise import Promise, promise
from fgvr.report.page import render
from fgvr.report.promise import Prices, PromiseFacts, curve_drawing, promise_facts, reliability_drawing
from tests.fgvr.report.sample_report import content

SCRIPT = "<script>alert('x')</script>"


def facts(found: Promise, scores: np.ndarray, right: np.ndarray, pool: np.ndarray, **more: object) -> PromiseFacts:
    given = {
        "name": found.as_json(),
        "sentences": [found.sentence(), SCRIPT],
        "decided_by": {"student": 600, "tree": 0, "mllm": 50, "queue": 10, "none": 340},
        "confidence": 0.95,
        "prices": Prices(30.0, 1000.0),
    }
    return promise_facts(scores=scores, right=right, pool=pool, **(given | more))


def of_200() -> PromiseFacts:
    """200 checked photos with scores .0025 … .9975, the upper half of which is right; the pool has the same scores."""
    scores = (np.arange(200) + 0.5) / 200
    return facts(promise(scores, scores > 0.5, scores, target=0.8, error=0.05), scores, scores > 0.5, scores)


def test_curve_and_bins_by_hand() -> None:
    found = of_200()
    used = [point for point in found.curve if point.promised]
    assert len(used) == 1
    first, last = found.curve[0], found.curve[-1]
    assert (first.kept, first.precision, first.coverage) == (20, 1.0, pytest.approx(0.1))
    assert (last.kept, last.precision, last.coverage) == (200, 0.5, 1.0)
    exact = binomtest(100, 200).proportion_ci(method="exact")
    assert (last.low, last.high) == pytest.approx((exact.low, exact.high))
    # A tenth of the photos named for the price of all; the MLLM names the other nine tenths.
    assert first.usd_accepted == pytest.approx(300)
    assert first.usd_photos == pytest.approx(30 + 900)
    assert [each.photos for each in found.bins] == [20] * 10
    assert [each.right for each in found.bins] == [0] * 5 + [1] * 5
    assert [each.score for each in found.bins] == pytest.approx([0.05 + 0.1 * n for n in range(10)])
    # Of 15 bins the one around one half is right half the time, as it says. Below, the gap is the score: the integral
    # of s from 0 to 7/15 is (7/15)² / 2, and it is as much above.
    assert found.ece == pytest.approx((7 / 15) ** 2, abs=0.01)
    assert found.photos == 1000


def test_dots_stand_where_their_numbers_say() -> None:
    found = of_200()
    curve, bins = curve_drawing(found), reliability_drawing(found)
    assert curve.marks[-1].x == pytest.approx(300)  # all photos
    assert bins.marks[0].x == pytest.approx(40 + 0.05 * 260)
    assert bins.marks[0].y == pytest.approx(270)  # none right
    assert bins.marks[-1].y == pytest.approx(10)
    assert sum(mark.strong for mark in curve.marks) == 1
    for mark in [*curve.marks, *bins.marks]:
        assert 10 <= mark.high <= mark.y <= mark.low <= 270


def test_the_page_shows_it_and_programs_read_it() -> None:
    report = content()
    found = of_200()
    page = render(replace(report, results=replace(report.results, promise=found)))
    shown = page.partition('id="promise"')[2].partition("</section>")[0]
    assert SCRIPT not in page
    assert "&lt;script&gt;" in shown
    assert shown.count("<svg") == 2
    assert shown.count("<circle") == len(found.curve) + len(found.bins)
    assert "in use" in shown
    assert not re.search(r"nan|inf\b", shown)
    told = json.loads(replace(report.results, promise=found).to_json())["promise"]
    assert told["decided_by"]["student"] == 600
    assert told["curve"][0]["coverage"] == pytest.approx(0.1)
    assert 'id="promise"' not in render(report)
    assert "promise" not in json.loads(report.results.to_json())


def test_without_checked_photos_prices_or_a_promise_there_is_still_a_page() -> None:
    nothing = np.zeros(0)
    report = content()
    empty = facts(promise(nothing, nothing > 0, nothing, target=0.9, error=0.05), nothing, nothing > 0, nothing)
    assert (empty.curve, empty.bins, empty.ece) == ((), (), 0.0)
    page = render(replace(report, results=replace(report.results, promise=empty)))
    assert "cannot be promised" in page
    scores = np.full(100, 0.7)
    same = facts(
        promise(scores, scores < 0, scores, target=0.9, error=0.05), scores, scores < 0, scores, prices=Prices()
    )
    assert [point.usd_accepted for point in same.curve] == [None]
    assert "unknown" in render(replace(report, results=replace(report.results, promise=same)))
