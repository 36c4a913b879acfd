"""What is sent to an OpenAI-compatible server, and what its replies mean."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fgvr.mllm.backend import Answer, AspectAnswer, BackendRefused
from fgvr.mllm.choices import ChoiceAnswer, ChoiceTask, averaged
from fgvr.mllm.openai_server.replies import CUT, FILTERED
from fgvr.mllm.prompts import Conversation, flatten
from fgvr.mllm.yes_no import log_sum, word_shares
from fgvr.schemas import Failure, Reason

NO_SCORES = ", so it cannot be asked for aspects or signatures: use kind vllm, or another server"
_FILTERED = "the server's content filter held the answer back"
_LOSSLESS_PIXELS = 512 * 512
MOST_TOKENS = 10_000_000
"""A server that counts more tokens for one request is wrong; no model has such a long context."""


def data_url(image: Image.Image, max_side: int) -> str:
    """The image as a data: URL: PNG if it is small, else JPEG of quality 95; scaled down to `max_side` pixels."""
    if max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    kind = "PNG" if image.width * image.height <= _LOSSLESS_PIXELS else "JPEG"
    data = io.BytesIO()
    image.save(data, kind, quality=95)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def messages(conversation: Conversation, image: str | None, detail: str) -> list[dict[str, Any]]:
    """The conversation in the server's format; `image` (a data URL) replaces the image part."""
    if image is None:
        return flatten(conversation)
    picture = {"type": "image_url", "image_url": {"url": image, "detail": detail}}
    return [
        {
            "role": message["role"],
            "content": [picture if part["type"] == "image" else part for part in message["content"]],
        }
        for message in conversation
    ]


def answer_of(reply: Any) -> Answer:
    """A chat completion as an answer; content-filtered replies count as refused."""
    choice, spent = reply.choices[0], spent_of(reply)
    tokens: dict[str, Any] = {
        "prompt_tokens": spent.prompt or 0,
        "output_tokens": spent.output or 0,
        "tokens_known": spent.known,
    }
    if choice.finish_reason == FILTERED:
        return Answer(None, failure=Failure(Reason.REFUSED, _FILTERED), **tokens)
    text = choice.message.content or getattr(choice.message, "refusal", None) or ""
    listed = getattr(getattr(choice, "logprobs", None), "content", None) or []
    mean = sum(token.logprob for token in listed) / len(listed) if listed else None
    whole = text.encode("utf-8", "replace").decode()  # JSON can hold half of a surrogate pair, tables cannot
    return Answer(whole, mean, cut=choice.finish_reason == CUT, **tokens)


@dataclass(frozen=True)
class Spent:
    """Tokens of one request as counted by the server; None if it does not say."""

    prompt: int | None
    output: int | None

    @property
    def known(self) -> bool:
        """Whether both counts are known."""
        return self.prompt is not None and self.output is not None


def spent_of(reply: Any) -> Spent:
    """The token counts stated in a chat completion."""
    usage = getattr(reply, "usage", None)
    return Spent(_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))


@dataclass(frozen=True)
class Score:
    """One question about one image or class: the words' shares, label mass and tokens, or why there are none.

    Attributes:
        shares: probability of each word among the words; nan where none is known. For aspects the first is p(yes).
        label_mass: sum of the words' probabilities.
        prompt_tokens: of the request.
        cached_tokens: how many of these came from the prefix cache; None if the server does not say.
        failure: why there are none.
        tokens_known: whether the server states its counts.
    """

    shares: tuple[float, ...] = ()
    label_mass: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    failure: Failure | None = None
    tokens_known: bool = True


def score_of(reply: Any, words: Sequence[str]) -> Score:
    """The shares of words from the listed log-probabilities of the first token.

    Only the most probable tokens are listed. An unlisted word has at most the probability of the least probable
    listed token, which replaces it in the shares but adds nothing to the mass. Variants of a word with a leading
    blank are summed.

    Raises:
        BackendRefused: no log-probabilities are listed: this server cannot score words.
    """
    choice = reply.choices[0]
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if choice.finish_reason == FILTERED:
        return Score(failure=Failure(Reason.REFUSED, _FILTERED))
    if not content or not content[0].top_logprobs:
        raise BackendRefused(f"the server gives no top_logprobs{NO_SCORES}")
    listed = [(token.token, float(token.logprob)) for token in content[0].top_logprobs]
    found = [log_sum(value for token, value in listed if token.strip() == word) for word in words]
    floor = min(value for _, value in listed) if max(found) > -math.inf else -math.inf
    return Score(
        shares=tuple(word_shares([max(value, floor) for value in found])[0]),
        label_mass=word_shares(found)[1],
        prompt_tokens=spent_of(reply).prompt or 0,
        cached_tokens=cached_tokens(reply),
        tokens_known=spent_of(reply).prompt is not None,
    )


def joined(scores: Sequence[Score]) -> AspectAnswer:
    """The scores of all questions about one image; the first failure fails the image."""
    failure = next((score.failure for score in scores if score.failure is not None), None)
    if failure is None and not any(score.label_mass for score in scores):
        failure = Failure(Reason.NO_LABEL_MASS, "neither word was among the listed tokens of any question")
    if failure is not None:
        return AspectAnswer(failure=failure)
    return AspectAnswer(
        p_yes=np.array([score.shares[0] for score in scores], dtype=np.float32),
        label_mass=np.array([score.label_mass for score in scores], dtype=np.float32),
        prompt_tokens=sum(score.prompt_tokens for score in scores),
        cached_tokens=_all_cached(scores),
        tokens_known=all(score.tokens_known for score in scores),
    )


def chosen(task: ChoiceTask, scores: Sequence[Score]) -> ChoiceAnswer:
    """The scores of all requests about one class; the first failure fails the class."""
    failure = next((score.failure for score in scores if score.failure is not None), None)
    if failure is not None:
        return ChoiceAnswer(failure=failure)
    return averaged(
        task,
        [score.shares for score in scores],
        [score.label_mass for score in scores],
        prompt_tokens=sum(score.prompt_tokens for score in scores),
        cached_tokens=_all_cached(scores),
        tokens_known=all(score.tokens_known for score in scores),
    )


def _all_cached(scores: Sequence[Score]) -> int | None:
    cached = [score.cached_tokens for score in scores if score.cached_tokens is not None]
    return sum(cached) if cached else None


def cached_tokens(reply: Any) -> int | None:
    """Prompt tokens that the server read from its prefix cache; None if it does not say."""
    details = getattr(reply.usage, "prompt_tokens_details", None)
    return _count(details, "cached_tokens")


def _count(facts: Any, name: str) -> int | None:
    """A token count stated by a server; None if it states none, or an invalid one."""
    found = getattr(facts, name, None)
    if isinstance(found, float) and found.is_integer():  # a proxy in a language with floats only
        found = int(found)
    return found if isinstance(found, int) and found is not True and 0 <= found <= MOST_TOKENS else None
