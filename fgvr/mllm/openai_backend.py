"""A model behind any OpenAI-compatible server: proprietary ones, or `vllm serve` on another machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from fgvr.config.models import OpenAIBackend
from fgvr.mllm.backend import (
    SEEDS,
    Answer,
    AspectAnswer,
    AspectTask,
    BackendRefused,
    ImageRequest,
    NameAnswer,
    NameTask,
    Picture,
    Sampling,
)
from fgvr.mllm.held_answers import CANNOT, HeldAnswers
from fgvr.mllm.openai_calls import Calls, Rejected
from fgvr.mllm.openai_requests import NO_ASPECTS, Score, answer_of, data_url, joined, messages, score_of
from fgvr.mllm.pace import GaveUp
from fgvr.mllm.prompts import Conversation, aspect_conversation
from fgvr.mllm.retry import TryAgain
from fgvr.read_ahead import read_ahead
from fgvr.schemas import Failure, Reason


class OpenAIClient:
    """Implements `MllmBackend` with at most `concurrency` requests open."""

    def __init__(self, config: OpenAIBackend, *, first_pause: float = 1.0) -> None:
        """Connect.

        Args:
            config: the server's part of the config.
            first_pause: seconds before a failed request is tried again for the first time.

        Raises:
            BackendRefused: no key in the environment, nobody answers, or the key is not accepted.
        """
        self._config = config
        self._calls = Calls(config, first_pause)
        self._calls.check_server()
        self._scored = False
        self._held = HeldAnswers(f"{config.model} at {config.base_url}")

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the answers must know: what was asked otherwise than the config says, and why."""
        return self._calls.remarks

    def label(self, requests: Iterable[ImageRequest]) -> list[Answer]:
        """See `Labeler`."""

        def one(request: ImageRequest) -> Answer:
            image = data_url(request.picture.image, self._config.max_image_side)
            return self._answer(messages(request.conversation, image, self._config.image_detail), request.sampling)

        return list(read_ahead(one, requests, threads=self._config.concurrency))

    def name_scores(self, pictures: Iterable[Picture], task: NameTask) -> list[NameAnswer]:
        """See `NameScorer`; raises BackendRefused."""
        raise BackendRefused("chat servers give no probability of an answer that they did not give")

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Answer]:
        """See `TextGenerator`."""

        def one(conversation: Conversation) -> Answer:
            return self._answer(messages(conversation, None, self._config.image_detail), sampling)

        return list(read_ahead(one, conversations, threads=self._config.concurrency))

    def aspects(self, pictures: Iterable[Picture], task: AspectTask) -> list[AspectAnswer]:
        """See `AspectScorer`; one request a question, the questions of an image together.

        Raises:
            BackendRefused: also when the server gives no log-probabilities.
        """
        conversations = [aspect_conversation(text, task.order, task.instruction) for text in task.questions]

        def asked() -> Iterator[tuple[str, Conversation]]:
            for picture in pictures:
                image = data_url(picture.image, self._config.max_image_side)  # once for all its questions
                for conversation in conversations:
                    yield image, conversation

        def one(item: tuple[str, Conversation]) -> Score:
            return self._score(messages(item[1], item[0], self._config.image_detail), task.words)

        scores = read_ahead(one, asked(), threads=self._config.concurrency)
        answers: list[AspectAnswer] = []
        while group := list(islice(scores, len(conversations))):
            answers.append(joined(group))
        return answers

    def _answer(self, content: list[dict[str, Any]], sampling: Sampling) -> Answer:
        extra: dict[str, Any] = {"logprobs": True} if self._config.answer_logprobs else {}
        if sampling.seed is not None and sampling.temperature > 0:
            extra["seed"] = sampling.seed % SEEDS

        def send(form: dict[str, Any], read: Callable[[Any], Answer]) -> Answer:
            asked, needed = extra | form, dict.fromkeys(form, CANNOT)
            return self._calls.complete(
                content, sampling.max_tokens, sampling.temperature, asked, read=read, needed=needed
            )

        try:
            return send({}, answer_of) if sampling.structured is None else self._held.ask(sampling.structured, send)
        except (Rejected, GaveUp) as error:
            return Answer(None, failure=_failure(error))

    def _score(self, content: list[dict[str, Any]], words: tuple[str, str]) -> Score:
        extra = {"logprobs": True, "top_logprobs": self._config.top_logprobs}
        needed = dict.fromkeys(extra, f"the server gives no log-probabilities{NO_ASPECTS}")

        def read(reply: Any) -> Score:
            try:
                found = score_of(reply, words)
            except BackendRefused as error:
                if self._scored:  # it can, and did not this time
                    raise TryAgain(str(error), paid=True) from None
                raise
            self._scored = self._scored or found.failure is None
            return found

        try:
            return self._calls.complete(content, 1, 0, extra, read=read, needed=needed)
        except (Rejected, GaveUp) as error:
            return Score(failure=_failure(error))


def _failure(error: Rejected | GaveUp) -> Failure:
    reason = Reason.REQUEST_REJECTED if isinstance(error, Rejected) else Reason.ENGINE_ERROR
    return Failure(reason, str(error))
