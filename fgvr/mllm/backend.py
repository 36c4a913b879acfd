"""What every MLLM backend offers, whether an engine in this process or a server elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgvr.mllm.prompts import AspectOrder, Conversation
from fgvr.schemas import Failure


class EngineDead(RuntimeError):  # noqa: N818 - a state of the engine, raised where its process must be replaced
    """The engine behind a worker is gone and cannot be used again: the process that holds it must be replaced."""


class BackendRefused(RuntimeError):  # noqa: N818 - the backend's answer to the job as a whole
    """The backend will not do any of this job's requests: wrong key, unknown model, no such server."""


@dataclass(frozen=True)
class Picture:
    """A decoded image and the name of its content, under which an engine caches what it computed from it."""

    image: Image.Image
    content_id: str

    @classmethod
    def of(cls, image: Image.Image) -> Picture:
        """Name an RGB image by the hash of its pixels: one name can never stand for two contents."""
        digest = hashlib.blake2b(f"{image.size}{image.mode}".encode(), digest_size=16)
        digest.update(image.tobytes())
        return cls(image, digest.hexdigest())


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn; temperature 0 takes the most probable token at each step."""

    max_tokens: int = 32
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class Answer:
    """A reply, or why there is none.

    Attributes:
        text: as the model gave it; None where the request failed.
        logprob: mean log-probability of the reply's tokens (its end included), nats; None where unknown.
        prompt_tokens: image tokens included; 0 where the request failed.
        output_tokens: the end of the reply included where the backend counts it.
        failure: why the request failed.
    """

    text: str | None
    logprob: float | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    failure: Failure | None = None


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
    """

    p_yes: npt.NDArray[np.float32] = field(default_factory=_nothing)
    label_mass: npt.NDArray[np.float32] = field(default_factory=_nothing)
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    failure: Failure | None = None


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


class Labeler(Protocol):
    """Answers one prompt about each of many images."""

    def label(
        self, pictures: Iterable[Picture], conversation: Conversation, samplings: Sampling | Sequence[Sampling]
    ) -> list[Answer]:
        """One answer a picture, in their order; a request that fails is an answer with a failure.

        Pictures are drawn from the iterable only as fast as they can be worked on.

        Raises:
            EngineDead: the engine is gone.
            BackendRefused: no request of this job can succeed.
        """
        ...


class AspectScorer(Protocol):
    """Gives p(yes) of every question for each of many images."""

    def aspects(self, pictures: Iterable[Picture], task: AspectTask) -> list[AspectAnswer]:
        """One answer a picture, in their order; raises as `Labeler.label`."""
        ...


class TextGenerator(Protocol):
    """A language model that is asked without images."""

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Answer]:
        """One answer a conversation, in their order; raises as `Labeler.label`."""
        ...


class MllmBackend(Labeler, AspectScorer, TextGenerator, Protocol):
    """All three."""
