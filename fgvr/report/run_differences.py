"""What changed between two runs, as text for a terminal, as a page and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from fgvr.evaluation.differences import NameChanges, PairedScore
from fgvr.redact import masked_tree, safe
from fgvr.report.console import METHOD_TITLES, METRIC_TITLES
from fgvr.report.page import of, render_page

SHOWN: Final = 20
"""Most names, moves and settings that a terminal shows of each kind; the page shows more, and `--json` all."""
ON_PAGE: Final = 200
SAME, OTHER, FIRST, SECOND = "same", "other", "only in the first", "only in the second"


@dataclass(frozen=True)
class RunFacts:
    """One of the two runs: its folder, its state, when its last session began, and what it was made with."""

    folder: str
    state: str
    begun: str = ""
    made_with: str = ""


@dataclass(frozen=True)
class Setting:
    """A field of the config that differs; `None` where a run does not have it."""

    field: str
    first: Any
    second: Any


@dataclass(frozen=True)
class TableChange:
    """A table of either run: whether it is the same, another one, or only in one of them."""

    name: str
    change: str
    rows_first: int | None = None
    rows_second: int | None = None
    seconds_first: float | None = None
    seconds_second: float | None = None


@dataclass(frozen=True)
class MethodChange:
    """One method's scores in both runs.

    Attributes:
        method: its key in metrics.json.
        metric: one of `fgvr.metrics.scores.METRICS`.
        first: the score, 0 to 100; None where a run does not have it.
        second: likewise.
        paired: top-1 on the photos that both runs evaluated; None for the other metrics.
    """

    method: str
    metric: str
    first: float | None
    second: float | None
    paired: PairedScore | None = None


@dataclass(frozen=True)
class RunDifferences:
    """All differences.

    Attributes:
        first: the run that is compared with, usually the earlier one.
        second: the other one.
        settings: fields of the config that differ, without the run's name and folder.
        tables: all tables of the last sessions.
        spaces: (names only in the first label space, only in the second, in both).
        names: table → the names that it gives.
        scores: of all methods that either run evaluated.
        costs: (what, first, second) in words.
        notes: what could not be compared, and why.
    """

    first: RunFacts
    second: RunFacts
    settings: list[Setting] = field(default_factory=list)
    tables: list[TableChange] = field(default_factory=list)
    spaces: tuple[list[str], list[str], int] | None = None
    names: dict[str, NameChanges] = field(default_factory=dict)
    scores: list[MethodChange] = field(default_factory=list)
    costs: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the runs agree in all that was compared."""
        tables = any(each.change != SAME for each in self.tables)
        names = any(each.changed or each.only_first or each.only_second for each in self.names.values())
        return not (self.settings or tables or names or any(each.first != each.second for each in self.scores))


def as_json(found: RunDifferences) -> str:
    """Everything, for programs; moves of names as a list of {from, to, photos}."""
    facts = asdict(found)
    facts["names"] = {
        table: {
            "photos": each.photos,
            "changed": each.changed,
            "only_first": each.only_first,
            "only_second": each.only_second,
            "moves": [{"from": one, "to": other, "photos": count} for one, other, count in each.moves()],
            "renamed": [{"from": one, "to": other, "photos": count} for one, other, count in each.renamed()],
        }
        for table, each in found.names.items()
    }
    return json.dumps(masked_tree(facts), indent=1, ensure_ascii=False) + "\n"


def as_page(found: RunDifferences) -> str:
    """The page, complete in one file."""
    return render_page("differences.html", found=found, most=ON_PAGE, words=_Words())


def as_text(found: RunDifferences) -> str:
    """For a terminal of 100 columns."""
    lines = [f"first:  {_run(found.first)}", f"second: {_run(found.second)}"]
    if found.is_empty:
        lines.append("No difference was found.")
        return safe("\n".join([*lines, *found.notes]) + "\n")
    lines += found.notes
    for title, part in (
        ("Settings", _settings(found.settings)),
        ("Tables", _tables(found.tables)),
        ("Names", _spaces(found.spaces)),
        *((f"Names of photos ({table})", _names(each)) for table, each in found.names.items()),
        ("Scores", _scores(found.scores)),
        ("Time and cost", (f"  {what:28}{one:>18} → {other}" for what, one, other in found.costs)),
    ):
        body = list(part)
        lines += ["", title, *body] if body else []
    return safe("\n".join(lines) + "\n")


def _run(facts: RunFacts) -> str:
    return ", ".join(filter(None, [facts.folder, facts.state, facts.begun, facts.made_with]))


def _settings(settings: Sequence[Setting]) -> Iterator[str]:
    for each in settings[:SHOWN]:
        yield f"  {each.field}: {_value(each.first)} → {_value(each.second)}"
    yield from _more(len(settings) - SHOWN, "setting", "settings")


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _tables(tables: Sequence[TableChange]) -> Iterator[str]:
    for change in (OTHER, FIRST, SECOND, SAME):
        own = [each.name for each in tables if each.change == change]
        if own:
            yield f"  {change}: {', '.join(own)}"


def _spaces(spaces: tuple[list[str], list[str], int] | None) -> Iterator[str]:
    if spaces is None:
        return
    first, second, both = spaces
    yield f"  {of(both, 'name')} in both label spaces"
    for title, names in ((FIRST, first), (SECOND, second)):
        if names:
            rest = f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
            yield f"  {title}: {len(names):,} ({', '.join(names[:SHOWN])}{rest})"


def _names(changes: NameChanges) -> Iterator[str]:
    if not changes.photos:
        yield "  no photo is in both runs"
        return
    share = 100 * changes.changed / changes.photos
    yield f"  {changes.changed:,} of {of(changes.photos, 'photo')} changed their name ({share:.1f}%)"
    for title, count in ((FIRST, changes.only_first), (SECOND, changes.only_second)):
        if count:
            yield f"  {of(count, 'photo')} {title}"
    for one, other, count in changes.renamed()[:SHOWN]:
        yield f"  renamed: {one} → {other} ({of(count, 'photo')})"
    moves = changes.moves()
    for one, other, count in moves[:SHOWN]:
        yield f"  {count:>10,}  {one or '(no name)'} → {other or '(no name)'}"
    yield from _more(len(moves) - SHOWN, "kind of change", "kinds of change")


def _scores(scores: Sequence[MethodChange]) -> Iterator[str]:
    for each in scores:
        method, metric = METHOD_TITLES.get(each.method, each.method), METRIC_TITLES.get(each.metric, each.metric)
        first, second = number(each.first), number(each.second)
        yield f"  {method:20}{metric:8}{first:>8} → {second:>6}  {verdict(each)}".rstrip()


def number(value: float | None) -> str:
    """A score with one decimal; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def verdict(change: MethodChange) -> str:
    """The difference, and what the photos of both runs say about it."""
    if change.first is None or change.second is None:
        return ""
    text = f"{change.second - change.first:+.1f}"
    paired = change.paired
    if paired is None:
        return text
    text += f"; on {of(paired.photos, 'photo')} of both {paired.second - paired.first:+.1f}"
    if paired.low is not None and paired.high is not None:
        text += f" [{paired.low:+.1f}, {paired.high:+.1f}]"
    surely = "a difference" if paired.p < 0.05 else "no difference seen"
    return f"{text}, {paired.only_second:,} won and {paired.only_first:,} lost, p = {paired.p:.2g}: {surely}"


def _more(count: int, one: str, several: str) -> Iterator[str]:
    if count > 0:
        yield f"  and {count:,} more {one if count == 1 else several}"


class _Words:
    """What the page's template calls."""

    number = staticmethod(number)
    value = staticmethod(_value)
    verdict = staticmethod(verdict)
    methods = METHOD_TITLES
    metrics = METRIC_TITLES
