"""One call to an OpenAI-compatible server: what is retried, what fails the row, what ends the job.

The first requests of a kind go out one at a time: so a single image reveals what a server does not accept.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fgvr.config.models import RUN_REPLIES, OpenAIBackend
from fgvr.mllm.backend import BackendRefused
from fgvr.mllm.openai_server.cache import ReplyCache, reply_key
from fgvr.mllm.openai_server.dialect import LENGTH, Dialect
from fgvr.mllm.openai_server.replies import FILTERED, parsed, read_reply
from fgvr.mllm.openai_server.requests import cached_tokens, spent_of
from fgvr.mllm.openai_server.retry import NothingButWaiting, Retries, SharedPause, TryAgain
from fgvr.mllm.openai_server.transport import Refusal, ServerError, Transport
from fgvr.spending import pay

MOST_ALONE = 3
"""Requests of a kind that go alone while none succeeds; after that the server is slow or broken, not incompatible."""

log = logging.getLogger(__name__)
Result = TypeVar("Result")
_LATER = {408, 409, 425, 429}
_ABOUT_FIELDS = {0, 400, 403, 405, 415, 422, 500, 501}
"""Statuses with which servers reject a field; 0: an error in a body of status 200."""
_NO_SUCH_MODEL = ("model_not_found", "invalid_model", "invalid model")
_NO_USAGE = "the server reports no token counts (usage), so the cost of the answers is not known"
_REMARKS = "fgvr_remarks"
"""Key in a cached reply's body: how its request was sent differently from what was meant."""


@dataclass
class _Kind:
    lock: threading.Lock = field(default_factory=threading.Lock)
    alone: int = 0
    open: bool = False
    refused: str = ""


class FirstRequests:
    """Lets requests of a kind through one at a time until one was answered; thread-safe."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, request: Mapping[str, Any]) -> Iterator[None]:
        """Hold a turn in the block; leaving it without an error means that the server answered.

        Raises:
            BackendRefused: an earlier request of this kind raised it, so this one need not be sent.
        """
        with self._lock:
            kind = self._kinds.setdefault(_kind(request), _Kind())
        with ExitStack() as held:
            if not kind.open:
                held.enter_context(kind.lock)
                kind.alone += 1
                if kind.open or kind.alone > MOST_ALONE:
                    kind.open = True
                    held.close()
            if kind.refused:
                raise BackendRefused(kind.refused)
            try:
                yield
            except BackendRefused as error:
                kind.refused = str(error)
                raise
            kind.open = True


def _kind(request: Mapping[str, Any]) -> str:
    """The fields of a request and their values, without those that differ between any two requests."""
    fields = {name: value for name, value in request.items() if name not in {"model", "messages", "seed"}}
    images = any(not isinstance(message["content"], str) for message in request["messages"])
    return json.dumps([fields, images, "seed" in request], sort_keys=True, default=str)


class Rejected(ValueError):
    """The server will never answer this request, however often it is sent."""


def _as_it_is(reply: Any) -> Any:
    return reply


class Calls:
    """Chat completions with retries and a cache; thread-safe, with one request rate for all threads."""

    def __init__(self, config: OpenAIBackend, first_pause: float = 1.0) -> None:
        """Raises BackendRefused if the environment has no key; see OpenAIClient."""
        self._config = config
        self._transport = Transport(config)
        self._retries = Retries(config.max_retries, first_pause, patience=60 * config.max_wait_minutes)
        self._pause = SharedPause()
        self._first = FirstRequests()
        self._dialect = Dialect(f"{config.model} at {config.base_url}")
        self._remarks: set[str] = set()
        # `run` means the run's folder, which only a pipeline knows: without a pipeline, nothing is cached.
        self._cache = None if config.reply_cache in {None, RUN_REPLIES} else ReplyCache(str(config.reply_cache))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes for a reader of the replies: fields that the server rejected, counts that it did not state."""
        return tuple(sorted(self._remarks))

    def check_server(self) -> None:
        """Ask for the list of models, so that a wrong address or key shows at once.

        Raises:
            BackendRefused: no response, or the key is not accepted. A server without such a list is fine.
        """
        try:
            self._transport.look()
        except Refusal as refusal:
            if refusal.error.status in {401, 403}:
                raise self._refused(refusal.error) from refusal

    def complete(
        self,
        messages: list[dict[str, Any]],
        max_tokens: int,
        temperature: float,
        extra: dict[str, Any],
        *,
        read: Callable[[Any], Result] = _as_it_is,
        needed: Mapping[str, str] | None = None,
    ) -> Result:
        """The result of `read` for a chat completion (`openai.types.chat.ChatCompletion`), possibly a cached one.

        Args:
            messages: see `fgvr.mllm.openai_server.requests.messages`.
            max_tokens: longest reply.
            temperature: sampling temperature.
            extra: further fields of the request.
            read: parses a completion with at least one choice; raises TryAgain if nothing in it can be used. Only a
                reply that could be parsed is cached.
            needed: fields of `extra` that cannot be dropped if the server rejects them, each with the message that ends
                the job; without the other fields the request is sent again.

        Raises:
            Rejected: the server rejects this request (too long, unsafe, malformed).
            GaveUp: it failed in other ways, after all retries.
            BackendRefused: it will accept no request, or the cache folder cannot be written; also whatever `read`
                raises.
        """
        # The cache key uses the request as meant, so that a later run finds replies from before a server's ways were
        # learned.
        request = chat_request(self._config.model, messages, max_tokens, temperature, extra)
        # A sample without a seed must differ each time.
        cache = self._cache if is_kept(temperature, extra) else None
        key = "" if cache is None else reply_key(self._config.base_url, request)
        if cache is not None and (body := cache.find(key)) is not None:
            try:
                return self._interpreted(body, read)[1]
            except (TryAgain, Refusal, BackendRefused):
                pass  # damaged, or cached by a less strict version: request it again
        try:
            body, reply, result = self._retries.run(
                lambda: self._once(request, read, needed or {}), self._pause, lambda: self._first.turn(request)
            )
        except NothingButWaiting as error:
            raise BackendRefused(
                f"{self._config.base_url}: answered no request for {self._config.max_wait_minutes:g} minutes"
                f" (mllm.max_wait_minutes), it only asked to wait: {error}"
            ) from error
        self._note(self._dialect.remarks(request))
        if cache is not None and _worth_keeping(reply):
            try:
                cache.keep(key, _with_remarks(body, self._dialect.remarks(request)))
            except OSError as error:
                raise BackendRefused(f"mllm.reply_cache = {cache.folder}: cannot write there: {error}") from error
        return result

    def _interpreted(self, body: bytes, read: Callable[[Any], Result]) -> tuple[Any, Result]:
        reply = read_reply(body)
        result = read(reply)
        self._note(getattr(reply, _REMARKS, None) or ())
        if not spent_of(reply).known:
            if _NO_USAGE not in self._remarks:
                log.warning("%s at %s: %s", self._config.model, self._config.base_url, _NO_USAGE)
            self._note([_NO_USAGE])
        return reply, result

    def _paid(self, read: Callable[[Any], Result]) -> Callable[[Any], Result]:
        """`read` for a reply that was just paid for, whether or not anything in it can be used."""

        def counted(reply: Any) -> Result:
            spent = spent_of(reply)
            pay(self._config.model, spent.prompt, cached_tokens(reply), spent.output)
            return read(reply)

        return counted

    def _note(self, remarks: Iterable[Any]) -> None:
        self._remarks.update(remark for remark in remarks if isinstance(remark, str))

    def _once(
        self, request: dict[str, Any], read: Callable[[Any], Result], needed: Mapping[str, str]
    ) -> tuple[bytes, Any, Result]:
        """A reply's body and its meaning, for the first form of the request that the server accepts."""
        while True:
            sent = self._dialect.sent(request)
            try:
                body = self._transport.post(sent)
                return body, *self._interpreted(body, self._paid(read))
            except Refusal as refusal:
                if not self._judge(refusal, request, sent, needed):
                    raise Rejected(str(refusal)) from refusal

    def _judge(
        self, refusal: Refusal, request: dict[str, Any], sent: dict[str, Any], needed: Mapping[str, str]
    ) -> bool:
        """Whether to send the request in another way, now; False: it is rejected for its own sake.

        This does not count as a retry, since the server did no work. Raises whatever else the server's message calls
        for.
        """
        error = refusal.error
        status, text = error.status, error.text
        if status == 429 and "insufficient_quota" in text:
            raise self._refused(error) from refusal
        if status == 429 and "request too large" in text:
            return False  # larger than the server's limit per minute: waiting does not help
        if status in _ABOUT_FIELDS and self._dialect.learn(error, request, sent, needed):
            return True
        if status == 403 and error.of_one_request:
            return False
        if status in _LATER or status >= 500 or not status:
            limited = status == 429 or refusal.after is not None
            raise TryAgain(str(refusal), refusal.after, limited=limited) from refusal
        if status in {401, 402, 403, 404} or any(words in text for words in _NO_SUCH_MODEL):
            raise self._refused(error) from refusal
        return False

    def _refused(self, error: ServerError) -> BackendRefused:
        usual = "" if "/v" in self._config.base_url.partition("://")[2] else "; most servers' addresses end in /v1"
        no_model = f"there is no model {self._config.model} or no such address (mllm.model, mllm.base_url{usual})"
        what = {
            401: f"the key in {self._config.api_key_env} is not accepted (mllm.api_key_env)",
            402: "the account has no credit left",
            403: f"the key in {self._config.api_key_env} may not do this (mllm.api_key_env)",
            429: "the account's quota is used up",
        }.get(error.status, no_model)
        return BackendRefused(f"{self._config.base_url}: {what}: {error.words}")


def chat_request(
    model: str, messages: list[dict[str, Any]], max_tokens: int, temperature: float, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """A request as meant, which is also its cache key."""
    return {"model": model, "messages": messages, "temperature": temperature, **extra, LENGTH: max_tokens}


def is_kept(temperature: float, extra: Mapping[str, Any]) -> bool:
    """Whether a cached reply may be reused: not for a sample without a seed."""
    return temperature == 0 or "seed" in extra


def _with_remarks(body: bytes, remarks: list[str]) -> bytes:
    """A body to cache, with remarks for later readers if there are any."""
    if not remarks:
        return body
    return json.dumps({**parsed(body), _REMARKS: remarks}).encode()


def _worth_keeping(reply: Any) -> bool:
    """Whether a reply has content: filtered or empty replies are requested again."""
    choice = reply.choices[0]
    return choice.finish_reason != FILTERED and bool(choice.message.content)
