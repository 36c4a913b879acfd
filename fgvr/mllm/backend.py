"""What every MLLM backend offers, an engine in this process or a server elsewhere: running, and before its start."""

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
from fgvr.mllm.prompts import AspectOrder, Conversation
from fgvr.part_worker import WorkerLost
from fgvr.schemas import Failure

Size = tuple[int, int]
"""Width and height of an image, pixels."""
ASSUMED_BILLIONS = 8.0
"""Parameters assumed of a model whose name does not tell and whose weights are elsewhere."""
SEEDS = 2**31
"""Seeds of answers are below it: servers take int32 (Google), and JavaScript rounds what is above 2^53."""


class EngineDead(WorkerLost):
    """The engine in this process is gone and cannot be used again."""


class BackendRefused(UserError, RuntimeError):
    """The backend will do none of this job's requests: wrong key, unknown model, no such server."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn; temperature 0 takes the most probable token at each step.

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
        text: as the model gave it; None where the request failed.
        logprob: mean log-probability of the reply's tokens (its end included), nats; None where unknown.
        prompt_tokens: image tokens included; 0 where the request failed.
        output_tokens: the end of the reply included where the backend counts it.
        failure: why the request failed.
        cut: whether the limit of tokens ended the reply, and not the model: the text may stop in the middle of a word,
            or of a thought before any.
        tokens_known: whether the two counts are: false where a server does not state them.
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
        p_yes: float32 [Q], softmax over the two log-probabilities; NaN where neither word had a measurable one.
        label_mass: float32 [Q], p(Yes) + p(No) of the first reply token; far below 1 the model meant something else.
        prompt_tokens: over all questions.
        cached_tokens: of these, served from the prefix cache; None where the backend does not say.
        failure: why the image has no probabilities; the arrays are empty then.
        tokens_known: whether the counts are: false where a server does not state them.
    """

    p_yes: npt.NDArray[np.float32] = field(default_factory=_nothing)
    label_mass: npt.NDArray[np.float32] = field(default_factory=_nothing)
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    failure: Failure | None = None
    tokens_known: bool = True


@dataclass(frozen=True)
class AspectTask:
    """A set of questions and how they are asked; the same for every image of a stage.

    Attributes:
        questions: texts, at least one.
        instruction: what is said beside each question.
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
    """How likely each class name is as the answer about one image, or why that is not known.

    Attributes:
        scores: float32 [C], mean log-probability of the name's tokens, nats; empty where the image failed.
        prompt_tokens: over all requests.
        cached_tokens: of these, served from the prefix cache.
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
        """One answer a request, in their order; a request that fails is an answer with a failure.

        Requests are drawn from the iterable only as fast as they can be worked on, which bounds decoded images.

        Raises:
            EngineDead: the engine is gone.
            BackendRefused: no request of this job can succeed.
        """
        ...


class AspectScorer(Protocol):
    """Gives p(yes) of every question for each of many images."""

    def aspects(self, pictures: Iterable[Picture], task: AspectTask) -> list[AspectAnswer]:
        """One answer a picture, in their order; draws and raises as `Labeler.label`."""
        ...


class NameScorer(Protocol):
    """Gives the log-probability of each of many names as the answer about an image; servers' chat has no such thing."""

    def name_scores(self, pictures: Iterable[Picture], task: NameTask) -> list[NameAnswer]:
        """One answer a picture, in their order; draws and raises as `Labeler.label`."""
        ...


class TextGenerator(Protocol):
    """A language model that is asked without images."""

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Answer]:
        """One answer a conversation, in their order; raises as `Labeler.label`."""
        ...


class MllmBackend(Labeler, AspectScorer, NameScorer, TextGenerator, Protocol):
    """All four; what a kind cannot do, it refuses (BackendRefused)."""


@dataclass(frozen=True)
class AskedBy:
    """Who will ask a model.

    Attributes:
        field: where the config has the workers.
        workers: that hold the model.
        place: where the config has the model.
        cluster: where they run.
    """

    field: str
    workers: Workers
    place: str
    cluster: Cluster


class KeptShare(Protocol):
    """A backend that answers from kept replies alone."""

    @property
    def share(self) -> float:
        """Of the requests made so far, those whose reply is kept: 0 to 1."""
        ...


class Provider(ABC):
    """What can be known of a configured model without starting it, and how to start it.

    Every method is abstract: `fgvr.mllm.backends.provider` cannot make a kind that leaves one out.
    """

    @abstractmethod
    def start(self, *, vision: bool) -> MllmBackend:
        """See `fgvr.mllm.backends.make_backend`."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the answers; raises ModelError for a model that cannot be found. Fetches no weights."""

    @abstractmethod
    def pinned(self) -> Mllm:
        """The same model for workers, which ask for it later: what has versions with the one that it means now."""

    @abstractmethod
    def check(self, asked: AskedBy) -> str | None:
        """What one of these workers needs for it, in words; None: nothing that is known here.

        Raises:
            UserError: it cannot work on them; names the field.
        """

    @abstractmethod
    def image_tokens(self, size: Size) -> int | None:
        """Tokens of a photo of this size in a prompt; None where it is not known how the model cuts it."""

    @abstractmethod
    def billions(self) -> float | None:
        """Parameters that a token takes, billions; None of a model that does not compute on the workers."""

    @abstractmethod
    def kept_replies(self) -> KeptShare | None:
        """A stand-in that asks nobody and answers from kept replies; None where none are kept."""
