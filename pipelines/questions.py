"""questions: yes/no questions about visible aspects. In: a file, or class names and a language model. Out: questions.

    python pipelines/questions.py --questions.file my_questions.txt
    python pipelines/questions.py --questions.llm.kind openai --questions.llm.model gpt-4o

The drawn field guide brings its own. A model is told the true class names where the data has them, else the label
space. Beside the table lies `questions.csv` (rank, text, source), which can be edited and given back as the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeAlias

import pyarrow.compute as pc

from cluster.once import run_once
from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr.config import Config, ConfigError
from fgvr.config.base import Workers
from fgvr.config.data import DRAWN
from fgvr.demo.questions import QUESTIONS
from fgvr.metrics.semantic import SentenceBert, look_up
from fgvr.mllm.backend import TextGenerator
from fgvr.mllm.backends import backend_engine, backend_identity, exactly
from fgvr.mllm.label_space import read_label_space
from fgvr.mllm.questions import (
    READER,
    AspectQuestion,
    Wanted,
    generate_questions,
    question_rows,
    read_questions,
    write_questions,
)
from fgvr.part_worker import remarks_of
from fgvr.tables import Table
from pipelines.flow import Flow, stage_main

QUESTIONS_FILE = "questions.csv"
Written: TypeAlias = tuple[list[AspectQuestion], tuple[str, ...]]
"""Questions, and the remarks of the model that wrote them on how it was asked."""


def run(context: RunContext, flow: Flow) -> Table:
    """The questions table; raises UserError when there is no way to get questions."""
    config = context.config.questions
    given = _given(context)
    if given is not None:
        kept = given[: config.keep]
        return _write(context, lambda: (kept, ()), decides=[[q.text, q.rank, q.source] for q in kept], inputs=[])
    llm = config.llm
    if llm is None:
        raise ConfigError("questions: set questions.file, or questions.llm to let a language model write them")
    llm = exactly(llm)
    names, inputs = _class_names(flow)

    wanted = Wanted(config.subject, config.generate, config.keep, config.duplicate_similarity)

    decides = {"llm": backend_identity(llm), "reader": READER, **asdict(wanted)}
    duplicate_model = config.duplicate_model
    if config.compares_meaning:
        model = look_up(duplicate_model, "questions.duplicate_model")
        decides["duplicate_model"] = model.identity()
        duplicate_model = model.exactly if model.commit is not None else duplicate_model

    def generate() -> Written:
        # Where the workers are: the driver may have neither the memory nor a GPU.
        engine = backend_engine(llm, vision=config.llm == context.config.mllm)  # it may be the one that labels
        return run_once(_generate, names, wanted, llm.title, duplicate_model, workers=config.workers, engine=engine)

    return _write(context, generate, decides=decides, inputs=inputs, workers=config.workers)


def _generate(backend: TextGenerator, names: list[str], wanted: Wanted, source: str, duplicate_model: str) -> Written:
    def load_encoder() -> SentenceBert:
        return SentenceBert(duplicate_model, field="questions.duplicate_model")

    questions = generate_questions(backend, names, wanted, source=source, load_encoder=load_encoder)
    return questions, remarks_of(backend)


def _given(context: RunContext) -> list[AspectQuestion] | None:
    """Questions that need no model: the configured file's, or the field guide's own."""
    config = context.config
    if config.questions.file is not None:
        return read_questions(config.questions.file)
    if config.questions.llm is None and isinstance(config.ingest.source, DRAWN):
        return [AspectQuestion(q.text, rank, "field guide") for rank, q in enumerate(QUESTIONS, start=1)]
    return None


def _class_names(flow: Flow) -> tuple[list[str], list[Table]]:
    """What the images may show, and the tables that say so."""
    if flow.context.config.makd.target != "near":
        true: set[str] = set()
        for rows in flow.samples.batches(["class_name"]):
            true.update(pc.unique(rows["class_name"].drop_null()).to_pylist())
        if true:
            return sorted(true), [flow.samples]
    check_asked_with_labels(flow.context.config)
    space = read_label_space(flow.labels)
    return list(space.labels), [flow.labels]


def check_asked_with_labels(config: Config) -> None:
    """Raise a ConfigError where questions that a model writes for the labels' names are to be asked with the labels."""
    if config.aspects.with_labels:
        raise ConfigError(
            "aspects.with_labels: the questions would be written for the names that the labels give, so they cannot be"
            " asked in one pass with them: set questions.file, or aspects.with_labels to false"
        )


def _write(
    context: RunContext,
    questions: Callable[[], Written],
    *,
    decides: Any,
    inputs: list[Table],
    workers: Workers | None = None,
) -> Table:
    def compute(folder: StageFolder) -> StageSummary:
        found, remarks = questions()
        folder.write_bytes(QUESTIONS_FILE, write_questions(found))
        summary = folder.write_table(question_rows(found))
        summary.extra = {"sources": sorted({question.source for question in found})}
        summary.remarks = remarks
        return summary

    return context.stage("questions", decides=decides, inputs=inputs, compute=compute, workers=workers)


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: flow.questions, asks=("questions",))
