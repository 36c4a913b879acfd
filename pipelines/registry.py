"""The tables of a run: one line per table, naming the class whose file holds everything else about the table.

A line is resolved when its table is first requested, so that stages need not import each other, and `--help` imports
only its own. The order is that in which a reader would look at the tables; the bill and the checks follow it.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.stage import Stage

STAGES = {
    "samples": "ingest:Samples",
    "space": "selection:Space",
    "first_selected": "selection:FirstSelected",
    "first_answers": "rounds:FirstAnswers",
    "first_labels": "rounds:FirstLabels",
    "selected": "selection:Selected",
    "second_answers": "rounds:SecondAnswers",
    "duplicates_neighbours": "duplicates:DuplicatesNeighbours",
    "duplicates": "duplicates:Duplicates",
    "looks": "looks:Looks",
    "answers": "label:Answers",
    "shared_answers": "duplicates:SharedAnswers",
    "labels": "label:Labels",
    "embeddings": "embed:Embeddings",
    "issues": "issues:Issues",
    "reasked": "reask:Reasked",
    "neighbours": "candidates:LabelNeighbours",
    "candidates": "candidates:Candidates",
    "views": "embed:Views",
    "near": "near:Near",
    "questions": "questions:Questions",
    "aspects": "aspects:Aspects",
    "class_scores": "class_scores:ClassScores",
    "base": "makd:Base",
    "makd": "makd:Makd",
    "predictions": "infer:Predictions",
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
    "eval_base": "methods.students:EvalBase",
    "eval_makd": "methods.students:EvalMakd",
    "eval_aspects": "methods.students:EvalAspects",
    "report": "evaluate:Report",
    "detector": "detect:Detector",
    "detections": "detect:Detections",
}
"""Table → module below `pipelines`, and class."""
WHOLE_JOB = (
    *("samples", "labels", "embeddings", "issues", "reasked", "candidates", "near", "questions", "aspects"),
    *("class_scores", "base", "makd", "predictions"),
)
"""Tables of a whole job before its report, in order; a config may not want some of them (`Stage.wanted`)."""


@cache
def stage_of(table: str) -> Stage:
    """The stage of a table, one object per process; raises KeyError for an unknown name."""
    module, _, name = STAGES[table].partition(":")
    stage: Stage = getattr(import_module(f"pipelines.{module}"), name)()
    return stage
