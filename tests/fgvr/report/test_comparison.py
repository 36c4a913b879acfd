"""The tables, the drawing and the page of a comparison of backbones, from rows made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fgvr.compare.choice import Budget
from fgvr.compare.rows import OUTCOMES
from fgvr.report.comparison import ComparisonPage, page_of
from fgvr.schemas import COMPARISON

HOSTILE = "<script>alert(1)</script>"
COSTS = {"parameters": 2.5e6, "macs": 1.5e8, "ms_batch1": 3.0, "ms_batch64": 0.5, "memory_mib": 80.0, "train_ms": 4.0}


def row(model: str, seed: int, source: str, metric: str, value: float | None, note: str = "") -> dict[str, Any]:
    values = (model, seed, source, metric, value, None, None, note or None)
    return dict(zip(COMPARISON.names, values, strict=True))


def page() -> ComparisonPage:
    """Two backbones of two trainings each on two sources, and one that never could be trained."""
    rows, outcomes = [], []
    hits = {"dear": ((1, 1, 1, 0), (1, 1, 0, 0)), "cheap": ((1, 1, 0, 0), (1, 0, 0, 1))}
    for model, scale in (("dear", 4.0), ("cheap", 1.0)):
        for seed in (0, 1):
            for source in ("test", "shop = B"):
                rows.append(row(model, seed, source, "top1", 25.0 * sum(hits[model][seed])))
                rows.append(row(model, seed, source, "photos", 4.0, "1 could not be read"))
                for photo, hit in enumerate(hits[model][seed]):
                    rank = 0 if hit else -1
                    outcomes.append(dict(zip(OUTCOMES.names, (model, seed, source, photo, rank, "a"), strict=True)))
        rows += [row(model, 0, "", name, scale * value) for name, value in COSTS.items()]
    rows += [row("odd", seed, source, "top1", None, HOSTILE) for seed in (0, 1) for source in ("test", "shop = B")]
    return page_of(
        "mine",
        pa.Table.from_pylist(rows, schema=COMPARISON),
        pa.Table.from_pylist(outcomes, schema=OUTCOMES),
        Budget(ms=10),
        conditions=[("input", "64 px")],
        remarks=[HOSTILE],
    )


def test_lines_have_means_over_trainings_and_costs_in_their_units() -> None:
    dear, cheap, odd = page().lines
    top1 = dear.quality["test"]["top1"]
    assert (top1.value, round(top1.deviation or 0, 3)) == (62.5, round(float(np.std([75, 50], ddof=1)), 3))
    assert (dear.costs["parameters"].value, dear.costs["macs"].value) == pytest.approx((10, 0.6))
    assert cheap.costs["ms_batch64"].short() == "0.5"
    assert odd.failed == (f"2 of 2 trainings failed: {HOSTILE}",)


def test_the_last_source_decides_and_four_photos_show_no_difference() -> None:
    choice = page().choice
    assert choice is not None
    assert (choice.best, choice.model) == ("dear", "cheap")
    assert "cheap is not shown to be worse" in choice.words


def test_the_drawing_has_a_dot_per_trained_backbone() -> None:
    scatter = page().scatter
    assert scatter is not None
    assert {dot.name: dot.words for dot in scatter.dots} == {
        "dear": "62.5 % top-1, 2 ms per photo",
        "cheap": "50.0 % top-1, 0.5 ms per photo",
    }
    assert scatter.missing == ["odd"]
    cheap, dear = sorted(scatter.dots, key=lambda dot: dot.x)
    assert cheap.name == "cheap"
    assert dear.y < cheap.y  # higher on the page


def test_page_and_console_escape_and_tell_what_failed() -> None:
    html, text = page().to_html(), page().to_text()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 2
    assert "<svg" in html
    for word in ("recommended", "odd", "1 could not be read", "64 px", "Gradient activity"):
        assert word in html
    assert "on shop = B" in text
    assert "odd: 2 of 2 trainings failed" in text
    assert text.splitlines()[-1] == (page().choice.words if page().choice else "")
