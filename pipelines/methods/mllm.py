"""mllm: the MLLM itself names the images; an answer that the labels contain gets the same name as there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fgvr.config.label_sources import AnswerFile
from pipelines.answers import SourcedAnswers
from pipelines.asks import Asked, compared, naming
from pipelines.compared import ComparedStage, evaluated
from pipelines.label import ALIASES_FILE, NameStage, answer_limit, as_source, form_of, label_settings
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from fgvr.arrays import Ids
    from fgvr.config import Config
    from fgvr.names.answer_items import Form


class EvalAnswers(ComparedStage, SourcedAnswers):
    """The answers of the first source of labels about the compared images, each asked once for one label."""

    table = "eval_mllm_answers"
    several = False

    def consults(self, run: Run) -> Iterable[str]:
        """The tables that decide the images; not NeaR, which decides only examples: the engine need not wait."""
        return ("samples", "labels")

    def which(self, run: Run) -> Ids:
        """The compared images."""
        return evaluated(run)[0].ids

    def asks(self, run: Run) -> Asked:
        """One request per image."""
        load = naming(run, label_settings(as_source(run.config, self.source(run.config)), several=False))
        return Asked(compared(run.config, run.photos), load)


class EvalLabels(ComparedStage, NameStage):
    """The names in these answers: mapped by the aliases of the labels, or else cleaned."""

    table = "eval_mllm"
    answers = "eval_mllm_answers"

    def consults(self, run: Run) -> Iterable[str]:
        """Nothing besides the tables it reads."""
        return ()

    def reads(self, run: Run) -> Iterable[str]:
        """The answers, and the labels, which give the names."""
        return (self.answers, "labels")

    def form(self, config: Config) -> Form:
        """One label per answer, of a file as many as it has; structured where the labels' answers are."""
        form, source = form_of(config, config.label.source), config.label.source
        return form if isinstance(source, AnswerFile) else form._replace(listed=1)

    def limit(self, config: Config) -> str | None:
        """The field that limits an answer of the first source."""
        return answer_limit(config, config.label.source, several=False)

    def aliases(self, run: Run) -> str | None:
        """The aliases of the labels."""
        return run.table("labels").path(ALIASES_FILE)
