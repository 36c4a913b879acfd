"""The page report.html, and what it shows besides the numbers of metrics.json."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import jinja2
from markupsafe import Markup

from fgvr.evaluation.images import MethodResult
from fgvr.failures import remedy_of
from fgvr.metrics.scores import METRICS
from fgvr.names.spelling import fold_name
from fgvr.redact import masked_value
from fgvr.report import console
from fgvr.report.confusions import ClassScores
from fgvr.report.estimates import Outcome
from fgvr.report.pictures import MAP_SIDE, AspectPictures
from fgvr.report.prices import money
from fgvr.report.promise import drawings
from fgvr.report.results import FEWEST_TIMED, Results, StageResult, cost
from fgvr.report.scatter import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, scatter
from fgvr.report.take_home import Tally


@dataclass(frozen=True)
class Candidate:
    """A candidate label of an image with its weight before and after training (each sums to 1 over the set)."""

    name: str
    before: float
    after: float | None


@dataclass(frozen=True)
class Prediction:
    """What a method says about an image; `score` is a softmax probability, None if the method has none."""

    method: str
    name: str
    score: float | None = None


@dataclass(frozen=True)
class ImageCard:
    """A discovery image with everything that the stages said about it.

    Attributes:
        title: its file name.
        thumbnail: a data: URI, or "" if the image could not be read.
        problem: why it could not be read, else "".
        answer: the MLLM's raw answer.
        label: the name taken from it; "" if there is none.
        true_name: the true name; "" if unknown.
        candidates: heaviest first.
        predictions: one per method.
    """

    title: str
    thumbnail: str
    problem: str
    answer: str
    label: str
    true_name: str
    candidates: list[Candidate] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)


@dataclass(frozen=True)
class IssueCard:
    """A discovery image whose label is probably wrong.

    Attributes:
        title: its file name.
        thumbnail: a data: URI, or "" if the image could not be read.
        problem: why it could not be read, else "".
        label: the name that it has.
        true_name: the true name; "" if unknown.
        suggested: names that it might have instead, best first.
        why: what speaks against the label.
    """

    title: str
    thumbnail: str
    problem: str
    label: str
    true_name: str
    suggested: list[str]
    why: str


@dataclass(frozen=True)
class UnsureCard:
    """A photo with a low score: `thumbnail`, `problem`, `title` and `true_name` as in ImageCard."""

    title: str
    thumbnail: str
    problem: str
    name: str
    score: float
    abstained: bool
    true_name: str


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page.

    Attributes:
        results: as in metrics.json.
        facts: (what, value) pairs for the top of the page: models, data, settings.
        images: example images.
        created: date and time, as text.
        aspects: drawings of the aspects.
        issues: labels that are most probably wrong, worst first.
        outcomes: stages with what they were expected to take, and what they took.
        spent: a sentence on what the run has spent and its budget; "" where it has none.
        tally: counts of the predictions; None where there are none.
        predicted_by: the model that made them, for a reader.
        unsure: photos with the lowest scores, lowest first.
        classes: the recommended model's right names and confusions by class; None where no class is known.
    """

    results: Results
    facts: list[tuple[str, str]]
    images: list[ImageCard]
    created: str
    aspects: AspectPictures = field(default_factory=AspectPictures)
    issues: list[IssueCard] = field(default_factory=list)
    outcomes: Sequence[Outcome] = ()
    spent: str = ""
    tally: Tally | None = None
    predicted_by: str = ""
    unsure: list[UnsureCard] = field(default_factory=list)
    classes: ClassScores | None = None


# report.html is one self-contained page without scripts and external resources.
#
# Labels come from a model and file names from strangers: Jinja2 escapes all of them, and the page's own
# Content-Security-Policy allows no scripts, in case an escape is ever missing. Signatures in URLs are removed from the
# page.

SHOWN_LABELS = 30
SHOWN_CLASSES, MOST_CLASSES, SHOWN_PAIRS = 15, 200, 15
SHOWN_CARDS = 8
SHOWN_SLICES, MOST_SLICES = 20, 100
SHOWN_ASPECTS = 12
SHOWN_HISTOGRAMS = 6
PICTURE = "data:image/jpeg;base64,"


def render_page(template: str, **facts: object) -> str:
    """A page from a template of this folder: texts are escaped, secrets masked."""
    return _environment().get_template(template).render(**facts)


def render(content: ReportContent) -> str:
    """The report as HTML text."""
    results = content.results
    label_space = results.label_space
    counts = label_space.counts if label_space is not None else []
    return render_page(
        "report.html",
        content=content,
        results=results,
        metrics=METRICS,
        words=console,
        shown_labels=counts[:SHOWN_LABELS],
        hidden_labels=counts[SHOWN_LABELS:],
        most_frequent=max((count for _, count in counts), default=1),
        longest=max((stage.seconds for stage in results.stages), default=1.0) or 1.0,
        best=_best({name: each for name, each in results.methods.items() if name not in results.scored_on_training}),
        same_name=lambda one, other: fold_name(one) == fold_name(other),
        failures=_failures(results.stages),
        cost=cost(results.stages),
        chosen=results.recommendation,
        chosen_cost=_chosen_cost(results),
        warnings=_warnings(results),
        headings=headings,
        fewest_timed=FEWEST_TIMED,
        shown_classes=SHOWN_CLASSES,
        most_classes=MOST_CLASSES,
        shown_pairs=SHOWN_PAIRS,
        shown_cards=SHOWN_CARDS,
        shown_slices=SHOWN_SLICES,
        most_slices=MOST_SLICES,
        shown_aspects=SHOWN_ASPECTS,
        shown_histograms=SHOWN_HISTOGRAMS,
        map_side=MAP_SIDE,
        scatter=scatter(results.methods, results.costs),
        sides=(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
        promise_drawings=() if results.promise is None else drawings(results.promise),
    )


def headings(sections: str) -> list[tuple[str, Markup]]:
    """(id, title as HTML) of the sections in a page's HTML, in which texts from elsewhere are escaped."""
    found = re.findall(r'<section id="([\w-]+)">\s*<details[^>]*><summary><h2>(.*?)</h2>', sections, re.DOTALL)
    return [(name, Markup(title)) for name, title in found]  # noqa: S704


def _warnings(results: Results) -> list[str]:
    """What a reader must know before the numbers."""
    images, said = results.evaluation, []
    if images.scored and images.trained_on:
        said.append("There is no separate evaluation split: the models were trained on these images.")
    if results.scored_on_training and not images.trained_on:
        names = ", ".join(console.METHOD_TITLES.get(name, name) for name in results.scored_on_training)
        said.append(f"Some evaluation images taught {names}, so their scores are too high.")
    said += images.remarks
    failed = sum(stage.failed for stage in results.stages)
    if failed:
        said.append(f"{of(failed, 'row')} failed; the reasons are under Failures.")
    return said


def _chosen_cost(results: Results) -> str:
    """What the recommended model costs per million photos; "" where it is not known."""
    chosen, costs = results.recommendation, results.costs
    found = None if chosen is None or costs is None else costs.methods.get(chosen.method)
    if found is None or found.is_start_up or found.usd_million is None:
        return ""
    return f"The recommended model, its making included: US$ {money(found.usd_million)} for a million photos"


def _best(results: dict[str, MethodResult]) -> dict[str, float]:
    """The highest value of each metric; excludes the MLLM itself, which is a reference and not a competitor."""
    scores = [result.scores for name, result in results.items() if result.scores is not None and name != "mllm"]
    return {metric: max((getattr(found, metric) for found in scores), default=math.inf) for metric in METRICS}


def _failures(stages: list[StageResult]) -> list[tuple[str, str, int, str, str]]:
    """(stage, reason, rows, meaning and remedy, example), most frequent first."""
    rows = [
        (
            stage.name,
            reason,
            count,
            "; ".join(filter(None, [console.FAILURE_MEANINGS.get(reason, ""), remedy_of(reason)])),
            stage.examples[reason].words() if reason in stage.examples else "",
        )
        for stage in stages
        for reason, count in stage.failures.items()
    ]
    return sorted(rows, key=lambda row: -row[2])


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fgvr", "report"),
        autoescape=True,
        finalize=_without_secrets,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "count": lambda value: f"{value:,}", "percent": percent, "of": of}
    environment.filters |= {"money": money}
    return environment


def _without_secrets(value: object) -> object:
    """The value of a template expression without secrets, before it is escaped; macro results are already clean.

    Names, questions and files are shown as they are; only secrets in URLs and keys are masked. Failure messages were
    masked when they were made.
    """
    return masked_value(value) if type(value) is str and not value.startswith(PICTURE) else value


def of(number: int, thing: str, things: str = "") -> str:
    """A number with its noun: 1 image, 2,000 images."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {things or thing + 's'}"


def percent(share: float | None) -> str:
    """A share (0–1) as text."""
    return "unknown" if share is None or math.isnan(share) else f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """A duration as text: 0.4 s, 42 s, 7 min 5 s, 3 h 12 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
