"""A model behind any OpenAI-compatible server: proprietary ones, or `vllm serve` on another machine.

With structured answers, the first request goes out alone: if the server does not support them, the job ends with the
server's own message before images are spent on it. Servers that support JSON but no schemas are constrained to JSON,
and the prompt describes the form. Servers that accept the field but ignore it are recognised by their replies.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

from fgvr.config.models import OpenAIBackend
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import (
    SEEDS,
    Answer,
    AspectAnswer,
    AspectTask,
    BackendRefused,
    ImageRequest,
    NameAnswer,
    NameTask,
    Sampling,
)
from fgvr.mllm.choices import ChoiceAnswer, ChoiceTask
from fgvr.mllm.openai_server.cache_writer import flush_all
from fgvr.mllm.openai_server.calls import Calls, Rejected
from fgvr.mllm.openai_server.requests import NO_SCORES, Score, answer_of, chosen, data_url, joined, messages, score_of
from fgvr.mllm.openai_server.retry import GaveUp, TryAgain
from fgvr.mllm.prompts import Conversation, aspect_conversation
from fgvr.names.structured import MOST_CHARACTERS, answer_schema, is_structured
from fgvr.prefetch import read_ahead
from fgvr.schemas import Failure, Reason

log = logging.getLogger(__name__)

FIELD = "response_format"
FREE = "set label.answer to free, or take kind vllm or another server"
CANNOT = f"label.answer = structured: it constrains no answer to a JSON schema; {FREE}"
MOST_UNHEEDED = 3
"""After this many replies of another form, before any right one, the server is assumed to ignore the field."""
MOST_ALONE = 4
"""How many requests go alone while none succeeds; after that the server is slow or broken, and others need not wait."""
_SCHEMA, _JSON = "json_schema", "json_object"

Send: TypeAlias = Callable[[dict[str, Any], Callable[[Any], Answer]], Answer]
"""Sends a request with these additional fields; the function parses its reply."""


class HeldAnswers:
    """What was learned about one server's structured answers; thread-safe."""

    def __init__(self, server: str) -> None:
        """`server`: its name for messages."""
        self._server = server
        self._way = _SCHEMA
        self._open = False
        self._alone = self._unheeded = 0
        self._refused: BackendRefused | None = None
        self._lock = threading.Lock()

    def ask(self, names: int, send: Send) -> Answer:
        """The answer to one request, constrained to the form with this many names.

        Raises:
            BackendRefused: the server does not support this.
        """
        if not self._open:
            with self._lock:
                if self._refused is not None:
                    raise self._refused
                if not self._open:
                    return self._first(names, send)
        return send({FIELD: response_format(names, self._way)}, partial(self._read, names))

    def _first(self, names: int, send: Send) -> Answer:
        self._alone += 1
        try:
            try:
                return send({FIELD: response_format(names, self._way)}, partial(self._read, names))
            except BackendRefused as error:
                if self._way != _SCHEMA or CANNOT not in str(error):
                    raise
                self._way = _JSON
                answer = send({FIELD: response_format(names, self._way)}, partial(self._read, names))
                log.warning("%s supports JSON but no schemas: only the prompt asks for the form", self._server)
                return answer
        except BackendRefused as error:
            self._refused = error
            raise
        finally:
            self._open = self._open or self._alone >= MOST_ALONE

    def _read(self, names: int, reply: Any) -> Answer:
        """A chat completion as an answer; raises TryAgain if it looks as if the server ignores the field."""
        message = reply.choices[0].message
        answer = answer_of(reply)
        if not message.content and getattr(message, "refusal", None):
            return replace(answer, text=None, logprob=None, failure=Failure(Reason.REFUSED, str(message.refusal)))
        if not answer.text or answer.failure is not None:
            return answer
        if is_structured(answer.text, names, cut=bool(answer.cut)):
            self._open = True
        elif not self._open:
            self._unheeded += 1
            said = f"its answer is of another form: {answer.text[:MOST_CHARACTERS]!r}"
            if self._unheeded >= MOST_UNHEEDED:
                raise BackendRefused(
                    f"{self._server}: label.answer = structured: it takes {FIELD} and ignores it: {said}; {FREE}"
                )
            raise TryAgain(said, paid=True)
        return answer


def response_format(names: int, way: str = _SCHEMA) -> dict[str, Any]:
    """The request field that constrains the answer to the schema for this many names, or to any JSON object."""
    if way == _JSON:
        return {"type": _JSON}
    return {"type": _SCHEMA, _SCHEMA: {"name": "labels", "strict": True, "schema": answer_schema(names)}}


class OpenAIClient:
    """Implements `MllmBackend` with at most `concurrency` requests open."""

    def __init__(self, config: OpenAIBackend, *, first_pause: float = 1.0) -> None:
        """Connect.

        Args:
            config: the server's part of the config.
            first_pause: seconds before the first retry of a failed request.

        Raises:
            BackendRefused: no key in the environment, no response, or the key is not accepted.
        """
        self._config = config
        self._calls = Calls(config, first_pause)
        self._calls.check_server()
        self._scored = False
        self._held = HeldAnswers(f"{config.model} at {config.base_url}")

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes for a reader of the answers: what was requested differently from the config, and why."""
        return self._calls.remarks

    def flush(self) -> None:
        """Send kept replies that wait for others; what cannot be sent now waits for the next time."""
        flush_all()

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
        """See `AspectScorer`; one request per question, an image's questions together.

        Raises:
            BackendRefused: also if the server gives no log-probabilities.
        """
        conversations = [aspect_conversation(text, task.order, task.instruction) for text in task.questions]

        def asked() -> Iterator[tuple[str, Conversation]]:
            for picture in pictures:
                image = data_url(picture.image, self._config.max_image_side)  # encoded only once for all questions
                for conversation in conversations:
                    yield image, conversation

        def one(item: tuple[str, Conversation]) -> Score:
            return self._score(messages(item[1], item[0], self._config.image_detail), task.words)

        scores = read_ahead(one, asked(), threads=self._config.concurrency)
        answers: list[AspectAnswer] = []
        while group := list(islice(scores, len(conversations))):
            answers.append(joined(group))
        return answers

    def choices(self, names: Iterable[str], task: ChoiceTask) -> list[ChoiceAnswer]:
        """See `ChoiceScorer`; one request per turn, a class's turns together.

        Raises:
            BackendRefused: also if the server gives no log-probabilities.
        """
        asked = ((task.conversation(turn, name), task.letters(turn)) for name in names for turn in task.turns)

        def one(item: tuple[Conversation, str]) -> Score:
            return self._score(messages(item[0], None, self._config.image_detail), item[1])

        scores = read_ahead(one, asked, threads=self._config.concurrency)
        answers: list[ChoiceAnswer] = []
        while group := list(islice(scores, len(task.turns))):
            answers.append(chosen(task, group))
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

    def _score(self, content: list[dict[str, Any]], words: Sequence[str]) -> Score:
        extra = {"logprobs": True, "top_logprobs": self._config.top_logprobs}
        needed = dict.fromkeys(extra, f"the server gives no log-probabilities{NO_SCORES}")

        def read(reply: Any) -> Score:
            try:
                found = score_of(reply, words)
            except BackendRefused as error:
                if self._scored:  # it can, but did not this time
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
