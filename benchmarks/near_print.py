"""The tables as text: our mean ± standard deviation over seeds, the paper's numbers under their row."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from near_rows import Row
from near_runs import Measured

PUBLISHED = Path(__file__).with_name("near_published.yaml")
COLUMNS = ("sacc", "cacc", "siou", "top1")
HEADS = {"sacc": "sACC", "cacc": "cACC", "siou": "sIoU", "top1": "top-1"}
FIVE = {"cub", "cars", "dogs", "flowers", "pets"}
"""The paper's data sets."""


@dataclass(frozen=True)
class Line:
    """A line of a table: its label, and a text for each column; or one text across them all."""

    label: str
    cells: tuple[str, ...] = ()
    across: str = ""


def mean_and_deviation(values: Sequence[float]) -> str:
    """`92.7 ± 0.9`: mean and sample standard deviation (n − 1); without ± for a single value."""
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


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


def markdown(title: str, heads: Sequence[str], lines: Sequence[Line]) -> str:
    """A Markdown table that is also readable as it is."""
    rows = [
        (title, *heads),
        *((line.label, *(line.cells or (line.across, *[""] * (len(heads) - 1)))) for line in lines),
    ]
    across = {number for number, line in enumerate(lines, start=1) if line.across}
    widths = [
        max(len(row[place]) for number, row in enumerate(rows) if not (place and number in across))
        for place in range(len(heads) + 1)
    ]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]]) + "\n"
