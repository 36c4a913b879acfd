"""The content of metrics.json: the quality of each method, what each stage did, and what it cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fgvr.evaluation.images import MethodResult
from fgvr.evaluation.slices import Slices
from fgvr.failures import Example, Failures, earliest
from fgvr.metrics.label_space import LabelSpaceStatistics
from fgvr.part_worker import REMARKS, UNCOUNTED
from fgvr.report.aspects import AspectFacts
from fgvr.report.selection import SelectionFacts
from fgvr.tables import Table

if TYPE_CHECKING:
    from fgvr.heads.costs import Tracks
    from fgvr.hierarchy.levels import HierarchyScores
    from fgvr.report.promise import PromiseFacts
    from fgvr.report.recommendation import Recommendation

EVALUATION = "eval_"
"""Prefix of the names of stages that predict for the evaluation only."""
FEWEST_TIMED = 1000
"""Photos from which a rate says something about more of them; starting workers takes as long as some hundreds."""
TOKENS = ("prompt_tokens", "cached_tokens", "output_tokens")


@dataclass(frozen=True)
class EvaluationSet:
    """The images on which methods were compared.

    Attributes:
        split: the split that they belong to.
        images: their number.
        scored: how many of these have a known class; if 0, no accuracy can be computed.
        classes: number of distinct classes among them.
        trained_on: whether discovery or training images may be among them (there was no other split).
        sacc_model: Sentence-BERT model used for sACC.
        class_targets: what the students learned: `true` labels, names of a method (`near` …), or "" without students.
        discovery_overlap: how many of the images the MLLM also labelled for the discovery set.
        remarks: further notes for a reader: wrong true names, only a part of a data set.
    """

    split: str
    images: int
    scored: int
    classes: int
    trained_on: bool
    sacc_model: str
    class_targets: str = ""
    discovery_overlap: int = 0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageResult:
    """What a stage did; `seconds` is its wall time over all sessions, including retries.

    `examples` has one failed row per reason in `failures`, and `tables` the folders of its tables with failed rows.
    """

    name: str
    seconds: float
    rows: int
    failed: int
    failures: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    examples: dict[str, Example] = field(default_factory=dict)
    tables: tuple[str, ...] = ()

    @property
    def found(self) -> Failures:
        """Its failed rows, as Failures."""
        return Failures(Counter(self.failures), self.examples)


@dataclass(frozen=True)
class MethodCost:
    """The cost of a method, for its preparation and training and for inference on `Costs.images` images.

    Attributes:
        preparation_hours: wall hours of naming, questions and other work done before training.
        training_hours: wall hours of its training.
        inference_hours: wall hours for that many images at the measured rate.
        usd: cost of all three together; None if a price or a token count is not known.
        usd_million: the same with inference on a million images.
        unpriced: models and machines without a price, and models whose server does not state tokens.
        timed_images: photos of the smallest inference stage whose rate this is; 0 where it is not known. Below
            `FEWEST_TIMED` the rate is mostly that of starting workers, and is not shown for more photos.
    """

    preparation_hours: float
    training_hours: float
    inference_hours: float
    usd: float | None
    unpriced: tuple[str, ...] = ()
    usd_million: float | None = None
    timed_images: int = 0

    @property
    def is_start_up(self) -> bool:
        """Whether so few photos were timed that the time of many does not follow from it."""
        return 0 < self.timed_images < FEWEST_TIMED


@dataclass(frozen=True)
class Costs:
    """The paper's table 1: each method's cost, with inference extrapolated to `images`; `prices`: date and source."""

    images: int
    methods: dict[str, MethodCost]
    prices: str = ""


@dataclass(frozen=True)
class LabelSpace:
    """The label space made from the MLLM's answers on the discovery images.

    Attributes:
        statistics: its statistics.
        counts: (name, images), most frequent first.
        merged: number of answers that were mapped to another spelling or name.
    """

    statistics: LabelSpaceStatistics
    counts: list[tuple[str, int]]
    merged: int = 0


@dataclass(frozen=True)
class CandidateFacts:
    """The quality of the candidate sets.

    Attributes:
        mean_size: mean number of labels per set.
        coverage: share (0–1) of sets that contain the true name; None if no truth is known.
        label_accuracy: share of MLLM labels that are right, estimated from agreement among neighbours; this and the
            next two are None if there is no estimate, or not enough evidence for it.
        neighbour_precision: share of neighbours of the same class, also estimated.
        expected_to_help: whether candidate sets agree better than own labels with labels that were held out; None:
            unknown, or not compared.
        expectation: the same in words with its numbers, and what would settle it.
        truth: the true values of the estimates, and whether these were far off; "" if no truth is known.
        true_label_accuracy: share of MLLM labels that are right; this and the next two are None if no truth is known.
        candidate_accuracy: share of images whose heaviest candidate is right before training.
        disambiguated_accuracy: the same after training.
        nearest_coverage: share of sets that contain the name most similar in meaning to the true one, of all names;
            None if no truth is known.
    """

    mean_size: float
    coverage: float | None = None
    label_accuracy: float | None = None
    neighbour_precision: float | None = None
    expected_to_help: bool | None = None
    expectation: str = ""
    truth: str = ""
    true_label_accuracy: float | None = None
    candidate_accuracy: float | None = None
    disambiguated_accuracy: float | None = None
    nearest_coverage: float | None = None


@dataclass(frozen=True)
class Results:
    """The whole content of metrics.json.

    `learned_from`: trained method, or prototypes of labels → whose names it learned from, of which images; "" or no
    entry: it only chooses among the names. `human_labels`: methods that learned from true classes or from what people
    checked. `scored_on_training`: methods whose scores include photos that they learned from. `next_steps`: what to do
    next, as (why, command line).
    """

    run: str
    evaluation: EvaluationSet
    methods: dict[str, MethodResult]
    stages: list[StageResult]
    agreement: list[list[float]] = field(default_factory=list)
    label_space: LabelSpace | None = None
    candidates: CandidateFacts | None = None
    costs: Costs | None = None
    aspects: AspectFacts | None = None
    selection: SelectionFacts | None = None
    mistakes: dict[str, Tracks] | None = None
    learned_from: dict[str, str] = field(default_factory=dict)
    slices: Slices | None = None
    hierarchy: dict[str, HierarchyScores] | None = None
    promise: PromiseFacts | None = None
    recommendation: Recommendation | None = None
    human_labels: tuple[str, ...] = ()
    scored_on_training: tuple[str, ...] = ()
    next_steps: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON types; the keys that programs read are `methods`, `stages`, `cost` and `costs`."""
        priced = {name: asdict(mistakes) for name, mistakes in (self.mistakes or {}).items()}
        return {
            **({"mistakes": priced} if priced else {}),
            **({"hierarchy": {name: asdict(each) for name, each in self.hierarchy.items()}} if self.hierarchy else {}),
            "run": self.run,
            "evaluation": asdict(self.evaluation),
            "methods": {
                name: {
                    **result.as_json(),
                    "sacc_model": self.evaluation.sacc_model,
                    **({"learned_from": self.learned_from[name]} if self.learned_from.get(name) else {}),
                    **({"human_labels": True} if name in self.human_labels else {}),
                    **({"scored_on_training": True} if name in self.scored_on_training else {}),
                }
                for name, result in self.methods.items()
            },
            "agreement": {"methods": list(self.methods), "share": self.agreement},
            "label_space": None if self.label_space is None else asdict(self.label_space.statistics),
            "candidates": None if self.candidates is None else asdict(self.candidates),
            "aspects": None if self.aspects is None else self.aspects.as_json(),
            "stages": {
                stage.name: {
                    key: value
                    for key, value in asdict(stage).items()
                    if key != "name" and (value or key not in {"examples", "tables"})
                }
                for stage in self.stages
            },
            "cost": cost(self.stages),
            "costs": None if self.costs is None else asdict(self.costs),
            **({} if self.recommendation is None else {"recommendation": asdict(self.recommendation)}),
            **({} if not self.next_steps else {"next": [{"why": why, "run": run} for why, run in self.next_steps]}),
            **({} if self.selection is None else {"selection": asdict(self.selection)}),
            **({} if self.slices is None else {"slices": self.slices.as_json()}),
            **({} if self.promise is None else {"promise": self.promise.as_json()}),
        }

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.as_json(), indent=1, ensure_ascii=False)


def stage_results(tables: Sequence[Table]) -> list[StageResult]:
    """One result per stage name, in the order in which the stages ran; tables of the same name are summed.

    A table that is passed twice counts only once.
    """
    found: dict[str, StageResult] = {}
    for table in {table.uri: table for table in tables}.values():
        metrics = table.extra.get("metrics", {})
        tokens = {name: int(metrics[name]) for name in (*TOKENS, UNCOUNTED) if name in metrics}
        earlier = found.get(table.name)
        places = (table.uri,) if table.failed else ()
        if earlier is None:
            found[table.name] = StageResult(
                table.name,
                table.seconds,
                table.rows,
                table.failed,
                dict(table.failures),
                tokens,
                dict(table.examples),
                places,
            )
        else:
            found[table.name] = StageResult(
                table.name,
                earlier.seconds + table.seconds,
                earlier.rows + table.rows,
                earlier.failed + table.failed,
                _sum(earlier.failures, table.failures),
                _sum(earlier.tokens, tokens),
                earliest([earlier.examples, table.examples]),
                (*earlier.tables, *places),
            )
    return list(found.values())


def stage_remarks(tables: Sequence[Table]) -> list[str]:
    """Notes of workers on how the tables were computed (`fgvr.part_worker.remarks_of`), with the tables' names."""
    names: dict[str, set[str]] = {}
    for table in tables:
        for remark in table.extra.get(REMARKS, ()):
            names.setdefault(remark, set()).add(table.name)
    return [f"{', '.join(sorted(names[remark]))}: {remark}" for remark in sorted(names)]


def cost(stages: Sequence[StageResult]) -> dict[str, Any]:
    """Tokens and wall time (stages one after the other) in total; and how much of this only the evaluation took."""
    evaluation = [stage for stage in stages if stage.name.startswith(EVALUATION)]
    return {**_totals(stages), "evaluation": _totals(evaluation)}


def _totals(stages: Sequence[StageResult]) -> dict[str, float]:
    tokens = {name: sum(stage.tokens.get(name, 0) for stage in stages) for name in TOKENS}
    if uncounted := sum(stage.tokens.get(UNCOUNTED, 0) for stage in stages):
        tokens[UNCOUNTED] = uncounted
    return {**tokens, "seconds": sum(stage.seconds for stage in stages)}


def _sum(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}
