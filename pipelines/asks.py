"""How many photos the stages will ask a model about, with how many requests and tokens; and how many others read.

These are estimates from the config and the counts of photos. Every answer counts with its full token limit, so the
output tokens are an upper bound. Each stage declares its own load (`Stage.asks`, `Stage.works`); this module holds what
they share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fgvr.config import Config, Mllm
from fgvr.config.base import TrainWorkers, Workers
from fgvr.config.data import DRAWN
from pipelines.photo_counts import Photos
from pipelines.registry import stage_of
from pipelines.run_tables import Look, Run, closure, per_run
from pipelines.stage import model_of, workers_at
from pipelines.student_images import learns_names, most_learned

if TYPE_CHECKING:
    from fgvr.mllm.label_worker import LabelSettings

NAME_TOKENS = 5
QUESTION_TOKENS = 12
"""Tokens assumed for a name and for a question that are not written yet."""
INSTRUCTIONS = 120
"""Tokens assumed for the instructions with which a language model writes and selects questions."""


@dataclass(frozen=True)
class Load:
    """Requests and tokens for one image or for many; `cached` tokens are part of the `prompt` tokens."""

    requests: float = 0
    prompt: float = 0
    cached: float = 0
    output: float = 0

    def __add__(self, other: Load) -> Load:
        return Load(*(getattr(self, name) + getattr(other, name) for name in _SUMS))

    def times(self, count: float) -> Load:
        """The load of `count` images."""
        return Load(*(count * getattr(self, name) for name in _SUMS))


_SUMS = ("requests", "prompt", "cached", "output")


@dataclass(frozen=True)
class Asked:
    """The load of a stage, as the stage itself estimates it.

    Attributes:
        rows: number of rows in its table.
        row: load per row.
        at_most: whether `rows` is an upper bound, because near-duplicates or shared answers may need fewer.
    """

    rows: int
    row: Load
    at_most: bool = False


@dataclass(frozen=True)
class Work:
    """The images that a stage without a language model reads, as the stage itself estimates them.

    Attributes:
        rows: number of images.
        epochs: passes over them, where it trains.
    """

    rows: int
    epochs: float = 1


@dataclass(frozen=True)
class Ask:
    """A stage that asks a model, with its load.

    Attributes:
        stage: name of its table.
        model: the model that it asks.
        workers: the workers that send the requests.
        rows: number of rows in its table.
        row: load per row.
        at_most: whether `rows` is an upper bound, because near-duplicates or shared answers may need fewer.
    """

    stage: str
    model: Mllm
    workers: Workers
    rows: int
    row: Load
    at_most: bool = False


@dataclass(frozen=True)
class Task:
    """A stage that asks no model, with what it has to do.

    Attributes:
        stage: name of its table.
        workers: the workers that compute it.
        work: the images that it reads, and how often.
    """

    stage: str
    workers: Workers | TrainWorkers
    work: Work


def asking(run: Look, tables: Iterable[str]) -> list[str]:
    """The tables among `tables` and their inputs for which a model is asked, in the order of a run."""
    return [name for name in closure(run, tables) if stage_of(name).model(run.config) is not None]


def asks(run: Look, tables: Iterable[str]) -> list[Ask]:
    """The load of each stage that asks a model for these tables."""
    return [_ask(run, name) for name in asking(run, tables)]


def tasks(run: Look, tables: Iterable[str]) -> list[Task]:
    """What each stage without a model has to do for these tables, where that grows with the number of photos."""
    found = []
    for name in closure(run, tables):
        stage = stage_of(name)
        workers = workers_at(run.config, stage.workers(run.config))
        if stage.model(run.config) is None and workers is not None and (work := stage.works(run)) is not None:
            found.append(Task(name, workers, work))
    return found


def naming_all(run: Look) -> Ask:
    """The load of asking a model to name every photo once, for comparison; of `mllm` where a file says the labels."""
    if stage_of("eval_mllm_answers").model(run.config) is None:
        label = run.config.label.model_copy(update={"sources": ()})
        run = Look(run.config.model_copy(update={"label": label}), run.folder, run.photos)
    return replace(_ask(run, "eval_mllm_answers"), stage="answers", rows=run.photos.total, at_most=False)


def _ask(run: Look, name: str) -> Ask:
    stage = stage_of(name)
    model, workers, asked = (
        model_of(stage, run.config),
        workers_at(run.config, stage.workers(run.config)),
        stage.asks(run),
    )
    if model is None or not isinstance(workers, Workers):
        raise TypeError(f"{name}: a stage that asks names its model and its workers")
    return Ask(name, model, workers, asked.rows, asked.row, asked.at_most)


def sampled(config: Config, photos: Photos) -> int:
    """Number of images in the discovery set; the most that it can be where they are chosen by their vectors."""
    drawn = config.label.images
    if drawn.chosen:
        return min(photos.bounded(drawn.drawn_from, drawn.pool), drawn.max_images or 0)
    if drawn.per_class is not None:
        return sum(min(drawn.per_class, count) for count in photos.classes.get(drawn.drawn_from, {}).values())
    most = drawn.max_images
    if drawn.only is not None:
        from fgvr.sources.listed import read_listed

        listed = len(read_listed(drawn.only))
        most = listed if most is None else min(listed, most)
    return photos.bounded(drawn.drawn_from, most)


def class_count(config: Config, photos: Photos) -> tuple[int, bool]:
    """Number of the students' classes, and whether it is an upper bound: how many names NeaR chooses is not known."""
    if not learns_names(config, photos):
        return len(photos.classes.get(config.makd.split, ())), False
    few = sampled(config, photos)
    return min(few, photos.kinds or few), True


def embedded(config: Config, photos: Photos) -> int:
    """Number of images in the embeddings table; at most, where only those are embedded that the job reads."""
    splits = config.embed.splits
    rows = photos.total if splits is None else sum(photos.splits.get(split, 0) for split in splits)
    if config.embed.images == "all":
        return rows
    images = config.label.images
    named = photos.bounded(images.drawn_from, images.pool) if images.chosen else sampled(config, photos)
    needed = named + photos.bounded(config.makd.split, most_learned(config, photos))
    return min(rows, needed + photos.splits.get(config.evaluate.split, 0))


def compared(config: Config, photos: Photos) -> int:
    """Number of images on which methods are compared; the discovery images where the split is empty."""
    from fgvr.evaluation.images import UNLABELLED_IMAGES

    evaluate = config.evaluate
    most = evaluate.max_images
    if not photos.splits.get(evaluate.split):
        return min(sampled(config, photos), most or photos.total)
    if most is None and not photos.classes.get(evaluate.split):
        most = UNLABELLED_IMAGES
    return photos.bounded(evaluate.split, most)


@per_run
def photo_tokens(run: Run) -> int:
    """Prompt tokens per photo: as the MLLM tiles photos, or an assumed number where that is unknown here."""
    return _tokens_of(run.config.mllm, run)


def _tokens_of(model: Mllm, run: Run) -> int:
    from fgvr.mllm.request_tokens import UNKNOWN_IMAGE, image_tokens

    known = image_tokens(model, run.photos.size)
    return UNKNOWN_IMAGE if known is None else known


def naming(run: Run, settings: LabelSettings, prompt: str | None = None) -> Load:
    """Load of naming one image, with all samples; `prompt` replaces that of the settings and asks for one label."""
    from fgvr.mllm.request_tokens import FRAME, text_tokens

    most = settings.sampling.max_tokens if prompt is None else run.config.label.max_tokens
    text = text_tokens(prompt or settings.prompt)
    photo = photo_tokens(run) if settings.mllm == run.config.mllm else _tokens_of(settings.mllm, run)
    return Load(1, FRAME + photo + text, 0, most).times(settings.samples)


def questioning(run: Run) -> Load:
    """Load of all questions about one image; a local engine computes their common prefix only once."""
    from fgvr.mllm.request_tokens import FRAME, text_tokens

    asked, (count, tokens) = run.config.aspects, question_counts(run)
    shared = asked.order == "shared_prefix"
    before = FRAME + photo_tokens(run) + (text_tokens(asked.instruction) if shared else 0)
    after = tokens + (0 if shared else count * text_tokens(asked.instruction))
    cached = before * max(0, count - 1) if run.config.mllm.runs_here else 0
    return Load(count, before * count + after, cached, count)


@per_run
def question_counts(run: Run) -> tuple[int, int]:
    """How many yes/no questions there will be, and their total tokens."""
    from fgvr.demo.questions import QUESTIONS
    from fgvr.mllm.questions import read_questions
    from fgvr.mllm.request_tokens import text_tokens

    asked = run.config.questions
    if asked.file is not None:
        texts = [question.text for question in read_questions(asked.file)][: asked.keep]
    elif asked.llm is None and isinstance(run.config.ingest.source, DRAWN):
        texts = [question.text for question in QUESTIONS][: asked.keep]
    else:
        return asked.keep, asked.keep * QUESTION_TOKENS
    return len(texts), sum(text_tokens(text) for text in texts)
