"""signatures: a language model answers multiple-choice questions about each class. In: class names. Out: signatures.

    python pipelines/signatures.py --signatures.file choices.txt --makd.signature_weight 1

One row per class of the student, by its name alone: for each question the probabilities of its options, those of their
letters as the first token of the reply. No image is looked at. The student with aspects learns the signature of an
image's class where `makd.signature_weight` is above 0 (LaViD, arXiv 2606.27527).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, ConfigError, Mllm
from pipelines.asks import NAME_TOKENS, Asked, Load, class_count
from pipelines.command import stage_main
from pipelines.run_tables import Run, per_run
from pipelines.stage import RowJob, RowStage, setting
from pipelines.student_images import consulted, learns_names, namer
from pipelines.student_task import class_names

if TYPE_CHECKING:
    from cluster.stage import StageSummary
    from fgvr.mllm.choices import ChoiceQuestion, ChoiceTask


class Signatures(RowStage):
    """What a language model answers to multiple-choice questions about the student's classes, one row per class."""

    table = "signatures"

    def wanted(self, config: Config) -> bool:
        """Needed where the student learns signatures."""
        return config.makd.signature_weight > 0

    def check(self, config: Config) -> None:
        """Read the questions; raises a UserError."""
        read_questions(config)

    def workers(self, config: Config) -> str | None:
        """Workers of its own: the model may be another one than the MLLM."""
        return "signatures.workers"

    def model(self, config: Config) -> str | None:
        """The language model, or else the MLLM."""
        return "mllm" if config.signatures.llm is None else "signatures.llm"

    def shows_images(self, config: Config) -> bool:
        """Not of itself, but the model may be the one that labels."""
        return _model(config) == config.mllm

    def consults(self, run: Run) -> Iterable[str]:
        """What decides the names of the classes."""
        yield from consulted(run)
        if learns_names(run.config, run.photos):
            yield namer(run.config)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, the questions, how they are asked, and the names."""
        from fgvr.mllm.backends import backend_identity, exactly
        from fgvr.mllm.choices import ASKING

        config, task = run.config.signatures, _task(run)
        return {
            "llm": backend_identity(exactly(_model(run.config))),
            "asking": ASKING,
            "questions": [question.texts for question in task.questions],
            "prompt": task.prompt,
            "rotations": len(task.turns),
            "min_label_mass": config.min_label_mass,
            "names": class_names(run),
            "workers": config.workers,
        }

    def job(self, run: Run) -> RowJob:
        """One row per class, with the answers to all questions."""
        import numpy as np

        from fgvr.mllm.signature_worker import ClassRows, SignatureSettings, SignatureWorker
        from fgvr.schemas import SIGNATURES

        names, task = class_names(run), _task(run)
        settings = SignatureSettings(task, run.config.signatures.min_label_mass)
        ids = np.arange(len(names), dtype=np.int64)
        arguments = {"settings": settings}
        return RowJob(ids, SignatureWorker, arguments, SIGNATURES, ("class_id", "name"), ClassRows(names))

    def asks(self, run: Run) -> Asked:
        """A request per question and rotation for each class; its question and options are a prefix of all classes."""
        from fgvr.mllm.request_tokens import FRAME, text_tokens

        if run.config.signatures.file is None:  # the check says so where the table is wanted
            return Asked(0, Load(1))
        task, (rows, at_most) = _task(run), class_count(run.config, run.photos)
        asked = [text_tokens(task.conversation(turn, "")[0]["content"][0]["text"]) for turn in task.turns]
        prompt = sum(asked) + len(asked) * (FRAME + NAME_TOKENS)
        return Asked(rows, Load(len(asked), prompt, 0, len(asked)), at_most)

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Record the questions, of which the student has the outputs."""
        summary.extra = {"choices": [question.texts for question in _task(run).questions]}


def read_questions(config: Config) -> tuple[ChoiceQuestion, ...]:
    """The configured questions; raises ConfigError without a file, ChoicesError for one that cannot be used."""
    from fgvr.mllm.choice_file import read_choices

    file = config.signatures.file
    if file is None:
        raise ConfigError(
            "signatures: set signatures.file, a multiple-choice question about the classes on each line with its "
            "options behind it (What shape is its beak? | hooked | conical), or makd.signature_weight to 0"
        )
    return read_choices(file)


@per_run
def _task(run: Run) -> ChoiceTask:
    from fgvr.mllm.choices import ChoiceTask

    config = run.config.signatures
    return ChoiceTask(read_questions(run.config), config.prompt, config.rotations)


def _model(config: Config) -> Mllm:
    model: Mllm = setting(config, Signatures().model(config) or "")
    return model


if __name__ == "__main__":
    stage_main(__doc__, "signatures")
