"""The tables of a run: one line per table, naming the class whose file holds everything else about the table.

The config may add tables of some kinds: `FAMILIES`.

A line is resolved when its table is first requested, so that stages need not import each other, and `--help` imports
only its own. The order is that in which a reader would look at the tables; the bill and the checks follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fgvr.config import Config
    from pipelines.stage import Stage

STAGES = {
    "samples": "ingest:Samples",
    "photo_checks": "check:PhotoChecks",
    "findings": "check:Findings",
    "space": "selection:Space",
    "first_selected": "selection:FirstSelected",
    "first_answers": "rounds:FirstAnswers",
    "first_labels": "rounds:FirstLabels",
    "selected": "selection:Selected",
    "second_answers": "rounds:SecondAnswers",
    "duplicates_neighbours": "duplicates:DuplicatesNeighbours",
    "duplicates": "duplicates:Duplicates",
    "looks": "looks:Looks",
    "answers": "answers:Answers",
    "shared_answers": "duplicates:SharedAnswers",
    "labels": "label:Labels",
    "votes": "votes:Votes",
    "kind_answers": "parents:KindAnswers",
    "parents": "parents:Parents",
    "embeddings": "embed:Embeddings",
    "encoder": "distill_encoder:Encoder",
    "issues": "issues:Issues",
    "reasked": "reask:Reasked",
    "adaptation": "adapt:Adaptation",
    "neighbours": "candidates:LabelNeighbours",
    "candidates": "candidates:Candidates",
    "views": "embed:Views",
    "near": "near:Near",
    "label_prototypes": "heads:LabelPrototypes",
    "heads": "heads:Heads",
    "propagated": "heads:Propagated",
    "pool": "pool:Pool",
    "questions": "questions:Questions",
    "aspects": "aspects:Aspects",
    "class_scores": "class_scores:ClassScores",
    "signatures": "signatures:Signatures",
    "synthetic": "augment:Synthetic",
    "base": "makd:Base",
    "makd": "makd:Makd",
    "comparison": "compare:Comparison",
    "predictions": "infer:Predictions",
    "calibration": "calibration:Calibration",
    "second_looks": "second_looks:SecondLooks",
    "decided": "cascade:Decided",
    "reference_predictions": "drift_reference:ReferencePredictions",
    "drift_reference": "drift_reference:DriftReference",
    "drift_scores": "drift:DriftScores",
    "drift": "drift:Drift",
    "novel": "drift:Novel",
    "eval_mllm_answers": "methods.mllm:EvalAnswers",
    "eval_mllm": "methods.mllm:EvalLabels",
    "eval_zs_clip": "methods.clip_classes:ZeroShot",
    "wordnet": "methods.wordnet:Nouns",
    "eval_zs_wordnet": "methods.wordnet:WordNet",
    "captions": "methods.cased:Captions",
    "eval_cased": "methods.cased:Cased",
    "prototype_views": "methods.prototypes:PrototypeViews",
    "eval_prototypes": "methods.prototypes:Prototypes",
    "finer_aspects": "methods.finer:FinerAspects",
    "finer_answers": "methods.finer:FinerAnswers",
    "finer_labels": "methods.finer:FinerLabels",
    "eval_finer": "methods.finer:Finer",
    "findr_meta": "methods.findr:FindrMeta",
    "findr_answers": "methods.findr:FindrAnswers",
    "findr_labels": "methods.findr:FindrLabels",
    "eval_findr": "methods.findr:Findr",
    "eval_near": "methods.clip_classes:Learned",
    "eval_label_prototypes": "methods.vector_heads:EvalPrototypes",
    "eval_heads": "methods.vector_heads:EvalHeads",
    "eval_base": "methods.students:EvalBase",
    "eval_makd": "methods.students:EvalMakd",
    "eval_aspects": "methods.students:EvalAspects",
    "report": "evaluate:Report",
    "detector": "detect:Detector",
    "detections": "detect:Detections",
}
"""Table → module below `pipelines`, and class."""
FURTHER = "answers_"
"""What the names of the tables of answers of further sources begin with."""
COMPARED = "compared_"
"""What the names of the tables of students begin with that are trained to compare their backbones."""
FAMILIES = {FURTHER: ("answers", "answers:SourceAnswers"), COMPARED: ("makd", "compare:ComparedStudent")}
"""What the names of tables begin with that a config adds → the table behind which they stand, module and class."""
WHOLE_JOB = (
    *("samples", "labels", "votes", "parents", "embeddings", "issues", "reasked", "candidates", "near", "questions"),
    *("aspects", "class_scores", "signatures", "synthetic", "base", "makd", "predictions"),
    *("calibration", "second_looks", "decided", "drift", "novel"),
)
"""Tables of a whole job before its report, in order; a config may not want some of them (`Stage.wanted`)."""


@cache
def stage_of(table: str) -> Stage:
    """The stage of a table, one object per process; raises KeyError for an unknown name."""
    family = _family(table)
    module, _, name = (STAGES[table] if family is None else FAMILIES[family][1]).partition(":")
    kind: Callable[..., Stage] = getattr(import_module(f"pipelines.{module}"), name)
    return kind() if family is None else kind(table.removeprefix(family))


def further_tables(config: Config) -> tuple[str, ...]:
    """The tables that a config adds: the answers of the second and later sources of labels."""
    return tuple(f"{FURTHER}{source.name}" for source in config.label.sources[1:])


def compared_tables(config: Config) -> tuple[str, ...]:
    """The tables that a config adds: a student per compared backbone and seed."""
    models = dict.fromkeys(config.compare.models)
    return tuple(f"{COMPARED}{model}_{seed}" for model in models for seed in range(config.compare.seeds))


def added_tables(config: Config) -> tuple[str, ...]:
    """All tables that a config adds."""
    return (*further_tables(config), *compared_tables(config))


def in_order(tables: Collection[str]) -> list[str]:
    """These tables in the order of the registry; those that a config adds stand behind the first of their kind."""
    order = {name: number for number, name in enumerate(STAGES)}
    families = {table: _family(table) for table in tables}
    first = {table: table if family is None else FAMILIES[family][0] for table, family in families.items()}
    return sorted(tables, key=lambda table: (order[first[table]], families[table] is not None, table))


def _family(table: str) -> str | None:
    return None if table in STAGES else next((start for start in FAMILIES if table.startswith(start)), None)
