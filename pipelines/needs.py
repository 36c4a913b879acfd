"""Which stages that ask a model a table is made of, as far as the config and the photos' classes say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from fgvr.config import Config
from pipelines.photo_counts import Photos
from pipelines.teacher import asks_mllm

Target = Literal[
    "labels",
    "looks",
    "near",
    "questions",
    "aspects",
    "class_scores",
    "base",
    "makd",
    "predictions",
    "report",
    "detector",
]
"""Tables that are computed for somebody."""
ORDER = (
    *("looks", "answers", "questions", "aspects", "class_scores", "eval_mllm_answers"),
    *("finer_aspects", "finer_answers", "findr_meta", "findr_answers"),
)
"""The stages that ask, in the order of a run."""


def full_targets(config: Config) -> tuple[Target, ...]:
    """What the whole job computes."""
    asked: tuple[Target, ...] = ("aspects",) if config.makd.aspect_targets == "mllm" else ()
    base: tuple[Target, ...] = ("base",) if config.makd.base else ()
    return ("labels", "near", "questions", *asked, "class_scores", *base, "makd", "predictions", "report")


def asking(config: Config, photos: Photos, targets: Iterable[Target]) -> list[str]:
    """The stages that the targets need and that ask a model, in the order of a run."""
    needed = _needed(_needs(config, photos), targets) & _asks_itself(config)
    return [stage for stage in ORDER if stage in needed]


def _needs(config: Config, photos: Photos) -> dict[str, tuple[str, ...]]:
    """What each table or method is made of, as far as somebody may have to be asked for it."""
    makd, together = config.makd, config.aspects.with_labels
    unlabelled = makd.target == "near" or not photos.kinds
    from_near = makd.target == "near" or (makd.target == "auto" and not photos.all_have_classes(makd.split))
    classes = ("near",) if from_near else ()
    learned = () if makd.alpha == 0 else ("questions", *_where(makd.aspect_targets == "mllm", "aspects"))
    given = config.baselines.findr
    told = given.category and given.unit and given.expert
    own_split = bool(photos.splits.get(config.evaluate.split))  # else the discovery images, which have been named
    detect = config.detect
    return {
        "labels": ("looks",) if together else ("answers",),
        "looks": ("questions",),
        "questions": _where(_writes_questions(config) and unlabelled, "labels"),
        "aspects": ("questions", *_where(together, "looks")),
        "near": ("labels",),
        "class_scores": classes,
        "base": (*classes, *_where(asks_mllm(makd), "class_scores")),
        "makd": ("base", *learned),
        "predictions": _where(config.infer.model is None, "makd"),
        "detector": _where(detect.alpha > 0 and detect.aspects == "mllm", "aspects"),
        "report": ("labels", *config.evaluate.methods),
        "mllm": _where(own_split, "eval_mllm_answers"),
        "finer": ("questions", "finer_aspects", "finer_answers"),
        "findr": ("findr_answers", *_where(not told, "findr_meta")),
    }


def _where(condition: bool, *names: str) -> tuple[str, ...]:
    return names if condition else ()


def _needed(needs: Mapping[str, tuple[str, ...]], targets: Iterable[str]) -> set[str]:
    """The targets and all that they are made of."""
    found: set[str] = set()
    waiting = list(targets)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs.get(name, ())
    return found


def _asks_itself(config: Config) -> set[str]:
    """Of ORDER, the stages that ask, where they are needed at all."""
    others = {
        "questions": _writes_questions(config),
        "aspects": not config.aspects.with_labels,
        "class_scores": asks_mllm(config.makd),
    }
    return {stage for stage in ORDER if others.get(stage, True)}


def _writes_questions(config: Config) -> bool:
    return config.questions.file is None and config.questions.llm is not None
