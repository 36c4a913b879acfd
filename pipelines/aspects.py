"""aspects: p(yes) of every aspect question for the student's training images. In: samples, questions. Out: aspects.

    python pipelines/aspects.py --aspects.split train --mllm.model OpenGVLab/InternVL3_5-8B-HF

One row per image: `p_yes` and `label_mass` for all questions in the order of their ids, softmax of the first reply
token's exact log-probabilities of the two answer words. An image is read, preprocessed and encoded once for all its
questions; its prompt's prefix is computed once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, ConfigError
from pipelines.asks import Asked, questioning
from pipelines.command import stage_main
from pipelines.stage import RowJob, RowStage, Run, per_samples

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.arrays import Ids
    from fgvr.mllm.scoring_workers import AspectSettings
    from fgvr.tables import Table


class QuestionStage(RowStage):
    """p(yes) of all questions about images."""

    def workers(self, config: Config) -> str | None:
        """Those of aspects."""
        return "aspects.workers"

    def model(self, config: Config) -> str | None:
        """The MLLM."""
        return "mllm"

    def reads(self, run: Run) -> Iterable[str]:
        """The images' places, and the questions."""
        return ("samples", "questions")

    @abstractmethod
    def which(self, run: Run) -> Ids:
        """Ascending ids of the images that are asked about."""

    def recipe(self, run: Run) -> dict[str, Any]:
        """The model, how it is asked, and about which images."""
        from cluster.fingerprint import digest_of_ids

        ids = digest_of_ids(self.which(run))
        return aspect_decides(run.config) | {"workers": run.config.aspects.workers, "ids": ids}

    def job(self, run: Run) -> RowJob:
        """All questions per image."""
        from fgvr import schemas
        from fgvr.mllm.backends import exactly
        from fgvr.mllm.scoring_workers import AspectWorker

        settings = aspect_settings(run.config, run.table("questions"))
        settings = replace(settings, mllm=exactly(settings.mllm))
        schema = schemas.aspects(len(settings.task.questions))
        return RowJob(self.which(run), AspectWorker, {"settings": settings}, schema)

    def finish(self, run: Run, summary: StageSummary) -> None:
        """How many questions."""
        summary.extra = {"questions": run.table("questions").rows}


class Aspects(QuestionStage):
    """The aspects of the student's training images: by asking, or from what was asked in one pass with labels."""

    table = "aspects"

    def wanted(self, config: Config) -> bool:
        """Not where the student learns made-up answers."""
        return config.makd.aspect_targets == "mllm"

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """That of the images asked about."""
        return [("aspects.split", config.aspects.split)]

    def workers(self, config: Config) -> str | None:
        """None where `looks` has asked."""
        return None if config.aspects.with_labels else super().workers(config)

    def model(self, config: Config) -> str | None:
        """None where `looks` has asked."""
        return None if config.aspects.with_labels else super().model(config)

    def consults(self, run: Run) -> Iterable[str]:
        """Which images there are."""
        return ("samples",)

    def reads(self, run: Run) -> Iterable[str]:
        """Images and questions, or what was said about them."""
        return ("looks",) if run.config.aspects.with_labels else super().reads(run)

    def which(self, run: Run) -> Ids:
        """Those of `aspects.split` and `aspects.max_images`."""
        return aspect_ids(run)

    def recipe(self, run: Run) -> dict[str, Any]:
        """Nothing but the images where `looks` has asked."""
        from cluster.fingerprint import digest_of_ids

        if run.config.aspects.with_labels:
            return {"ids": digest_of_ids(self.which(run))}
        return super().recipe(run)

    def asks(self, run: Run) -> Asked:
        """All questions about each image."""
        config = run.config.aspects
        return Asked(run.photos.bounded(config.split, config.max_images), questioning(run))

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Ask, or take the aspects out of `looks`."""
        from fgvr import schemas
        from pipelines.look_parts import take_part

        if not run.config.aspects.with_labels:
            return super().compute(run, folder)
        schema = schemas.aspects(run.table("questions").rows)
        return take_part(run, folder, column="aspects", ids=self.which(run), schema=schema)


def aspect_settings(config: Config, questions: Table) -> AspectSettings:
    """How the questions are asked."""
    from fgvr.mllm.backend import AspectTask
    from fgvr.mllm.scoring_workers import AspectSettings

    asked = config.aspects
    texts = tuple(questions.read(["text"])["text"].to_pylist())
    return AspectSettings(
        mllm=config.mllm,
        task=AspectTask(texts, asked.instruction, asked.order, asked.words),
        min_label_mass=asked.min_label_mass,
        limits=config.ingest.limits,
        threads=max(2, int(asked.workers.num_cpus)),
    )


def aspect_decides(config: Config) -> dict[str, Any]:
    """What decides the aspects of an image, besides the questions."""
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


@per_samples
def aspect_ids(run: Run) -> Ids:
    """Ascending ids of the images asked about: the split, or the first of it in the order of the seed."""
    from fgvr.sources.sampling import first_of, split_ids

    config, samples = run.config.aspects, run.table("samples")
    ids = split_ids(samples, [config.split])
    if not len(ids):
        known = ", ".join(sorted(samples.extra["splits"]))
        raise ConfigError(f"aspects.split = {config.split}: no image is in this split (there are: {known})")
    return first_of(ids, config.max_images, config.seed)


if __name__ == "__main__":
    stage_main(__doc__, "aspects")
