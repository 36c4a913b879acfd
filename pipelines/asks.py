"""What the stages that ask a model will ask: of how many photos, with how many requests and tokens.

Estimates from the config and counts of photos. A limit of tokens counts as used up, so that the tokens of answers are
the most there can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from fgvr.config import Config, Mllm
from fgvr.config.base import Workers
from fgvr.config.data import DRAWN
from fgvr.demo.questions import QUESTIONS
from fgvr.evaluation import UNLABELLED_IMAGES
from fgvr.mllm.questions import MAX_CLASS_NAMES, read_questions
from fgvr.mllm.request_tokens import FRAME, UNKNOWN_IMAGE, image_tokens, text_tokens
from pipelines.label import label_settings
from pipelines.methods import findr
from pipelines.methods.finer import configured_model
from pipelines.needs import Target, asking
from pipelines.photo_counts import Photos

NAME_TOKENS = 5
QUESTION_TOKENS = 12
"""Assumed of a name and of a question that are not written yet."""
INSTRUCTIONS = 120
"""Assumed of what a language model is told to write and to select questions."""


@dataclass(frozen=True)
class Load:
    """Requests and tokens, of an image or of many; `cached` tokens are among those of prompts."""

    requests: float = 0
    prompt: float = 0
    cached: float = 0
    output: float = 0

    def __add__(self, other: Load) -> Load:
        return Load(*(getattr(self, name) + getattr(other, name) for name in _SUMS))

    def times(self, count: float) -> Load:
        """Of so many images."""
        return Load(*(count * getattr(self, name) for name in _SUMS))


_SUMS = ("requests", "prompt", "cached", "output")


@dataclass(frozen=True)
class Ask:
    """A stage that asks.

    Attributes:
        stage: its table.
        model: that it asks.
        workers: that ask it.
        rows: of its table.
        row: what a row takes.
        at_most: fewer rows, where near-duplicates are found or answers are shared.
    """

    stage: str
    model: Mllm
    workers: Workers
    rows: int
    row: Load
    at_most: bool = False


def asks(config: Config, photos: Photos, targets: Iterable[Target]) -> list[Ask]:
    """The stages that the targets need and that ask a model, in the order of a run."""
    sizes = _Sizes(config, photos)
    return [sizes.ask(stage) for stage in asking(config, photos, targets)]


def naming_all(config: Config, photos: Photos) -> Ask:
    """What it would be to have every photo named once instead."""
    return replace(_Sizes(config, photos).ask("eval_mllm_answers"), stage="answers", rows=photos.total, at_most=False)


def sampled(config: Config, photos: Photos) -> int:
    """Images of the discovery set."""
    drawn = config.label.images
    if drawn.per_class is not None:
        return sum(min(drawn.per_class, count) for count in photos.classes.get(drawn.drawn_from, Counter()).values())
    return photos.bounded(drawn.drawn_from, drawn.max_images)


class _Sizes:
    """Rows and loads of the stages."""

    def __init__(self, config: Config, photos: Photos) -> None:
        self.config, self.photos = config, photos
        self.named = sampled(config, photos)
        self.asked = photos.bounded(config.aspects.split, config.aspects.max_images)
        self.questions, self.question_tokens = _questions(config)
        known = image_tokens(config.mllm, photos.size)
        self.image = UNKNOWN_IMAGE if known is None else known

    def ask(self, stage: str) -> Ask:
        """One of `pipelines.needs.ORDER`."""
        makers: dict[str, Callable[[], Ask]] = {
            "answers": self._answers,
            "eval_mllm_answers": lambda: self._named_once(self._evaluated(), None),
            "findr_answers": lambda: self._named_once(self.named, self.config.baselines.findr.prompt),
            "findr_meta": self._meta,
            "aspects": lambda: self._asked_questions(self.asked),
            "finer_aspects": lambda: self._asked_questions(self.named),
            "looks": self._looks,
            "class_scores": self._class_scores,
            "questions": self._written_questions,
            "finer_answers": self._proposed,
        }
        return replace(makers[stage](), stage=stage)

    def _of_label(self, rows: int, row: Load) -> Ask:
        return Ask("", self.config.mllm, self.config.label.workers, rows, row)

    def _answers(self) -> Ask:
        shared = self.config.label.duplicate_similarity is not None
        return replace(self._of_label(self.named, self._naming(several=True)), at_most=shared)

    def _named_once(self, rows: int, prompt: str | None) -> Ask:
        return self._of_label(rows, self._naming(several=False, prompt=prompt))

    def _meta(self) -> Ask:
        side_by_side = self.config.baselines.findr.images * self.image
        return self._of_label(1, Load(1, FRAME + side_by_side + text_tokens(findr.META_PROMPT), 0, findr.REPLY_TOKENS))

    def _asked_questions(self, rows: int) -> Ask:
        workers = self.config.aspects.workers
        return Ask("", self.config.mllm, workers, rows, self._asking())

    def _looks(self) -> Ask:
        rows, at_most = self._both()
        load = self._naming(several=True).times(self.named) + self._asking().times(self.asked)
        workers = self.config.aspects.workers
        return Ask("", self.config.mllm, workers, rows, load.times(1 / max(rows, 1)), at_most)

    def _written_questions(self) -> Ask:
        asked = self.config.questions
        names = min(self.photos.kinds or self.named, MAX_CLASS_NAMES) * NAME_TOKENS
        prompts = 2 * FRAME + INSTRUCTIONS + names + asked.generate * QUESTION_TOKENS
        row = Load(2, prompts, 0, (asked.generate + asked.keep) * QUESTION_TOKENS)  # to write, and to select
        return Ask("", asked.llm or self.config.mllm, asked.workers, 1, row)

    def _proposed(self) -> Ask:
        llm = configured_model(self.config) or self.config.mllm
        row = Load(1, FRAME + INSTRUCTIONS / 2 + self.question_tokens, 0, self.config.baselines.finer.max_tokens)
        return Ask("", llm, self.config.questions.workers, self.named, row)

    def _naming(self, *, several: bool, prompt: str | None = None) -> Load:
        settings = label_settings(self.config, several=several)
        text = text_tokens(prompt or settings.prompt)
        most = settings.sampling.max_tokens if prompt is None else self.config.label.max_tokens
        return Load(1, FRAME + self.image + text, 0, most).times(settings.samples)

    def _asking(self) -> Load:
        """All questions about an image; an engine computes what they have in common once."""
        asked = self.config.aspects
        before = FRAME + self.image + (text_tokens(asked.instruction) if asked.order == "shared_prefix" else 0)
        after = self.question_tokens + (
            0 if asked.order == "shared_prefix" else self.questions * text_tokens(asked.instruction)
        )
        cached = before * max(0, self.questions - 1) if self.config.mllm.runs_here else 0
        return Load(self.questions, before * self.questions + after, cached, self.questions)

    def _both(self) -> tuple[int, bool]:
        """Images of names or questions, and whether they may be fewer: samples that are not inside one another."""
        named, asked = self.config.label.images, self.config.aspects
        one = named.drawn_from == asked.split
        whole = asked.max_images is None or self.asked == self.photos.splits.get(asked.split, 0)
        nested = one and (whole or (named.per_class is None and named.seed == asked.seed))
        if nested:
            return max(self.named, self.asked), False
        together = self.named + self.asked
        return (min(together, self.photos.splits.get(asked.split, 0)), True) if one else (together, False)

    def _evaluated(self) -> int:
        evaluate = self.config.evaluate
        most = evaluate.max_images
        if most is None and not self.photos.classes.get(evaluate.split):
            most = UNLABELLED_IMAGES
        return self.photos.bounded(evaluate.split, most)

    def _class_scores(self) -> Ask:
        config, makd = self.config, self.config.makd
        true = makd.target != "near" and self.photos.all_have_classes(makd.split)
        names = len(self.photos.classes[makd.split]) if true else min(self.named, self.photos.kinds or self.named)
        most = config.aspects.max_images if makd.images == "asked" else None
        head = FRAME + self.image + text_tokens(config.class_scores.prompt or config.label.prompt)
        row = Load(names, names * (head + NAME_TOKENS), head * max(0, names - 1), 0)
        rows = self.photos.bounded(makd.split, most)
        return Ask("class_scores", config.mllm, config.class_scores.workers, rows, row, not true)


def _questions(config: Config) -> tuple[int, int]:
    """How many yes/no questions there will be, and their tokens together."""
    asked = config.questions
    if asked.file is not None:
        texts = [question.text for question in read_questions(asked.file)][: asked.keep]
    elif asked.llm is None and isinstance(config.ingest.source, DRAWN):
        texts = [question.text for question in QUESTIONS][: asked.keep]
    else:
        return asked.keep, asked.keep * QUESTION_TOKENS
    return len(texts), sum(text_tokens(text) for text in texts)
