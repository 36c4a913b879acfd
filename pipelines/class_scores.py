"""class_scores: the MLLM's log-likelihood of every class name per image. In: samples, classes. Out: class_scores.

    python pipelines/class_scores.py --mllm.model OpenGVLab/InternVL3_5-8B-HF

One row per image of `makd.split`: for every class of the student, the mean log-probability of the tokens of its name as
the reply to `label.prompt` (or `class_scores.prompt`). Their softmax is the teacher `mllm` of `makd.distillation`. This
needs a model that vLLM runs in the worker: chat servers return no probabilities for answers that they did not give.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr.config import Config
from pipelines.asks import NAME_TOKENS, Asked, Load, class_count, photo_tokens
from pipelines.command import stage_main
from pipelines.run_tables import Run
from pipelines.stage import RowJob, RowStage
from pipelines.student_images import asked_of, consulted, learned_rows, learns_names, namer, scope
from pipelines.student_task import class_names
from pipelines.teacher import asks_mllm, engine_of

if TYPE_CHECKING:
    from cluster.stage import StageSummary
    from fgvr.arrays import Ids
    from fgvr.mllm.scoring_workers import ClassScoreSettings


class ClassScores(RowStage):
    """Log-likelihoods of the class names as the MLLM's answer, for the student's training images."""

    table = "class_scores"

    def wanted(self, config: Config) -> bool:
        """Needed where the MLLM is the teacher of the student."""
        return asks_mllm(config.makd)

    def check(self, config: Config) -> None:
        """Raise ConfigError for a model behind a server."""
        engine_of(config)

    def workers(self, config: Config) -> str | None:
        """Workers of its own: scoring needs parts of another size than answering."""
        return "class_scores.workers"

    def model(self, config: Config) -> str | None:
        """The MLLM that scores the names."""
        return "mllm"

    def consults(self, run: Run) -> Iterable[str]:
        """The model whose names are the classes where no true ones are known, and what decides the images."""
        yield from consulted(run)
        if learns_names(run.config, run.photos):
            yield namer(run.config)

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images."""
        return ("samples",)

    def settings(self, run: Run) -> ClassScoreSettings:
        """The worker's settings: the class names, and the prompt."""
        from fgvr.mllm.backend import NameTask
        from fgvr.mllm.scoring_workers import ClassScoreSettings

        config = run.config.class_scores
        return ClassScoreSettings(
            task=NameTask(class_names(run), config.prompt or run.config.label.prompt),
            limits=run.config.ingest.limits,
            threads=max(2, int(config.workers.num_cpus)),
        )

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, the class names, the prompt, and the ids of the images."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.mllm.backends import backend_identity, exactly

        settings = self.settings(run)
        return {
            "mllm": backend_identity(exactly(engine_of(run.config))),
            "prompt": settings.task.prompt,
            "names": settings.task.names,
            "limits": settings.limits,
            "workers": run.config.class_scores.workers,
            "ids": digest_of_ids(_scored(run)),
        }

    def job(self, run: Run) -> RowJob:
        """One row per image, with the scores of all names."""
        from fgvr import schemas
        from fgvr.mllm.scoring_workers import ClassScoreWorker

        settings = self.settings(run)
        schema = schemas.class_scores(len(settings.task.names))
        return RowJob(_scored(run), ClassScoreWorker, {"settings": settings}, schema)

    def asks(self, run: Run) -> Asked:
        """All names for each image."""
        from fgvr.mllm.request_tokens import FRAME, text_tokens

        config, makd, photos = run.config, run.config.makd, run.photos
        names, at_most = class_count(config, photos)
        most = None if scope(config, photos) == "all" else config.aspects.max_images
        head = FRAME + photo_tokens(run) + text_tokens(config.class_scores.prompt or config.label.prompt)
        row = Load(names, names * (head + NAME_TOKENS), head * max(0, names - 1), 0)
        return Asked(photos.bounded(makd.split, most), row, at_most)

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Record the number of classes."""
        summary.extra = {"classes": len(class_names(run))}


def _scored(run: Run) -> Ids:
    """The images that students learn from, of a pool only those that the MLLM is asked about."""
    if scope(run.config, run.photos) == "all":
        ids: Ids = learned_rows(run)["image_id"].to_numpy()
        return ids
    return asked_of(run, run.config.makd.split, "makd.split")


if __name__ == "__main__":
    stage_main(__doc__, "class_scores")
