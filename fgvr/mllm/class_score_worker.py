"""class_scores: log-likelihood of every class name as the MLLM's answer, one row of the table an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from fgvr import schemas
from fgvr.config.data import ImageLimits
from fgvr.config.models import Mllm
from fgvr.mllm.backend import NameAnswer, NameScorer, NameTask
from fgvr.mllm.backends import make_backend
from fgvr.mllm.pictures import PictureReader


@dataclass(frozen=True)
class ClassScoreSettings:
    """What the workers of class_scores need; pickles.

    Attributes:
        mllm: the model, one that scores names.
        task: the class names and what is asked.
        limits: of reading an image.
        threads: that read images.
    """

    mllm: Mllm
    task: NameTask
    limits: ImageLimits
    threads: int = 4


class ClassScoreWorker:
    """The PartWorker of class_scores; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: ClassScoreSettings, backend: NameScorer | None = None) -> None:
        """Load the model, or take a backend that runs already."""
        self.settings = settings
        self.backend: NameScorer = backend or make_backend(settings.mllm)

    def process(self, rows: pa.Table) -> pa.Table:
        """Scores for rows with `image_id` and `uri`: one row of `class_scores(C)` each, in order."""
        ids = rows["image_id"].to_pylist()
        reader = PictureReader(rows["uri"].to_pylist(), self.settings.limits, threads=self.settings.threads)
        given = self.backend.name_scores((picture for _, picture in reader), self.settings.task)
        answers = {place: NameAnswer(failure=failure) for place, failure in reader.failures.items()}
        answers |= dict(zip(reader.places, given, strict=True))
        return score_rows(ids, [answers[place] for place in range(len(ids))], len(self.settings.task.names))


def score_rows(ids: Sequence[int], answers: Sequence[NameAnswer], classes: int) -> pa.Table:
    """Rows of the class_scores table for C = `classes`, one an id."""
    schema = schemas.class_scores(classes)
    scores = [answer.scores if answer.failure is None else None for answer in answers]
    return pa.table(
        {
            "image_id": ids,
            "scores": pa.array(scores, type=schema.field("scores").type),
            "prompt_tokens": [answer.prompt_tokens for answer in answers],
            "cached_tokens": [answer.cached_tokens for answer in answers],
            "error": [None if answer.failure is None else answer.failure.as_row() for answer in answers],
        },
        schema=schema,
    )
