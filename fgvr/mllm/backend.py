"""The interface of every MLLM backend, an engine in this process or a server: methods, and checks before its start."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fgvr.config.base import Workers
from fgvr.config.models import Mllm
from fgvr.config.run import Cluster
from fgvr.errors import UserError
from fgvr.images.pictures import Picture
from fgvr.mllm.choices import ChoiceAnswer, ChoiceTask
from fgvr.mllm.prompts import AspectOrder, Conversation
from fgvr.part_worker import WorkerLost
from fgvr.schemas import Failure

Size = tuple[int, int]
"""Width and height of an image in pixels."""
ASSUMED_BILLIONS = 8.0
"""Billions of parameters assumed for a model whose name does not tell and whose weights are not on this machine."""
SEEDS = 2**31
"""Answer seeds are below this: servers take int32 (Google), and JavaScript rounds integers above 2^53."""


class EngineDead(WorkerLost):
    """The engine in this process died and cannot be used again."""


class BackendRefused(UserError, RuntimeError):
    """The backend will not serve any of this job's requests: wrong key, unknown model, no such server."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is sampled; temperature 0 takes the most probable token at each step.

    Attributes:
        max_tokens: longest answer.
        temperature: of the draw.
        seed: of the draw; None: another one each time.
        structured: names of an answer that is held to a form (`fgvr.names.structured`); None: free words.
    """

    max_tokens: int = 32
    temperature: float = 0.0
    seed: int | None = None
    structured: int | None = None


@dataclass(frozen=True)
class ImageRequest:
    """One prompt about one image."""

    picture: Picture
    conversation: Conversation
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Answer:
    """A reply, or why there is none.

    Attributes:
        text: the model's reply; None if the request failed.
        logprob: mean log-probability of the reply's tokens (its end included), nats; None if unknown.
        prompt_tokens: number of prompt tokens, image tokens included; 0 if the request failed.
        output_tokens: number of reply tokens; includes the end of the reply if the backend counts it.
        failure: why the request failed.
        cut: whether the token limit ended the reply instead of the model: the text may stop in the middle of a word, or
            inside a thought before any answer.
        tokens_known: whether both counts are valid; False if the server does not state them.
    """

    text: str | None
    logprob: float | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    failure: Failure | None = None
    cut: bool = False
    tokens_known: bool = True


def _nothing() -> npt.NDArray[np.float32]:
    return np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class AspectAnswer:
    """Probabilities of "yes" for all questions about one image, or why there are none.

    Attributes:
        p_yes: float32 [Q], softmax over the two log-probabilities; NaN if neither word had a measurable one.
        label_mass: float32 [Q], p(Yes) + p(No) of the first reply token; far below 1 if the model meant something else.
        prompt_tokens: over all questions.
        cached_tokens: how many of these came from the prefix cache; None if the backend does not say.
        failure: why the image has no probabilities; the arrays are empty then.
        tokens_known: whether the counts are valid; False if the server does not state them.
    """

    p_yes: npt.NDArray[np.float32] = field(default_factory=_nothing)
    label_mass: npt.NDArray[np.float32] = field(default_factory=_nothing)
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    failure: Failure | None = None
    tokens_known: bool = True


@dataclass(frozen=True)
class AspectTask:
    """A set of questions and how to ask them; the same for every image of a stage.

    Attributes:
        questions: texts, at least one.
        instruction: text that accompanies each question.
        order: whether the instruction comes before or after the question.
        words: the two replies whose probabilities are compared.
    """

    questions: tuple[str, ...]
    instruction: str
    order: AspectOrder = "shared_prefix"
    words: tuple[str, str] = ("Yes", "No")

    def __post_init__(self) -> None:
        if not self.questions:
            raise ValueError("an aspect task needs at least one question")


@dataclass(frozen=True)
class NameAnswer:
    """The score of each class name as the answer about one image, or why there are none.

    Attributes:
        scores: float32 [C], mean log-probability of the name's tokens, nats; empty if the image failed.
        prompt_tokens: over all requests.
        cached_tokens: how many of these came from the prefix cache.
        failure: why the image has no scores.
    """

    scores: npt.NDArray[np.float32] = field(default_factory=_nothing)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    failure: Failure | None = None


@dataclass(frozen=True)
class NameTask:
    """Class names that are scored as answers to a prompt; the same for every image of a stage."""

    names: tuple[str, ...]
    prompt: str


class Labeler(Protocol):
    """Answers questions about images in words."""

    def label(self, requests: Iterable[ImageRequest]) -> list[Answer]:
        """One answer per request, in order; a failed request gives an answer with a failure.

        Requests are taken from the iterable only as fast as they can be processed, which bounds decoded images in
        memory.

        Raises:
            EngineDead: the engine died.
            BackendRefused: no request of this job can succeed.
        """
        ...


class AspectScorer(Protocol):
    """Computes p(yes) of every question for each of many images."""

    def aspects(self, pictures: Iterable[Picture], task: AspectTask) -> list[AspectAnswer]:
        """One answer per picture, in order; consumes and raises as `Labeler.label`."""
        ...


class NameScorer(Protocol):
    """Computes the log-probability of each of many names as the answer about an image; chat servers cannot do this."""

    def name_scores(self, pictures: Iterable[Picture], task: NameTask) -> list[NameAnswer]:
        """One answer per picture, in order; consumes and raises as `Labeler.label`."""
        ...


class TextGenerator(Protocol):
    """A language model that is asked without images."""

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Answer]:
        """One answer per conversation, in order; raises as `Labeler.label`."""
        ...


class ChoiceScorer(Protocol):
    """Computes the probabilities of the options of multiple-choice questions about classes, without images."""

    def choices(self, names: Iterable[str], task: ChoiceTask) -> list[ChoiceAnswer]:
        """One answer per class name, in order; raises as `Labeler.label`."""
        ...


class MllmBackend(Labeler, AspectScorer, NameScorer, TextGenerator, ChoiceScorer, Protocol):
    """All five protocols; what a kind of backend cannot do, it refuses (BackendRefused)."""


@dataclass(frozen=True)
class AskedBy:
    """Which workers will use a model.

    Attributes:
        field: config field of the workers.
        workers: the workers that hold the model.
        place: config field of the model.
        cluster: the cluster they run on.
    """

    field: str
    workers: Workers
    place: str
    cluster: Cluster


class KeptShare(Protocol):
    """A backend that answers from cached replies only."""

    @property
    def share(self) -> float:
        """Share (0 to 1) of the requests made so far whose reply is in the cache."""
        ...


class Provider(ABC):
    """What can be said about a configured model without starting it, and how to start it.

    Every method is abstract, so that no kind of model can leave one out.
    """

    @abstractmethod
    def start(self, *, vision: bool) -> MllmBackend:
        """See `fgvr.mllm.backends.make_backend`."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What determines the answers; raises ModelError if the model cannot be found. Fetches no weights."""

    @abstractmethod
    def pinned(self) -> Mllm:
        """The same model for workers, which load it later: a name with versions is pinned to the current one."""

    @abstractmethod
    def check(self, asked: AskedBy) -> str | None:
        """What each of these workers needs for it, in words; None if nothing is known here.

        Raises:
            UserError: it cannot work on them; names the field.
        """

    @abstractmethod
    def image_tokens(self, size: Size) -> int | None:
        """Tokens of a photo of this size in a prompt; None if it is unknown how the model splits images."""

    @abstractmethod
    def billions(self) -> float | None:
        """Billions of parameters used per token; None for a model that does not run on the workers."""

    @abstractmethod
    def kept_replies(self) -> KeptShare | None:
        """A stand-in that sends no requests and answers from cached replies; None if no replies are cached."""
