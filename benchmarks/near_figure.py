"""Figure 2: scores by the number of unlabelled images a class."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from near_print import HEADS
from near_rows import Row
from near_runs import Measured

DRAWN = ("sacc", "cacc")


def draw(file: Path, title: str, rows: Sequence[Row], found: Mapping[int, Sequence[Sequence[Measured]]]) -> None:
    """Write an SVG with a panel a metric: a line a row, ± one standard deviation shaded.

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
        panel.set(xlabel="unlabelled images a class", ylabel=f"{HEADS[metric]}, %", xticks=sorted(found))
    panels[0].legend(fontsize="small")
    figure.suptitle(title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    plt.close(figure)
