"""The bill before the start: what each stage still has to ask a model or to compute, and what that will cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fgvr.mllm.backend import ASSUMED_BILLIONS
from fgvr.mllm.request_tokens import UNKNOWN_IMAGE
from fgvr.report.prices import money
from pipelines.asks import Ask, Load, Task
from pipelines.photo_counts import Photos
from pipelines.rates import HERE, NAMES_A_SECOND, QUESTIONS_50_A_SECOND

ASSUMED = "assumed"
"""Where the hours of a line come from that nobody measured."""
NOTICED_SECONDS, NOTICED_USD = 600.0, 1.0
"""Below both of these there is no warning that naming every photo would be cheaper."""


@dataclass(frozen=True)
class Line:
    """What one stage still has to ask.

    Attributes:
        ask: the stage.
        rows: missing rows; None: not known yet.
        load: of all missing rows.
        seconds: wall time; None: unknown.
        usd: cost; None: unknown.
        source: where the time comes from: `HERE`, a probe's words, or `ASSUMED`.
    """

    ask: Ask
    rows: int
    load: Load
    seconds: float | None
    usd: float | None
    source: str = ASSUMED

    @property
    def measured(self) -> bool:
        """Whether the time comes from a rate measured in this run."""
        return self.source == HERE


@dataclass(frozen=True)
class WorkLine:
    """What a stage without a model still has to compute.

    Attributes:
        task: the stage.
        rows: missing images.
        epochs: passes over them that are left.
        seconds: wall time; None: unknown.
        usd: cost of the machines; None: unknown.
        source: where the time comes from; "" where it is unknown.
    """

    task: Task
    rows: int
    epochs: float
    seconds: float | None = None
    usd: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Bill:
    """Everything that a run still has to ask.

    Attributes:
        lines: stages with something left to ask, in the order of a run.
        naming_all: the line for naming every photo once, for comparison.
        photos: number of photos in the samples.
        prices: date and source of the prices.
        image_tokens: prompt tokens of the MLLM per photo; None: unknown, so a number is assumed.
        free: whether nothing here costs money: the demo's tiny model, or simulated models.
        works: stages without a model that still have something to compute.
        currency: what is said of the currency of the prices; "" where the file states US$.
    """

    lines: tuple[Line, ...]
    naming_all: Line
    photos: Photos
    prices: str
    image_tokens: int | None
    free: bool
    works: tuple[WorkLine, ...] = field(default_factory=tuple)
    currency: str = ""

    @property
    def load(self) -> Load:
        """Total load of all stages."""
        return sum((line.load for line in self.lines), Load())

    @property
    def seconds(self) -> float | None:
        """Total time of all stages, one after the other; None where one of them is unknown."""
        return _sum([line.seconds for line in self.lines])

    @property
    def usd(self) -> float | None:
        """Total cost of all stages; None where one of them is unknown."""
        return _sum([line.usd for line in self.lines])

    def table(self) -> list[str]:
        """The bill as lines for the console."""
        if not self.lines:
            return ["nothing is left to ask a model"]
        if self.free:
            stages = ", ".join(f"{line.ask.stage} {line.load.requests:,.0f}" for line in self.lines)
            return [f"requests to come: {stages} ({_who(self.lines)})"]
        return [*_aligned(self._asked()), *self._notes()]

    def page(self) -> list[str]:
        """The bill with every stage, those that ask nothing and those that cost nothing included."""
        if not self.lines and not self.works:
            return ["nothing is left to do that takes long"]
        said = self.table() if self.free and self.lines else []
        asked = self._asked() if self.lines else [_TITLES]
        rows = [*asked, *(_work_cells(line) for line in self.works)]
        if self.works:
            seconds = [line.seconds for line in self.lines] + [line.seconds for line in self.works]
            usd = [line.usd for line in self.lines] + [line.usd for line in self.works]
            rows.append(("all stages", "", "", "", "", _at_least(seconds, _hours), _at_least(usd, money)))
        return [*said, *_aligned(rows), *self._notes(), *self._sources()]

    def _asked(self) -> list[tuple[str, ...]]:
        rows = [_TITLES, *(_cells(line.ask.stage, line) for line in self.lines)]
        if len(self.lines) > 1:
            every = Line(self.lines[0].ask, 0, self.load, self.seconds, self.usd)
            rows.append(("together", "", *_cells("", every)[2:]))
        return [*rows, _cells("instead: name all photos", self.naming_all)]

    def _sources(self) -> list[str]:
        """Where the hours come from, for each source the stages; and how to know those that are not known."""
        found: dict[str, list[str]] = {}
        for name, line in [(line.ask.stage, line) for line in self.lines if line.source != ASSUMED] + [
            (line.task.stage, line) for line in self.works
        ]:
            found.setdefault(line.source if line.seconds is not None else "", []).append(name)
        unknown = found.pop("", [])
        notes = [f"hours of {', '.join(names)}: {source}" for source, names in found.items()]
        if unknown:
            notes.append(
                f"hours of {', '.join(unknown)}: not known; python pipelines/plan.py … --probe 20 measures them"
            )
        return notes

    def _notes(self) -> list[str]:
        notes = []
        assumed = [line for line in self.lines if line.seconds is not None and line.source == ASSUMED]
        if assumed:
            notes.append(
                f"hours are assumed, not measured: {NAMES_A_SECOND:g} names, or 50 questions about"
                f" {QUESTIONS_50_A_SECOND:g} images, per second and GPU for {ASSUMED_BILLIONS:g} billion parameters"
            )
        if on_cpu := [line.ask.stage for line in assumed if not line.ask.workers.num_gpus]:
            notes.append(f"no GPU is reserved for {', '.join(on_cpu)}: hours are of one GPU, a CPU takes far longer")
        if any(line.seconds is None for line in self.lines):
            notes.append(
                "hours: known once the first part is done, or by a probe (python pipelines/plan.py --probe 20)"
            )
        if self.image_tokens is None:
            notes.append(
                f"tokens: {UNKNOWN_IMAGE:,} per photo assumed, since how the model tiles a photo is not known here"
            )
        if any(line.ask.at_most for line in self.lines):
            notes.append("at most: " + ", ".join(line.ask.stage for line in self.lines if line.ask.at_most))
        if any(line.usd is not None for line in self.lines):
            notes.append(f"prices: {self.prices}{self.currency}")
        return notes

    def _fewer(self, dearest: Line) -> int:
        """Rows of the costliest stage that bring the bill to half of naming every photo; else a tenth of them."""
        ours, theirs = _comparable(self, self.naming_all)
        weight = _weight(dearest, self)
        fit = int(dearest.rows * (theirs / 2 - (ours - weight)) / weight) if weight else 0
        fit = fit if fit > 0 else max(1, dearest.rows // 10)
        return int(float(f"{fit:.1e}"))

    def warning(self) -> str | None:
        """A warning where the bill exceeds naming every photo; None where it does not, or where both are small."""
        if self.free or not self.lines:
            return None
        ours, theirs = _comparable(self, self.naming_all)
        small = (self.seconds or 0) < NOTICED_SECONDS and (self.usd or 0) < NOTICED_USD
        if ours <= theirs or (small and (self.seconds is not None or self.usd is not None)):
            return None
        dearest = max(self.lines, key=lambda line: _weight(line, self))
        return (
            f"this asks for more than naming all {self.photos.total:,} photos would ({_amount(self)} against"
            f" {_amount(self.naming_all)}), most of it in {dearest.ask.stage}: {_remedy(dearest, self._fewer(dearest))}"
        )


def _who(lines: Sequence[Line]) -> str:
    made_up = any(line.ask.model.made_up for line in lines)
    return (
        "simulated: no model is asked, nothing is to be paid" if made_up else "the demo's tiny model, on this machine"
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _comparable(bill: Bill, other: Line) -> tuple[float, float]:
    """The bill and another line in the first unit of US$, hours and tokens in which both are known."""
    for ours, theirs in ((bill.usd, other.usd), (bill.seconds, other.seconds)):
        if ours is not None and theirs is not None:
            return ours, theirs
    return bill.load.prompt - bill.load.cached, other.load.prompt - other.load.cached


def _weight(line: Line, bill: Bill) -> float:
    known = line.usd if bill.usd is not None else line.seconds if bill.seconds is not None else None
    return line.load.prompt - line.load.cached if known is None else known


def _amount(of: Bill | Line) -> str:
    if of.usd is not None:
        return f"US$ {money(of.usd)}"
    if of.seconds is not None:
        return f"{_hours(of.seconds)} hours"
    return f"{_tokens(of.load.prompt)} tokens"


def _remedy(dearest: Line, fewer: int) -> str:
    fields = {
        "answers": f"--label.images.max_images {fewer} names fewer",
        "aspects": f"--aspects.max_images {fewer} asks about fewer",
        "looks": f"--aspects.max_images {fewer} asks about fewer",
        "eval_mllm_answers": f"--evaluate.max_images {fewer}, or no mllm in evaluate.methods, asks about fewer",
        "signatures": "--signatures.rotations 1 asks in one order, fewer lines in signatures.file ask less",
        "class_scores": f"--aspects.max_images {fewer} trains on fewer",
        "kind_answers": "--hierarchy.rounds 1 asks for one kind per name",
    }
    return fields.get(dearest.ask.stage, f"take {dearest.ask.stage.partition('_')[0]} out of evaluate.methods")


def _cells(name: str, line: Line) -> tuple[str, ...]:
    return (
        name,
        f"{line.rows:,}",
        f"{line.load.requests:,.0f}",
        _tokens(line.load.prompt),
        _tokens(line.load.output),
        "?" if line.seconds is None else _hours(line.seconds),
        "?" if line.usd is None else money(line.usd),
    )


_TITLES = ("to be asked", "photos", "requests", "tokens in", "tokens out", "hours", "US$")


def _work_cells(line: WorkLine) -> tuple[str, ...]:
    passes = "" if line.epochs == 1 else f" × {line.epochs:,.4g}"
    seconds = "?" if line.seconds is None else _hours(line.seconds)
    usd = "?" if line.usd is None else money(line.usd)
    return (line.task.stage, f"{line.rows:,}{passes}", "", "", "", seconds, usd)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if not n else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _at_least(values: Sequence[float | None], shown: Callable[[float], str]) -> str:
    """The sum of the known values; marked as a lower bound where one is unknown."""
    known = [value for value in values if value is not None]
    return ("" if len(known) == len(values) else "≥ ") + shown(sum(known)) if known else "?"


def _tokens(count: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:,.3g}{unit}"
    return f"{count:.0f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f}" if seconds >= 36_000 else f"{seconds / 3600:.2f}"
