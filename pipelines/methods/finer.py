"""finer: the MLLM answers the aspect questions, a language model names what they describe, images vote, prototypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from cluster.once import run_once
from cluster.stage import RunContext, StageFolder, StageSummary, token_metrics
from fgvr.baselines import BaselineError
from fgvr.baselines.attributes import PROMPT, RULES, UNSURE, described, naming_prompt
from fgvr.config import Config, Mllm
from fgvr.config.baselines import Finer
from fgvr.mllm.answer_items import Form
from fgvr.mllm.backend import Answer, Sampling, TextGenerator
from fgvr.mllm.backends import backend_engine, backend_identity, exactly
from fgvr.mllm.label_space import read_label_space
from fgvr.mllm.label_worker import answer_rows
from fgvr.mllm.prompts import text_conversation
from fgvr.part_worker import remarks_of
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table
from fgvr.token_counts import token_totals
from pipelines import aspects, label
from pipelines.cut_answers import note_cut_answers
from pipelines.flow import Flow
from pipelines.methods.clip_classes import ClipClasses, Ids
from pipelines.methods.prototypes import of_names


def classes(context: RunContext, flow: Flow) -> ClipClasses:
    """Prototypes of the language model's names; raises BaselineError where the config has no language model."""
    ids: Ids = np.sort(flow.labels.read(["image_id"])["image_id"].to_numpy())
    attributes = aspects.ask(context, "finer_aspects", flow.samples, flow.questions, ids)
    proposed = _propose(context, flow.questions, attributes)
    settings = context.config.baselines.finer
    form, limit = Form(settings.names), _limit(settings)
    named = label.name_answers(context, "finer_labels", [proposed], None, form=form, limit=limit, merge=True)
    return of_names(context, flow, read_label_space(named).labels, named)


def configured_model(config: Config) -> Mllm | None:
    """The model that proposes names: its own, else the one that writes the questions."""
    return config.baselines.finer.llm or config.questions.llm


def language_model(config: Config) -> Mllm:
    """The same; raises BaselineError where there is none."""
    llm = configured_model(config)
    if llm is None:
        raise BaselineError(
            "baselines.finer.llm: the method finer needs a language model, e.g. --baselines.finer.llm.kind openai "
            "--baselines.finer.llm.model gpt-4o; or take finer out of evaluate.methods"
        )
    return llm


def _propose(context: RunContext, questions: Table, attributes: Table) -> Table:
    """The language model's words about each image, as an answers table."""
    config = context.config
    settings, subject = config.baselines.finer, config.questions.subject
    llm = exactly(language_model(config))
    sampling = Sampling(settings.max_tokens, settings.temperature, settings.seed)

    def compute(folder: StageFolder) -> StageSummary:
        texts = questions.read(["text"])["text"].to_pylist()
        rows = attributes.read(["image_id", "p_yes", "error"]).sort_by("image_id").to_pylist()
        prompts = [
            naming_prompt(described(texts, np.array(row["p_yes"], np.float32)), subject, settings.names)
            for row in rows
            if row["error"] is None
        ]
        # Where the workers are: the driver may have neither the memory nor a GPU.
        engine = backend_engine(llm, vision=language_model(config) == config.mllm)  # it may be the one that labels
        given, remarks = run_once(_ask, prompts, sampling, workers=config.questions.workers, engine=engine)
        replies = iter(given)
        answers = [next(replies) if row["error"] is None else _undescribed(row["error"]) for row in rows]
        table: pa.Table = answer_rows([row["image_id"] for row in rows], [[answer] for answer in answers])
        summary = folder.write_table(table)
        summary.metrics, summary.remarks = token_metrics(token_totals(table)), remarks
        note_cut_answers(summary, _limit(settings))
        return summary

    decides = {
        "llm": backend_identity(llm),
        "rules": RULES,
        "finer": settings.model_copy(update={"llm": None}),
        "subject": subject,
        "prompt": PROMPT,
        "unsure": UNSURE,
    }
    return context.stage(
        "finer_answers",
        decides=decides,
        inputs=[questions, attributes],
        compute=compute,
        workers=config.questions.workers,
    )


def _limit(settings: Finer) -> str:
    return f"baselines.finer.max_tokens = {settings.max_tokens}"


def _ask(backend: TextGenerator, prompts: list[str], sampling: Sampling) -> tuple[list[Answer], tuple[str, ...]]:
    """The answers, and the model's remarks on how it was asked."""
    answers = backend.generate([text_conversation(prompt) for prompt in prompts], sampling)
    return answers, remarks_of(backend)


def _undescribed(error: dict[str, Any]) -> Answer:
    return Answer(None, failure=Failure(Reason(error["reason"]), error["detail"]))
