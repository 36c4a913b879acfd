"""Table 1: hours and US$ of each method, training once and naming 10,000 images, from what the run has recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from near_print import Line, markdown, published
from near_rows import Row
from near_runs import Measured

from fgvr.report.results import EVALUATION

IMAGES = 10_000


@dataclass(frozen=True)
class Hours:
    """Wall hours: `training` once, `inference` for 10,000 images."""

    training: float
    inference: float


def hours(measured: Measured, method: str) -> Hours:
    """Hours of one method at one seed.

    Tables named eval_… were computed for the evaluation images alone. Embeddings are of all samples: the evaluation
    images' share of their seconds is inference, the rest training. An MLLM that names each image learns nothing.
    """
    training = inference = 0.0
    for table in {table.uri: table for table in measured.tables}.values():
        if table.name.startswith(EVALUATION):
            inference += table.seconds
        elif table.name == "embeddings":
            share = measured.images / table.rows
            inference += share * table.seconds
            training += (1 - share) * table.seconds
        elif table.name != "samples":
            training += table.seconds
    if method == "mllm":
        training = 0.0
    return Hours(training / 3600, inference / 3600 * IMAGES / measured.images)


def cost_table(title: str, rows: Sequence[Row], measured: Sequence[Sequence[Measured]]) -> str:
    """Table 1 of one data set, means over seeds; the paper's rows below ours are of other machines and MLLMs."""
    lines = []
    for row, of_row in zip(rows, measured, strict=True):
        reasons = [one.reason for one in of_row if one.reason]
        if reasons:
            lines.append(Line(row.label, across=f"not run: {reasons[0]}"))
        else:
            taken = [hours(one, row.method) for one in of_row]
            means = [fmean([one.training for one in taken]), fmean([one.inference for one in taken])]
            lines.append(Line(row.label, tuple(f"{mean:.3f}" for mean in means)))
        for model, texts in published()["table1"].get(row.published, {}).items():
            lines.append(Line(f"· paper, {model}", tuple(texts[:2])))
    return markdown(title, ["training h", f"inference h of {IMAGES:,}"], lines)
