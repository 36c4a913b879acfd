"""The content of metrics.json: how good each method is, what each stage did, what it cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fgvr.evaluation.images import MethodResult
from fgvr.failures import Example, Failures, earliest
from fgvr.metrics.label_space import LabelSpaceStatistics
from fgvr.part_worker import REMARKS, UNCOUNTED
from fgvr.report.aspects import AspectFacts
from fgvr.tables import Table

EVALUATION = "eval_"
"""Names of stages that predict for the evaluation only begin with this."""
TOKENS = ("prompt_tokens", "cached_tokens", "output_tokens")


@dataclass(frozen=True)
class EvaluationSet:
    """Which images the methods were compared on.

    Attributes:
        split: the split they are of.
        images: their number.
        scored: of these, with a known class; 0 means that no accuracy can be computed.
        classes: distinct classes among them.
        trained_on: whether discovery or training images may be among them (no other split was there).
        sacc_model: Sentence-BERT model of sACC.
        class_targets: what the students learned: `true` labels, `near` (disambiguated ones), or "" without students.
        discovery_overlap: of the images, those that the MLLM labelled for the discovery set, too.
        remarks: what else a reader must know: true names that are wrong, a part of a data set.
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
    """What a stage did; `seconds` is its wall time over all sessions, retries included.

    `examples` has a failed row of each reason in `failures`, and `tables` the folders of its tables with failed rows.
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
        """Its failed rows in words."""
        return Failures(Counter(self.failures), self.examples)


@dataclass(frozen=True)
class MethodCost:
    """What a method takes, once and for `Costs.images` images.

    Attributes:
        preparation_hours: wall hours of naming, questions and other things done once before it learns.
        training_hours: wall hours of its training.
        inference_hours: wall hours for so many images at the measured rate.
        usd: of all three together; None where a price or a number of tokens is not known.
        unpriced: models and machines without a price, and models whose server does not state tokens.
    """

    preparation_hours: float
    training_hours: float
    inference_hours: float
    usd: float | None
    unpriced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Costs:
    """The paper's table 1: what each method takes, inference extrapolated to `images`; `prices`: date and source."""

    images: int
    methods: dict[str, MethodCost]
    prices: str = ""


@dataclass(frozen=True)
class LabelSpace:
    """The vocabulary that the MLLM's answers became, on the discovery images.

    Attributes:
        statistics: its shape.
        counts: (name, images), most frequent first.
        merged: answers that were given another spelling or name.
    """

    statistics: LabelSpaceStatistics
    counts: list[tuple[str, int]]
    merged: int = 0


@dataclass(frozen=True)
class CandidateFacts:
    """How good the candidate sets are.

    Attributes:
        mean_size: labels in a set.
        coverage: share (0–1) of sets that hold the true name; None where no truth is known.
        label_accuracy: share of MLLM labels that are right, estimated from agreement among neighbours; this and the
            next two None where there is no estimate, or too little behind it.
        neighbour_precision: share of neighbours of the same class, estimated likewise.
        expected_to_help: whether the neighbourhoods are purer than the labels are right.
        expectation: that in words, with its numbers, or why there is none.
        truth: the same with the true numbers, and whether the expectation holds or the estimate was wrong; "" where no
            truth is known.
        true_label_accuracy: share of MLLM labels that are right; this and the next two None where no truth is known.
        candidate_accuracy: share of images whose heaviest candidate is right before training.
        disambiguated_accuracy: the same after it.
        nearest_coverage: share of sets that hold the name nearest to the true one in meaning, of all names; None where
            no truth is known.
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
    """All of metrics.json."""

    run: str
    evaluation: EvaluationSet
    methods: dict[str, MethodResult]
    stages: list[StageResult]
    agreement: list[list[float]] = field(default_factory=list)
    label_space: LabelSpace | None = None
    candidates: CandidateFacts | None = None
    costs: Costs | None = None
    aspects: AspectFacts | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON types; the keys that programs read are `methods`, `stages`, `cost` and `costs`."""
        return {
            "run": self.run,
            "evaluation": asdict(self.evaluation),
            "methods": {
                name: {**result.as_json(), "sacc_model": self.evaluation.sacc_model}
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
        }

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.as_json(), indent=1, ensure_ascii=False)


def stage_results(tables: Sequence[Table]) -> list[StageResult]:
    """One result a stage name, in the order in which the stages ran; tables of the same name are added up.

    A table that was asked for twice counts once.
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
    """What workers said of how the tables came about (`fgvr.part_worker.remarks_of`), once, with the tables' names."""
    names: dict[str, set[str]] = {}
    for table in tables:
        for remark in table.extra.get(REMARKS, ()):
            names.setdefault(remark, set()).add(table.name)
    return [f"{', '.join(sorted(names[remark]))}: {remark}" for remark in sorted(names)]


def cost(stages: Sequence[StageResult]) -> dict[str, Any]:
    """Tokens and wall time (stages one after the other) in all; and, of these, what only the evaluation took."""
    evaluation = [stage for stage in stages if stage.name.startswith(EVALUATION)]
    return {**_totals(stages), "evaluation": _totals(evaluation)}


def _totals(stages: Sequence[StageResult]) -> dict[str, float]:
    tokens = {name: sum(stage.tokens.get(name, 0) for stage in stages) for name in TOKENS}
    if uncounted := sum(stage.tokens.get(UNCOUNTED, 0) for stage in stages):
        tokens[UNCOUNTED] = uncounted
    return {**tokens, "seconds": sum(stage.seconds for stage in stages)}


def _sum(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}
