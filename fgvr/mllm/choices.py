"""Multiple-choice questions about a class by its name alone, and the probabilities of their options (LaViD).

LaViD (arXiv 2606.27527) gives each class a "conceptual signature": the soft answers of a language model to
multiple-choice questions. Options have letters, and an option's probability is that of its letter as the first token of
the reply, among all letters of the question. Models prefer some letters and places, so a question is asked with its
options in several rotations, over which the probabilities are averaged.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np

from fgvr.arrays import Floats
from fgvr.mllm.prompts import Conversation, text_conversation
from fgvr.schemas import Failure, Reason

LETTERS = string.ascii_uppercase
ASKING = 1
"""Increase it when the same questions would be asked in other words, or answers averaged in another way."""


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question, and its options, 2 to 26."""

    text: str
    options: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """The question from what `texts` gave."""
        return cls(texts[0], tuple(texts[1:]))

    @property
    def texts(self) -> list[str]:
        """The question and its options behind it, as files keep them."""
        return [self.text, *self.options]


@dataclass(frozen=True)
class Turn:
    """One request about a class: a question by its number, and which option stands at each letter."""

    question: int
    order: tuple[int, ...]


@dataclass(frozen=True)
class ChoiceTask:
    """A set of questions and how to ask them; the same for every class of a stage.

    Attributes:
        questions: at least one.
        prompt: with {question}, {options} and {name}, which are filled in.
        rotations: most rotations of the options of a question.
    """

    questions: tuple[ChoiceQuestion, ...]
    prompt: str
    rotations: int

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        """The requests about a class, a question's rotations side by side; they are evenly spread over its options."""
        return tuple(
            turn for number, each in enumerate(self.questions) for turn in _rotated(number, each, self.rotations)
        )

    def letters(self, turn: Turn) -> str:
        """The letters of a turn's options."""
        return LETTERS[: len(turn.order)]

    def conversation(self, turn: Turn, name: str) -> Conversation:
        """What a language model is asked about the class of this name."""
        question = self.questions[turn.question]
        lines = [f"{letter}. {question.options[n]}" for letter, n in zip(LETTERS, turn.order, strict=False)]
        filled = {"question": question.text, "options": "\n".join(lines), "name": name}
        return text_conversation(re.sub(r"\{(question|options|name)\}", lambda found: filled[found[1]], self.prompt))


def _rotated(number: int, question: ChoiceQuestion, rotations: int) -> Iterator[Turn]:
    count = len(question.options)
    turned = min(rotations, count)
    for turn in range(turned):
        first = turn * count // turned
        yield Turn(number, (*range(first, count), *range(first)))


@dataclass(frozen=True)
class ChoiceAnswer:
    """The probabilities of all options of all questions about one class, or why there are none.

    Attributes:
        probabilities: of each question, float32 [options], which sum to 1; in the order of the question's options.
        label_mass: float32 [Q], mean probability of all letters of a question as the first token of the reply; far
            below 1 if the model meant something else.
        prompt_tokens: over all requests.
        cached_tokens: how many of these came from the prefix cache; None if the backend does not say.
        failure: why the class has no probabilities; the arrays are empty then.
        tokens_known: whether the counts are valid; False if the server does not state them.
    """

    probabilities: tuple[Floats, ...] = ()
    label_mass: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    failure: Failure | None = None
    tokens_known: bool = True


def averaged(
    task: ChoiceTask,
    shares: Sequence[Sequence[float]],
    masses: Sequence[float],
    *,
    prompt_tokens: int,
    cached_tokens: int | None,
    tokens_known: bool = True,
) -> ChoiceAnswer:
    """The answer about a class from those to its turns: for each question the mean over its rotations.

    A rotation in which no letter had a measurable probability is left out; a question with no other one fails the
    class.

    Args:
        task: the questions.
        shares: of each turn, the probability of each letter among its letters; nan if it could not be measured.
        masses: of each turn, the sum of the letters' probabilities.
        prompt_tokens: over all turns.
        cached_tokens: over all turns.
        tokens_known: see ChoiceAnswer.
    """
    sums = [np.zeros(len(question.options)) for question in task.questions]
    measured, mass, turned = (np.zeros(len(task.questions)) for _ in range(3))
    for turn, share, each in zip(task.turns, shares, masses, strict=True):
        mass[turn.question] += each
        turned[turn.question] += 1
        if np.isfinite(share).all():
            sums[turn.question][list(turn.order)] += share
            measured[turn.question] += 1
    if not measured.all():
        silent = task.questions[int(np.flatnonzero(measured == 0)[0])]
        detail = f"no letter had a measurable probability as the answer to {silent.text!r}"
        return ChoiceAnswer(failure=Failure(Reason.NO_LABEL_MASS, detail))
    means = tuple((total / count).astype(np.float32) for total, count in zip(sums, measured, strict=True))
    return ChoiceAnswer(
        means, (mass / turned).astype(np.float32), prompt_tokens, cached_tokens, tokens_known=tokens_known
    )
