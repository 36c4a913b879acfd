"""aspects, class_scores, reask: probabilities of answers about each image, one row of the stage's table per image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fgvr import schemas
from fgvr.beliefs.second_look import decide
from fgvr.config.data import ImageLimits
from fgvr.images.pictures import Picture, PictureReader
from fgvr.mllm.backend import AspectAnswer, AspectScorer, AspectTask, NameAnswer, NameScorer, NameTask
from fgvr.part_worker import remarks_of
from fgvr.schemas import Failure, Reason

# aspects: p(yes) of every question for each image, one row of the aspects table per image.


@dataclass(frozen=True)
class AspectSettings:
    """What the workers of aspects need; picklable.

    Attributes:
        task: the questions and how to ask them.
        min_label_mass: an image with a lower mean label mass fails.
        limits: limits on reading an image.
        threads: threads that read images.
    """

    task: AspectTask
    min_label_mass: float
    limits: ImageLimits
    threads: int = 4


class AspectWorker:
    """The PartWorker of aspects; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: AspectSettings, backend: AspectScorer) -> None:
        """Ask a backend that is running already."""
        self.settings, self.backend = settings, backend

    @property
    def remarks(self) -> tuple[str, ...]:
        """See fgvr.part_worker.remarks_of."""
        return remarks_of(self.backend)

    def process(self, rows: pa.Table) -> pa.Table:
        """Probabilities for rows with `image_id` and `uri`: one row of `aspects(Q)` each, in order."""
        ids = rows["image_id"].to_pylist()
        reader = PictureReader(rows["uri"].to_pylist(), self.settings.limits, threads=self.settings.threads)
        given = self.answers(picture for _, picture in reader)
        answers = reader.in_order(given, lambda failure: AspectAnswer(failure=failure))
        return aspect_rows(ids, answers, len(self.settings.task.questions))

    def answers(self, pictures: Iterable[Picture]) -> list[AspectAnswer]:
        """The probabilities of each of some images, in order."""
        return [self._judged(answer) for answer in self.backend.aspects(pictures, self.settings.task)]

    def _judged(self, answer: AspectAnswer) -> AspectAnswer:
        """The answer, or a failure if the model plainly meant to say something other than yes or no."""
        if answer.failure is not None or float(answer.label_mass.mean()) >= self.settings.min_label_mass:
            return answer
        mass, words = float(answer.label_mass.mean()), " + ".join(self.settings.task.words)
        detail = f"mean p({words}) = {mass:.2g} is below aspects.min_label_mass"
        return AspectAnswer(failure=Failure(Reason.NO_LABEL_MASS, detail))


def aspect_rows(ids: Sequence[int], answers: Sequence[AspectAnswer], questions: int) -> pa.Table:
    """Rows of the aspects table for Q = `questions`, one per id."""
    schema = schemas.aspects(questions)
    good = [answer.failure is None for answer in answers]
    return pa.table(
        {
            "image_id": ids,
            "p_yes": _vectors([a.p_yes for a in answers], good, schema.field("p_yes").type),
            "label_mass": _vectors([a.label_mass for a in answers], good, schema.field("label_mass").type),
            "prompt_tokens": [answer.prompt_tokens if answer.tokens_known else None for answer in answers],
            "cached_tokens": [answer.cached_tokens for answer in answers],
            "error": [None if answer.failure is None else answer.failure.as_row() for answer in answers],
        },
        schema=schema,
    )


def _vectors(values: Sequence[np.ndarray], good: Sequence[bool], kind: pa.DataType) -> pa.Array:
    return pa.array([value if known else None for value, known in zip(values, good, strict=True)], type=kind)


# class_scores: log-likelihood of every class name as the MLLM's answer, one row of the table per image.


@dataclass(frozen=True)
class ClassScoreSettings:
    """What the workers of class_scores need; picklable.

    Attributes:
        task: the class names and the prompt.
        limits: limits on reading an image.
        threads: threads that read images.
    """

    task: NameTask
    limits: ImageLimits
    threads: int = 4


class ClassScoreWorker:
    """The PartWorker of class_scores; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: ClassScoreSettings, backend: NameScorer) -> None:
        """Ask a backend that is running already."""
        self.settings, self.backend = settings, backend

    def process(self, rows: pa.Table) -> pa.Table:
        """Scores for rows with `image_id` and `uri`: one row of `class_scores(C)` each, in order."""
        ids = rows["image_id"].to_pylist()
        reader = PictureReader(rows["uri"].to_pylist(), self.settings.limits, threads=self.settings.threads)
        given = self.backend.name_scores((picture for _, picture in reader), self.settings.task)
        answers = reader.in_order(given, lambda failure: NameAnswer(failure=failure))
        return score_rows(ids, answers, len(self.settings.task.names))


def score_rows(ids: Sequence[int], answers: Sequence[NameAnswer], classes: int) -> pa.Table:
    """Rows of the class_scores table for C = `classes`, one per id."""
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


# reask: log-likelihood of a few names as the answer about each image, other names for each.


@dataclass(frozen=True)
class ChoiceSettings:
    """What the workers of reask need; picklable.

    Attributes:
        prompt: what is asked about each image.
        choices: by image id the names that are compared: the label first, then the one that the neighbourhood prefers.
        limits: limits on reading an image.
        threads: threads that read images.
    """

    prompt: str
    choices: Mapping[int, tuple[str, ...]]
    limits: ImageLimits
    threads: int = 4


class ChoiceWorker:
    """The PartWorker of reask; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: ChoiceSettings, backend: NameScorer) -> None:
        """Ask a backend that is running already."""
        self.settings, self.backend = settings, backend

    def process(self, rows: pa.Table) -> pa.Table:
        """Scores for rows with `image_id` and `uri`: one row of `REASKED` each, in order.

        Images with the same names are asked about together.
        """
        ids, uris = rows["image_id"].to_pylist(), rows["uri"].to_pylist()
        groups: dict[tuple[str, ...], list[int]] = {}
        for place, image in enumerate(ids):
            groups.setdefault(self.settings.choices[image], []).append(place)
        answers: dict[int, NameAnswer] = {}
        for names, places in groups.items():
            reader = PictureReader(
                [uris[place] for place in places], self.settings.limits, threads=self.settings.threads
            )
            given = self.backend.name_scores((picture for _, picture in reader), NameTask(names, self.settings.prompt))
            found = reader.in_order(given, lambda failure: NameAnswer(failure=failure))
            answers |= dict(zip(places, found, strict=True))
        return choice_rows(ids, [self.settings.choices[image] for image in ids], [answers[n] for n in range(len(ids))])


def choice_rows(ids: Sequence[int], names: Sequence[tuple[str, ...]], answers: Sequence[NameAnswer]) -> pa.Table:
    """Rows of the reasked table: what was compared, what the model prefers, and whether that replaces the label."""
    content = []
    for image, compared, answer in zip(ids, names, answers, strict=True):
        failed = answer.failure is not None
        scores = None if failed else [float(score) for score in answer.scores]
        found = None if scores is None else decide(compared, scores, compared[1] if len(compared) > 1 else None)
        content.append(
            {
                "image_id": image,
                "label": compared[0],
                "names": list(compared),
                "scores": scores,
                "chosen": None if found is None else found.chosen,
                "replaced": found is not None and found.replaced,
                "prompt_tokens": answer.prompt_tokens,
                "cached_tokens": answer.cached_tokens,
                "error": None if answer.failure is None else answer.failure.as_row(),
            }
        )
    return pa.Table.from_pylist(content, schema=schemas.REASKED)
