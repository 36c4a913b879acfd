"""The drawing of accuracy against cost: one dot per method or backbone, costs on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fgvr.evaluation.images import MethodResult
from fgvr.report.console import METHOD_TITLES
from fgvr.report.results import Costs

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 150, 14, 40
"""Margins in SVG units; the right one holds the name of the dearest method."""
LINE = 13
"""Height of a line of text: names keep at least this distance."""
LEAST_USD = 0.01
"""What costs less is drawn as costing this much: a logarithm has no zero."""


@dataclass(frozen=True)
class Dot:
    """A method: its place, the height of its name, and both numbers in words."""

    name: str
    x: float
    y: float
    text_y: float
    words: str


@dataclass(frozen=True)
class Tick:
    """A line of an axis with its number."""

    at: float
    text: str


@dataclass(frozen=True)
class Scatter:
    """The drawing; `missing` are methods without a known price, `x_title` names the axis of costs."""

    dots: list[Dot]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    missing: list[str]
    x_title: str = "US$ per million photos (logarithmic)"
    label: str = "Top-1 of each method against its cost for a million photos"


def scatter(methods: Mapping[str, MethodResult], costs: Costs | None) -> Scatter | None:
    """Top-1 of each method against its cost for a million photos; None where fewer than two have both."""
    if costs is None:
        return None
    scored = {name: each.scores.top1 for name, each in methods.items() if each.scores is not None}
    priced = {
        name: costs.methods[name].usd_million
        for name in scored
        if name in costs.methods and costs.methods[name].usd_million is not None and not costs.methods[name].is_start_up
    }
    usd = {name: max(LEAST_USD, value) for name, value in priced.items() if value is not None}
    if len(usd) < 2:
        return None
    points = {METHOD_TITLES.get(name, name): (value, scored[name]) for name, value in usd.items()}
    missing = [METHOD_TITLES.get(name, name) for name in scored if name not in usd]
    return drawn(points, lambda value: f"US$ {in_usd(value)} per million photos", missing=missing)


def drawn(
    points: Mapping[str, tuple[float, float]],
    in_words: Callable[[float], str],
    *,
    missing: list[str],
    x_title: str = Scatter.x_title,
    label: str = Scatter.label,
) -> Scatter:
    """The drawing of at least one point.

    Args:
        points: name → cost, which is above 0, and top-1 in percent.
        in_words: a cost with its unit.
        missing: names that have no point.
        x_title: of the axis of costs.
        label: what the drawing shows, for readers who cannot see it.
    """
    costs, scores = [cost for cost, _ in points.values()], [top1 for _, top1 in points.values()]
    first = math.floor(math.log10(min(costs)))
    last = max(math.ceil(math.log10(max(costs))), first + 1)
    bottom = 10 * math.floor(min(scores) / 10)
    top = max(10 * math.ceil(max(scores) / 10), bottom + 10)

    def x_of(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(value) - first) / (last - first)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bottom) / (top - bottom)

    dots = []
    for name, (value, top1) in points.items():
        words = f"{top1:.1f} % top-1, {in_words(value)}"
        dots.append(Dot(name, x_of(value), y_of(top1), y_of(top1) + 4, words))
    every = max(1, (last - first) // 6)
    step = 20 if top - bottom > 50 else 10
    return Scatter(
        _apart(dots),
        [Tick(x_of(10.0**power), in_usd(10.0**power)) for power in range(first, last + 1, every)],
        [Tick(y_of(value), str(value)) for value in range(bottom, top + 1, step)],
        missing,
        x_title,
        label,
    )


def in_usd(value: float) -> str:
    """US$ for a drawing, in which two digits are enough: 0.05, 1.3, 42, 1,200 (`prices.money` is for tables)."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _apart(dots: list[Dot]) -> list[Dot]:
    """The dots from top to bottom, their names moved down where two would lie over each other."""
    placed: list[Dot] = []
    for dot in sorted(dots, key=lambda each: each.y):
        height = dot.text_y
        for other in placed:
            beside = abs(other.x - dot.x) < RIGHT
            if beside and height - other.text_y < LINE:
                height = other.text_y + LINE
        placed.append(Dot(dot.name, dot.x, dot.y, height, dot.words))
    return placed
