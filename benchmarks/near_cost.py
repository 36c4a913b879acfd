"""Table 1: hours and US$ of each method, learning once and naming 10,000 images, from what the run has recorded."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from near_print import Line, markdown, published
from near_rows import Row
from near_runs import Measured

from fgvr.report.costs import IMAGES


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
                        f"{fmean([one.preparation_hours + one.training_hours for one in costs]):.3f}",
                        f"{fmean([one.inference_hours for one in costs]):.3f}",
                        f"{fmean(usd):.3f}" if len(usd) == len(costs) else "unknown",
                    ),
                )
            )
        for model, texts in published()["table1"].get(row.published, {}).items():
            lines.append(Line(f"· paper, {model}", tuple(texts)))
    return markdown(title, ["learning h", f"h for {IMAGES:,} images", "US$"], lines)
