"""questions: collect yes/no questions about visible aspects. In: a file, or class names and an LLM. Out: questions.

    python pipelines/questions.py --questions.file my_questions.txt
    python pipelines/questions.py --questions.llm.kind openai --questions.llm.model gpt-4o

The drawn field guide has its own questions. A language model gets the true class names where the data has them, or else
the label space. Beside the table lies `questions.csv` (rank, text, source), which can be edited and passed back with
`--questions.file`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from fgvr.config import Config, ConfigError, Mllm
from fgvr.config.data import DRAWN
from pipelines.asks import INSTRUCTIONS, NAME_TOKENS, QUESTION_TOKENS, Asked, Load, sampled
from pipelines.command import stage_main
from pipelines.photo_counts import may_have_truth
from pipelines.run_tables import Run
from pipelines.stage import Stage

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.metrics.semantic import SentenceBert
    from fgvr.mllm.backend import TextGenerator
    from fgvr.mllm.questions import AspectQuestion, Wanted

QUESTIONS_FILE = "questions.csv"
Written: TypeAlias = "tuple[list[AspectQuestion], tuple[str, ...]]"
"""Questions, and the remarks of the backend that wrote them."""


class Questions(Stage):
    """Aspect questions, one row per question."""

    table = "questions"
    one_call = True

    def check(self, config: Config) -> None:
        """Read the questions, or check that a model can write them; raises a UserError."""
        from fgvr.metrics.semantic import find_sentence_model
        from fgvr.mllm.questions import read_questions

        asked = config.questions
        if asked.file is not None:
            read_questions(asked.file)
        elif asked.llm is None and not isinstance(config.ingest.source, DRAWN):
            raise ConfigError(
                "questions: set questions.file (a yes/no question about visible aspects on each line), or "
                "questions.llm to let a language model write them, e.g. --questions.llm.kind openai "
                "--questions.llm.model gpt-4o"
            )
        elif asked.llm is not None and asked.llm.made_up:
            raise ConfigError("questions.llm.kind = simulated: it writes no questions; set questions.file")
        elif asked.llm is not None and (_about_names(config) or not may_have_truth(config.ingest.source)):
            check_asked_with_labels(config)
        if asked.compares_meaning:
            find_sentence_model(asked.duplicate_model, "questions.duplicate_model")

    def workers(self, config: Config) -> str | None:
        """One worker of `questions.workers`, where a model writes them."""
        return "questions.workers" if writes(config) else None

    def model(self, config: Config) -> str | None:
        """The language model that writes the questions."""
        return "questions.llm" if writes(config) else None

    def consults(self, run: Run) -> Iterable[str]:
        """The samples, whose true classes, if any, are the names that the questions are about."""
        return ("samples",) if writes(run.config) else ()

    def reads(self, run: Run) -> Iterable[str]:
        """The table that gives the class names: the samples, or the labels."""
        if not writes(run.config):
            return ()
        if not _about_names(run.config) and run.photos.kinds:
            return ("samples",)
        check_asked_with_labels(run.config)  # or else labels and questions would wait for each other
        return ("labels",)

    def recipe(self, run: Run) -> Any:
        """The questions themselves, or the model that writes them and their number."""
        from fgvr.metrics.semantic import look_up
        from fgvr.mllm.backends import backend_identity
        from fgvr.mllm.questions import READER

        config = run.config.questions
        if not writes(run.config):
            return [[q.text, q.rank, q.source] for q in given(run.config)[: config.keep]]
        decides = {"llm": backend_identity(_model(run.config)), "reader": READER, **asdict(_wanted(run.config))}
        if config.compares_meaning:
            decides["duplicate_model"] = look_up(config.duplicate_model, "questions.duplicate_model").identity()
        return decides

    def asks(self, run: Run) -> Asked:
        """One conversation, which writes the questions and selects the best."""
        from fgvr.mllm.questions import MAX_CLASS_NAMES
        from fgvr.mllm.request_tokens import FRAME

        asked = run.config.questions
        names = min(run.photos.kinds or sampled(run.config, run.photos), MAX_CLASS_NAMES) * NAME_TOKENS
        prompts = 2 * FRAME + INSTRUCTIONS + names + asked.generate * QUESTION_TOKENS
        return Asked(1, Load(2, prompts, 0, (asked.generate + asked.keep) * QUESTION_TOKENS))

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Write the given questions, or let the model write them."""
        from fgvr.mllm.questions import question_rows, write_questions

        if writes(run.config):
            found, remarks = _written(run)
        else:
            found, remarks = given(run.config)[: run.config.questions.keep], ()
        folder.write_bytes(QUESTIONS_FILE, write_questions(found))
        summary = folder.write_table(question_rows(found))
        summary.extra = {"sources": sorted({question.source for question in found})}
        summary.remarks = remarks
        return summary


def _about_names(config: Config) -> bool:
    """Whether students learn names that a method gives, whatever true classes there are."""
    return config.makd.target not in {"auto", "true"}


def writes(config: Config) -> bool:
    """Whether a language model has to write the questions."""
    return config.questions.file is None and config.questions.llm is not None


def given(config: Config) -> list[AspectQuestion]:
    """Questions that need no model: from the configured file, or the field guide's own; raises ConfigError."""
    from fgvr.demo.questions import QUESTIONS
    from fgvr.mllm.questions import AspectQuestion, read_questions

    if config.questions.file is not None:
        return read_questions(config.questions.file)
    if isinstance(config.ingest.source, DRAWN):
        return [AspectQuestion(q.text, rank, "field guide") for rank, q in enumerate(QUESTIONS, start=1)]
    raise ConfigError("questions: set questions.file, or questions.llm to let a language model write them")


def _model(config: Config) -> Mllm:
    from fgvr.mllm.backends import exactly

    if config.questions.llm is None:
        raise ConfigError("questions: set questions.file, or questions.llm to let a language model write them")
    return exactly(config.questions.llm)


def _wanted(config: Config) -> Wanted:
    from fgvr.mllm.questions import Wanted

    asked = config.questions
    return Wanted(asked.subject, asked.generate, asked.keep, asked.duplicate_similarity)


def _written(run: Run) -> Written:
    """Let a model write the questions, in a worker: the driver may have neither the memory nor a GPU."""
    from cluster.once import run_once
    from fgvr.metrics.semantic import look_up
    from fgvr.mllm.backends import backend_engine

    config = run.config.questions
    duplicate_model = config.duplicate_model
    if config.compares_meaning:
        found = look_up(duplicate_model, "questions.duplicate_model")
        duplicate_model = found.exactly if found.commit is not None else duplicate_model
    llm = _model(run.config)
    written: Written = run_once(
        _generate,
        *(_class_names(run), _wanted(run.config), llm.title, duplicate_model),
        workers=config.workers,
        engine=backend_engine(llm, vision=config.llm == run.config.mllm),  # it may be the model that labels
        keep_engine=run.still_asks(Questions()),
    )
    return written


def _generate(backend: TextGenerator, names: list[str], wanted: Wanted, source: str, duplicate_model: str) -> Written:
    from fgvr.metrics.semantic import SentenceBert
    from fgvr.mllm.questions import generate_questions
    from fgvr.part_worker import remarks_of

    def load_encoder() -> SentenceBert:
        return SentenceBert(duplicate_model, field="questions.duplicate_model")

    questions = generate_questions(backend, names, wanted, source=source, load_encoder=load_encoder)
    return questions, remarks_of(backend)


def _class_names(run: Run) -> list[str]:
    """The class names that the questions are about."""
    import pyarrow.compute as pc

    from fgvr.names.label_space import read_label_space

    if tuple(Questions().reads(run)) == ("labels",):
        return list(read_label_space(run.table("labels")).labels)
    true: set[str] = set()
    for rows in run.table("samples").batches(["class_name"]):
        true.update(pc.unique(rows["class_name"].drop_null()).to_pylist())
    return sorted(true)


def check_asked_with_labels(config: Config) -> None:
    """Raise a ConfigError where questions are to be asked together with the labels, but are written from the labels."""
    if config.aspects.with_labels:
        raise ConfigError(
            "aspects.with_labels: the questions would be written for the names that the labels give, so they cannot be"
            " asked in one pass with them: set questions.file, or aspects.with_labels to false"
        )


if __name__ == "__main__":
    stage_main(__doc__, "questions")
