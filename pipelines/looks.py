"""looks: ask for labels and aspects in one pass over the images. In: samples, questions. Out: looks, answers, aspects.

    python pipelines/looks.py --aspects.with_labels true --questions.file questions.txt

With `aspects.with_labels` the stages label and aspects ask nothing themselves. This stage reads every image once; it
asks for its name if the image is in the discovery set, and all questions if the student trains on it. Both stages take
their rows from this table; these equal the rows that they would have computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, ConfigError
from pipelines.asks import Asked, naming, questioning, sampled
from pipelines.aspects import QuestionStage, aspect_decides, aspect_settings
from pipelines.command import stage_main
from pipelines.embed import chosen_by, discovered
from pipelines.label import answer_decides, label_settings
from pipelines.run_tables import Run
from pipelines.stage import RowJob
from pipelines.student_images import aspect_ids

if TYPE_CHECKING:
    from fgvr.arrays import Ids


class Looks(QuestionStage):
    """The model's answers about the images of label and aspects."""

    table = "looks"

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """The splits of both stages."""
        return [("label.images.split", config.label.images.drawn_from), ("aspects.split", config.aspects.split)]

    def consults(self, run: Run) -> Iterable[str]:
        """What decides the images of either stage."""
        return ("samples", *chosen_by(run.config))

    def which(self, run: Run) -> Ids:
        """The images of either stage."""
        import numpy as np

        return np.union1d(discovered(run), aspect_ids(run))

    def recipe(self, run: Run) -> dict[str, Any]:
        """Everything that decides answers and aspects, and the images of each."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.mllm.backends import exactly

        settings = label_settings(run.config, several=True)
        of_label = answer_decides(replace(settings, mllm=exactly(settings.mllm)))
        decides = {"label": of_label, "aspects": aspect_decides(run.config)}
        ids = [digest_of_ids(discovered(run)), digest_of_ids(aspect_ids(run))]
        return decides | {"workers": run.config.aspects.workers, "ids": ids}

    def job(self, run: Run) -> RowJob:
        """One row per image, read once, with its name, its aspects, or both."""
        from fgvr import schemas
        from fgvr.mllm.backends import exactly
        from fgvr.mllm.look_worker import LookSettings, LookWorker

        config, questions = run.config, run.table("questions")
        label_ids, ids = discovered(run), aspect_ids(run)
        of_label = replace(label_settings(config, several=True), mllm=exactly(config.mllm))
        settings = LookSettings(of_label, aspect_settings(config, questions), label_ids, ids)
        return RowJob(self.which(run), LookWorker, {"settings": settings}, schemas.looks(questions.rows))

    def asks(self, run: Run) -> Asked:
        """The requests of both stages, over all their images."""
        asked = run.config.aspects
        of_label = naming(run, label_settings(run.config, several=True)).times(sampled(run.config, run.photos))
        load = of_label + questioning(run).times(run.photos.bounded(asked.split, asked.max_images))
        rows, at_most = _both(run)
        return Asked(rows, load.times(1 / max(rows, 1)), at_most)


def _both(run: Run) -> tuple[int, bool]:
    """Number of images in either stage; and whether it is only a bound, because neither sample contains the other."""
    photos, named, asked = run.photos, run.config.label.images, run.config.aspects
    of_label, of_aspects = sampled(run.config, photos), photos.bounded(asked.split, asked.max_images)
    one = named.drawn_from == asked.split
    whole = asked.max_images is None or of_aspects == photos.splits.get(asked.split, 0)
    if one and (whole or (named.per_class is None and not named.chosen and named.seed == asked.seed)):
        return max(of_label, of_aspects), False
    together = of_label + of_aspects
    return (min(together, photos.splits.get(asked.split, 0)), True) if one else (together, False)


def _check(config: Config) -> None:
    if not config.aspects.with_labels:
        raise ConfigError("aspects.with_labels is false: the stages label and aspects ask by themselves")


if __name__ == "__main__":
    stage_main(__doc__, "looks", check=_check)
