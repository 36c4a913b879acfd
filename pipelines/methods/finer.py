"""finer: a language model turns the MLLM's aspect answers into names; images vote for them; then prototypes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, Mllm
from pipelines.asks import INSTRUCTIONS, Asked, Load, question_counts, questioning, sampled
from pipelines.aspects import QuestionStage
from pipelines.label import NameStage, labelled_ids, note_cut_answers
from pipelines.methods.prototypes import Prototypes
from pipelines.run_tables import Run
from pipelines.stage import Stage, setting

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.mllm.backend import Answer, Sampling, TextGenerator
    from fgvr.names.answer_items import Form


class FinerAspects(QuestionStage):
    """p(yes) of the aspect questions about the discovery images."""

    table = "finer_aspects"

    def consults(self, run: Run) -> Iterable[str]:
        """The labels, which decide the images."""
        return ("labels",)

    def which(self, run: Run) -> Ids:
        """The discovery set."""
        return labelled_ids(run)

    def asks(self, run: Run) -> Asked:
        """All questions for each image."""
        return Asked(sampled(run.config, run.photos), questioning(run))


class FinerAnswers(Stage):
    """Names that a language model gives to the described objects, one row per discovery image."""

    table = "finer_answers"
    one_call = True

    def check(self, config: Config) -> None:
        """Find the language model; raises BaselineError where the config has none."""
        from fgvr.mllm.backends import backend_identity

        backend_identity(_language_model(config))

    def workers(self, config: Config) -> str | None:
        """One worker of questions."""
        return "questions.workers"

    def model(self, config: Config) -> str | None:
        """The method's own model, or else the one that writes the questions."""
        return "questions.llm" if config.baselines.finer.llm is None else "baselines.finer.llm"

    def reads(self, run: Run) -> Iterable[str]:
        """The questions, and the answers."""
        return ("questions", "finer_aspects")

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, and its prompt."""
        from fgvr.baselines.finer_findr import PROMPT, RULES, UNSURE
        from fgvr.mllm.backends import backend_identity, exactly

        settings = run.config.baselines.finer
        return {
            "llm": backend_identity(exactly(_language_model(run.config))),
            "rules": RULES,
            "finer": settings.model_copy(update={"llm": None}),
            "subject": run.config.questions.subject,
            "prompt": PROMPT,
            "unsure": UNSURE,
        }

    def asks(self, run: Run) -> Asked:
        """One conversation per image, in text only."""
        from fgvr.mllm.request_tokens import FRAME

        _, tokens = question_counts(run)
        row = Load(1, FRAME + INSTRUCTIONS / 2 + tokens, 0, run.config.baselines.finer.max_tokens)
        return Asked(sampled(run.config, run.photos), row)

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Ask in a worker: the driver may have neither the memory nor a GPU."""
        import numpy as np

        from cluster.once import run_once
        from cluster.stage import token_metrics
        from fgvr.baselines.finer_findr import described, naming_prompt
        from fgvr.mllm.backend import Sampling
        from fgvr.mllm.backends import backend_engine, exactly
        from fgvr.mllm.label_worker import answer_rows
        from fgvr.part_worker import token_totals

        config, settings = run.config, run.config.baselines.finer
        texts = run.table("questions").read(["text"])["text"].to_pylist()
        rows = run.table("finer_aspects").read(["image_id", "p_yes", "error"]).sort_by("image_id").to_pylist()
        prompts = [
            naming_prompt(
                described(texts, np.array(row["p_yes"], np.float32)), config.questions.subject, settings.names
            )
            for row in rows
            if row["error"] is None
        ]
        sampling = Sampling(settings.max_tokens, settings.temperature, settings.seed)
        llm = exactly(_language_model(config))
        given, remarks = run_once(
            _ask,
            *(prompts, sampling),
            workers=config.questions.workers,
            engine=backend_engine(llm, vision=_language_model(config) == config.mllm),  # it may label, too
            keep_engine=run.still_asks(self),
        )
        replies = iter(given)
        answers = [next(replies) if row["error"] is None else _undescribed(row["error"]) for row in rows]
        table = answer_rows([row["image_id"] for row in rows], [[answer] for answer in answers])
        summary = folder.write_table(table)
        summary.metrics, summary.remarks = token_metrics(token_totals(table)), remarks
        note_cut_answers(summary, _limit(config))
        return summary


def _language_model(config: Config) -> Mllm:
    """The language model that proposes names; raises BaselineError where there is none."""
    from fgvr.baselines import BaselineError

    llm: Mllm | None = setting(config, FinerAnswers().model(config) or "")
    if llm is None:
        raise BaselineError(
            "baselines.finer.llm: the method finer needs a language model, e.g. --baselines.finer.llm.kind openai "
            "--baselines.finer.llm.model gpt-4o; or take finer out of evaluate.methods"
        )
    return llm


def _limit(config: Config) -> str:
    return f"baselines.finer.max_tokens = {config.baselines.finer.max_tokens}"


def _ask(backend: TextGenerator, prompts: list[str], sampling: Sampling) -> tuple[list[Answer], tuple[str, ...]]:
    """The answers, and the backend's remarks on the requests."""
    from fgvr.mllm.prompts import text_conversation
    from fgvr.part_worker import remarks_of

    answers = backend.generate([text_conversation(prompt) for prompt in prompts], sampling)
    return answers, remarks_of(backend)


def _undescribed(error: dict[str, Any]) -> Answer:
    from fgvr.mllm.backend import Answer
    from fgvr.schemas import Failure, Reason

    return Answer(None, failure=Failure(Reason(error["reason"]), error["detail"]))


class FinerLabels(NameStage):
    """The names that the language model gave."""

    table = "finer_labels"
    answers = "finer_answers"
    merges = True

    def form(self, config: Config) -> Form:
        """The configured number of names per image."""
        from fgvr.names.answer_items import Form

        return Form(config.baselines.finer.names)

    def limit(self, config: Config) -> str:
        """The field for the language model."""
        return _limit(config)


class Finer(Prototypes):
    """Prototypes of the names that the language model gave."""

    table = "eval_finer"
    named_by = "finer_labels"
