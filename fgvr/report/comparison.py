"""The comparison of backbones for people: lines per backbone, the console's tables, and the page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fgvr.compare.choice import Budget, Candidate, Choice, choose, in_words
from fgvr.redact import printable
from fgvr.report.page import render_page
from fgvr.report.scatter import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scatter, drawn

QUALITY = {"top1": "top-1", "top5": "top-5", "macro_f1": "macro-F1", "silhouette": "silhouette"}
COSTS = {
    "parameters": "M weights",
    "macs": "GMAC",
    "ms_batch1": "ms, batch 1",
    "ms_batch64": "ms, batch 64",
    "memory_mib": "MiB",
    "train_ms": "train ms",
}
GRADIENTS = {"gradient_early": "early", "gradient_middle": "middle", "gradient_late": "late"}
MEANINGS = {
    "top-1, top-5": "share of test photos whose true name is the best, or among the five best, in percent",
    "macro-F1": "F1 averaged over the classes of the test photos, so that rare ones count as much, in percent",
    "silhouette": "how far classes are apart in the network's last layer, −1 to 1; 0: not at all",
    "M weights, GMAC": "millions of weights; billions of multiply-adds per photo",
    "ms": "milliseconds per photo in inference, alone and in batches of 64, the file's reading left out",
    "MiB": "peak memory of a batch of 64: on a GPU all that is allocated, on a CPU the rise of a fresh process",
    "train ms": "milliseconds per photo and epoch in training",
    "gradient activity": "mean |gradient| over mean |weight| in the early, middle and late third of the layers",
}
SCALES = {"parameters": 1e-6, "macs": 1e-9}
UNITS = {"ms": "ms per photo, batches of 64", "params": "weights", "gmacs": "GMAC per photo"}


@dataclass(frozen=True)
class Cell:
    """A measure over the trainings of a backbone: mean (costs: median), standard deviation, and what is to be said."""

    value: float | None
    deviation: float | None = None
    note: str = ""

    def text(self, digits: int = 1) -> str:
        """The number, with ± where several trainings differ; – without one."""
        if self.value is None:
            return "–"
        spread = "" if not self.deviation else f" ± {self.deviation:.{digits}f}"
        return f"{self.value:.{digits}f}{spread}"

    def short(self) -> str:
        """The number of a cost, three digits."""
        return "–" if self.value is None else f"{self.value:.3g}"


@dataclass(frozen=True)
class Line:
    """A backbone.

    Attributes:
        model: its name.
        quality: source → metric → what came out.
        costs: metric → what came out, gradient activity included.
        failed: reasons of trainings that failed, with their number.
        seeds: number of trainings.
    """

    model: str
    quality: Mapping[str, Mapping[str, Cell]]
    costs: Mapping[str, Cell]
    failed: tuple[str, ...]
    seeds: int


@dataclass(frozen=True)
class ComparisonPage:
    """What the page shows.

    Attributes:
        run: name of the run.
        lines: the backbones, in the order of the config.
        sources: of the test photos; the last one decides.
        conditions: what was equal for all: (what, value) pairs.
        remarks: what a reader must know.
        choice: the recommendation; None where no backbone was trained whole.
        scatter: the drawing; None without two points.
    """

    run: str
    lines: Sequence[Line]
    sources: Sequence[str]
    conditions: Sequence[tuple[str, str]]
    remarks: Sequence[str]
    choice: Choice | None
    scatter: Scatter | None

    def to_html(self) -> str:
        """The page, complete in one file, without scripts."""
        return render_page(
            "comparison.html",
            page=self,
            quality=QUALITY,
            costs=COSTS,
            gradients=GRADIENTS,
            meanings=MEANINGS,
            scatter=self.scatter,
            sides=(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
        )

    def to_text(self) -> str:
        """The tables for a console, and the recommendation."""
        width = max([len("backbone"), *(len(line.model) for line in self.lines)])
        said = []
        for source in self.sources:
            said += ["", f"on {source}", f"{'backbone':{width}}" + "".join(f"{each:>16}" for each in QUALITY.values())]
            for line in self.lines:
                cells = line.quality.get(source, {})
                texts = [cells[name].text(_digits(name)) if name in cells else "–" for name in QUALITY]
                said.append(f"{printable(line.model):{width}}" + "".join(f"{text:>16}" for text in texts))
        said += ["", f"{'backbone':{width}}" + "".join(f"{each:>14}" for each in COSTS.values())]
        for line in self.lines:
            texts = [line.costs[name].short() if name in line.costs else "–" for name in COSTS]
            said.append(f"{printable(line.model):{width}}" + "".join(f"{text:>14}" for text in texts))
        said += [f"{line.model}: {printable(reason)}" for line in self.lines for reason in line.failed]
        said += ["", *self.remarks]
        if self.choice is not None:
            said.append(self.choice.words)
        return "\n".join(said)


def _digits(metric: str) -> int:
    return 3 if metric == "silhouette" else 1


def page_of(
    run: str,
    rows: pa.Table,
    outcomes: pa.Table,
    budget: Budget,
    *,
    conditions: Sequence[tuple[str, str]],
    remarks: Sequence[str],
) -> ComparisonPage:
    """The comparison from its table and its outcomes.

    Args:
        run: name of the run.
        rows: of schemas.COMPARISON.
        outcomes: `model`, `seed`, `source`, `image_id` and `rank`, a row per training and test photo.
        budget: what a backbone may cost.
        conditions: what was equal for all.
        remarks: what a reader must know.
    """
    found = rows.to_pylist()
    sources = [name for name in dict.fromkeys(row["source"] for row in found) if name]
    lines = [_line(model, [row for row in found if row["model"] == model]) for model in _models(found)]
    whole = [line for line in lines if not line.failed]
    candidates = [_candidate(line, outcomes, sources[-1]) for line in whole] if sources else []
    choice = choose(candidates, budget) if candidates else None
    unit = budget.unit
    drawing = None
    if len(candidates) > 1:
        drawing = drawn(
            {each.model: (float(getattr(each, unit)), each.top1) for each in candidates},
            lambda value: in_words(unit, value),
            missing=[line.model for line in lines if line.failed],
            x_title=f"{UNITS[unit]} (logarithmic)",
            label="Top-1 of each backbone against its cost",
        )
    left = [f"{line.model} is not recommended, since trainings of it failed." for line in lines if line.failed]
    return ComparisonPage(run, lines, sources, conditions, [*remarks, *left], choice, drawing)


def _models(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(str(row["model"]) for row in rows))


def _line(model: str, rows: Sequence[Mapping[str, object]]) -> Line:
    quality: dict[str, dict[str, Cell]] = {}
    costs: dict[str, Cell] = {}
    for source, metric in dict.fromkeys((str(row["source"]), str(row["metric"])) for row in rows):
        mine = [row for row in rows if row["source"] == source and row["metric"] == metric]
        values = [float(str(row["value"])) for row in mine if row["value"] is not None]
        notes = ", ".join(dict.fromkeys(str(row["note"]) for row in mine if row["note"]))
        if source:
            spread = statistics.stdev(values) if len(values) > 1 else None
            quality.setdefault(source, {})[metric] = Cell(statistics.mean(values) if values else None, spread, notes)
        else:
            value = statistics.median(values) * SCALES.get(metric, 1) if values else None
            costs[metric] = Cell(value, note=notes)
    seeds = len({row["seed"] for row in rows})
    lost = [row for row in rows if row["metric"] == "top1" and row["value"] is None]
    reasons = dict.fromkeys(str(row["note"]) for row in lost)
    failed = tuple(
        f"{len({row['seed'] for row in lost if row['note'] == reason})} of {seeds} trainings failed: {reason}"
        for reason in reasons
    )
    return Line(model, quality, costs, failed, seeds)


def _candidate(line: Line, outcomes: pa.Table, source: str) -> Candidate:
    """The hits of all trainings of a backbone, in the order of the photos."""
    place = np.array(outcomes["model"].to_pylist()) == line.model
    place &= np.array(outcomes["source"].to_pylist()) == source
    rows = outcomes.filter(pa.array(place)).sort_by([("seed", "ascending"), ("image_id", "ascending")])
    seeds = len(set(rows["seed"].to_pylist()))
    hits = (rows["rank"].to_numpy() == 0).astype(np.float64).reshape(seeds, -1)
    costs = line.costs
    return Candidate(
        line.model,
        hits,
        ms=costs["ms_batch64"].value or 0.0,
        params=1e6 * (costs["parameters"].value or 0.0),
        gmacs=costs["macs"].value or 0.0,
    )
