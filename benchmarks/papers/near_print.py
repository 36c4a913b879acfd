"""The NeaR tables as text: mean ± standard deviation over seeds, the paper's numbers under their row; and figure 2."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import Line, markdown, mean_and_deviation
from benchmarks.papers.near_rows import Row
from benchmarks.papers.near_runs import Measured
from fgvr.report.costs import IMAGES
from fgvr.report.prices import money

PUBLISHED = Path(__file__).with_name("near_published.yaml")
COLUMNS = ("sacc", "cacc", "siou", "top1")
HEADS = {"sacc": "sACC", "cacc": "cACC", "siou": "sIoU", "top1": "top-1"}
FIVE = {"cub", "cars", "dogs", "flowers", "pets"}
"""The paper's data sets."""


def scores_table(
    title: str, table: str, rows: Sequence[Row], measured: Sequence[Sequence[Measured]], data_set: str
) -> str:
    """Each row over its seeds, and under it what the paper has for `data_set` in its table `table`."""
    lines = []
    for row, of_row in zip(rows, measured, strict=True):
        lines += [our_line(row, of_row), *published_lines(table, row, data_set)]
    return markdown(title, [HEADS[name] for name in COLUMNS], lines)


def our_line(row: Row, measured: Sequence[Measured]) -> Line:
    """A row over its seeds; the reason instead of numbers where a seed has none."""
    reasons = [one.reason for one in measured if one.reason]
    if reasons:
        return Line(row.label, across=f"not run: {reasons[0]}")
    return Line(row.label, tuple(mean_and_deviation([one.values[name] for one in measured]) for name in COLUMNS))


def published_lines(table: str, row: Row, data_set: str) -> list[Line]:
    """The paper's numbers for a row on a data set (`cub`, …, `average`); none for data sets that it does not have."""
    models: Mapping[str, Any] = published().get(f"table{table}", {}).get(row.published, {})
    lines = []
    for model, sets in models.items():
        if (numbers := sets.get(data_set)) is None:
            continue
        label = f"· paper, {model}"
        if isinstance(numbers, str):
            lines.append(Line(label, across=numbers))
        else:
            lines.append(Line(label, (*("–" if number is None else f"{number:.1f}" for number in numbers), "–")))
    return lines


def published() -> dict[str, Any]:
    """The paper's tables."""
    tables: dict[str, Any] = yaml.safe_load(PUBLISHED.read_text())
    return tables


def average(measured: Iterable[Sequence[Measured]]) -> list[Measured]:
    """Seed by seed, the mean over data sets; a row that a data set lacks has no average.

    Args:
        measured: for each data set the row at every seed.
    """
    means = []
    for of_seed in zip(*measured, strict=True):
        missing = [one.reason for one in of_seed if one.reason]
        if missing:
            means.append(Measured(reason=missing[0]))
            continue
        means.append(Measured({name: statistics.fmean([one.values[name] for one in of_seed]) for name in COLUMNS}))
    return means


def cost_table(title: str, rows: Sequence[Row], measured: Sequence[Sequence[Measured]]) -> str:
    """Table 1 of one data set, means over seeds; the paper's rows below ours are of other machines and MLLMs.

    Learning is what a method needs before the first image: the MLLM's names, CLIP's vectors of captions and words,
    training. US$ are unknown without a price file (`--set evaluate.prices=shipped`).
    """
    lines = []
    for row, of_row in zip(rows, measured, strict=True):
        reasons = [one.reason for one in of_row if one.reason]
        costs = [one.cost for one in of_row if one.cost is not None]
        if reasons:
            lines.append(Line(row.label, across=f"not run: {reasons[0]}"))
        else:
            usd = [one.usd for one in costs if one.usd is not None]
            lines.append(
                Line(
                    row.label,
                    (
                        f"{statistics.fmean([one.preparation_hours + one.training_hours for one in costs]):.3f}",
                        f"{statistics.fmean([one.inference_hours for one in costs]):.3f}",
                        money(statistics.fmean(usd)) if len(usd) == len(costs) else "unknown",
                    ),
                )
            )
        for model, texts in published()["table1"].get(row.published, {}).items():
            lines.append(Line(f"· paper, {model}", tuple(texts)))
    return markdown(title, ["learning h", f"h for {IMAGES:,} images", "US$"], lines)


DRAWN = ("sacc", "cacc")


def draw(file: Path, title: str, rows: Sequence[Row], found: Mapping[int, Sequence[Sequence[Measured]]]) -> None:
    """Write an SVG with one panel per metric and one line per row, ± one standard deviation shaded.

    Args:
        file: where to write.
        title: of the figure.
        rows: the methods.
        found: for each number of shots, each row at each seed; a row that could not be computed has no point.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(DRAWN), figsize=(9, 3.5), layout="constrained")
    for panel, metric in zip(panels, DRAWN, strict=True):
        for place, row in enumerate(rows):
            points = {m: [one.values[metric] for one in of_m[place] if not one.reason] for m, of_m in found.items()}
            points = {m: values for m, values in points.items() if values}
            if not points:
                continue
            means = [statistics.fmean(values) for values in points.values()]
            spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in points.values()]
            panel.plot(list(points), means, marker="o", markersize=3, label=row.label)
            low, high = ([mean + sign * one for mean, one in zip(means, spread, strict=True)] for sign in (-1, 1))
            panel.fill_between(list(points), low, high, alpha=0.15)
        panel.set(xlabel="unlabelled images per class", ylabel=f"{HEADS[metric]}, %", xticks=sorted(found))
    panels[0].legend(fontsize="small")
    figure.suptitle(title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    plt.close(figure)
