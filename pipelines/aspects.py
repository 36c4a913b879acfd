"""aspects: p(yes) of every aspect question for the student's training images. In: samples, questions. Out: aspects.

    python pipelines/aspects.py --aspects.split train --mllm.model OpenGVLab/InternVL3_5-8B-HF

One row per image: `p_yes` and `label_mass` for all questions in the order of their ids. `p_yes` is the softmax over the
exact log-probabilities of the two answer words as the first token of the reply. An image is read, preprocessed and
encoded once for all its questions, and the common prefix of its prompts is computed once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr.config import Config
from pipelines.asks import Asked, questioning
from pipelines.command import stage_main
from pipelines.run_tables import Run
from pipelines.stage import RowJob, RowStage
from pipelines.student_images import aspect_ids, follows_selection

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.mllm.scoring_workers import AspectSettings
    from fgvr.tables import Table


class QuestionStage(RowStage):
    """A stage that computes p(yes) of all questions for a set of images."""

    def workers(self, config: Config) -> str | None:
        """The workers of the stage aspects."""
        return "aspects.workers"

    def model(self, config: Config) -> str | None:
        """The MLLM that answers the questions."""
        return "mllm"

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images, and the questions."""
        return ("samples", "questions")

    @abstractmethod
    def which(self, run: Run) -> Ids:
        """Ascending ids of the images that the model is asked about."""

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, the form of the questions, and the ids of the images."""
        from cluster.fingerprint import digest_of_ids

        ids = digest_of_ids(self.which(run))
        return aspect_decides(run.config) | {"workers": run.config.aspects.workers, "ids": ids}

    def job(self, run: Run) -> RowJob:
        """One row per image, with the answers to all questions."""
        from fgvr import schemas
        from fgvr.mllm.scoring_workers import AspectWorker

        settings = aspect_settings(run.config, run.table("questions"))
        schema = schemas.aspects(len(settings.task.questions))
        return RowJob(self.which(run), AspectWorker, {"settings": settings}, schema)

    def finish(self, run: Run, summary: StageSummary) -> None:
        """Record the number of questions."""
        summary.extra = {"questions": run.table("questions").rows}


class Aspects(QuestionStage):
    """The aspects of the student's training images: asked here, or taken from the common pass with labels."""

    table = "aspects"

    def wanted(self, config: Config) -> bool:
        """Not needed where the student learns made-up answers."""
        return config.makd.aspect_targets == "mllm"

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """The split of the images that the model is asked about."""
        return [("aspects.split", config.aspects.split)]

    def workers(self, config: Config) -> str | None:
        """None where the stage `looks` asks the questions."""
        return None if config.aspects.with_labels else super().workers(config)

    def model(self, config: Config) -> str | None:
        """None where the stage `looks` asks the questions."""
        return None if config.aspects.with_labels else super().model(config)

    def consults(self, run: Run) -> Iterable[str]:
        """The samples, which decide the images, and what was chosen for labels, where these come first."""
        chosen = follows_selection(run.config, run.config.aspects.split)
        return ("samples", *(("selected",) if chosen else ()))

    def reads(self, run: Run) -> Iterable[str]:
        """The images and questions, or the answers that `looks` collected."""
        return ("looks",) if run.config.aspects.with_labels else super().reads(run)

    def which(self, run: Run) -> Ids:
        """The images that `aspects.split` and `aspects.max_images` select."""
        return aspect_ids(run)

    def recipe(self, run: Run) -> dict[str, Any]:
        """Only the ids of the images where `looks` asks the questions."""
        from cluster.fingerprint import digest_of_ids

        if run.config.aspects.with_labels:
            return {"ids": digest_of_ids(self.which(run))}
        return super().recipe(run)

    def asks(self, run: Run) -> Asked:
        """One request per question and image."""
        config = run.config.aspects
        return Asked(run.photos.bounded(config.split, config.max_images), questioning(run))

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Ask the questions, or take the answers from `looks`."""
        from fgvr import schemas
        from pipelines.look_parts import take_part

        if not run.config.aspects.with_labels:
            return super().compute(run, folder)
        schema = schemas.aspects(run.table("questions").rows)
        return take_part(run, folder, column="aspects", ids=self.which(run), schema=schema)


def aspect_settings(config: Config, questions: Table) -> AspectSettings:
    """The settings of the workers that ask the questions."""
    from fgvr.mllm.backend import AspectTask
    from fgvr.mllm.scoring_workers import AspectSettings

    asked = config.aspects
    texts = tuple(questions.read(["text"])["text"].to_pylist())
    return AspectSettings(
        task=AspectTask(texts, asked.instruction, asked.order, asked.words),
        min_label_mass=asked.min_label_mass,
        limits=config.ingest.limits,
        threads=max(2, int(asked.workers.num_cpus)),
    )


def aspect_decides(config: Config) -> dict[str, Any]:
    """Everything that decides the aspects of an image, except the questions themselves."""
    from fgvr.mllm.backends import backend_identity

    asked = config.aspects
    return {
        "mllm": backend_identity(config.mllm),
        "instruction": asked.instruction,
        "order": asked.order,
        "words": asked.words,
        "min_label_mass": asked.min_label_mass,
        "limits": config.ingest.limits,
    }


if __name__ == "__main__":
    stage_main(__doc__, "aspects")
