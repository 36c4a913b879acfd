"""mllm: the MLLM itself names the images; an answer known from the labels gets the same name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipelines.asks import Asked, naming
from pipelines.compared import ComparedStage, evaluated
from pipelines.label import ALIASES_FILE, AnswerStage, NameStage, label_settings
from pipelines.stage import Run

if TYPE_CHECKING:
    from fgvr.arrays import Ids
    from fgvr.config import Config
    from fgvr.names.answer_items import Form


class EvalAnswers(ComparedStage, AnswerStage):
    """What the MLLM says about the compared images, each asked once for one label."""

    table = "eval_mllm_answers"

    def consults(self, run: Run) -> Iterable[str]:
        """Which images are compared; not NeaR, which says only what the report shows: so the engine need not wait."""
        return ("samples", "labels")

    def which(self, run: Run) -> Ids:
        """Those that are compared."""
        return evaluated(run)[0].ids

    def asks(self, run: Run) -> Asked:
        """One request per image."""
        from fgvr.evaluation.images import UNLABELLED_IMAGES

        evaluate, photos = run.config.evaluate, run.photos
        most = evaluate.max_images
        if most is None and not photos.classes.get(evaluate.split):
            most = UNLABELLED_IMAGES
        load = naming(run, label_settings(run.config, several=False))
        return Asked(photos.bounded(evaluate.split, most), load)


class EvalLabels(ComparedStage, NameStage):
    """What it means: by the aliases of the labels, or cleaned."""

    table = "eval_mllm"
    answers = "eval_mllm_answers"

    def consults(self, run: Run) -> Iterable[str]:
        """Nothing else."""
        return ()

    def reads(self, run: Run) -> Iterable[str]:
        """The answers, and the labels, whose names they get."""
        return (self.answers, "labels")

    def form(self, config: Config) -> Form:
        """One label; structured where answers are."""
        from fgvr.names.answer_items import Form

        return Form(structured=config.label.answer == "structured")

    def aliases(self, run: Run) -> str | None:
        """Those of the labels."""
        return run.table("labels").path(ALIASES_FILE)
