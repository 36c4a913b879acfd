"""One call to an OpenAI-compatible server: what is tried again, what fails the row, what ends the job."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from fgvr.config.models import RUN_REPLIES, OpenAIBackend
from fgvr.mllm.backend import BackendRefused
from fgvr.mllm.openai_replies import read_reply
from fgvr.mllm.reply_cache import ReplyCache, reply_key
from fgvr.mllm.retry import Retries, SharedPause, TryAgain, retry_after
from fgvr.safe_text import keep_secret

_LATER = {408, 409, 425, 429}
_NO_SUCH_MODEL = ("model_not_found", "invalid_model", "invalid model")


class Rejected(ValueError):
    """The server will not answer this request, however often it is asked."""


class Calls:
    """Chat completions with retries and a cache; safe for several threads, which share one pause."""

    def __init__(self, config: OpenAIBackend, first_pause: float = 1.0) -> None:
        """Raises BackendRefused where the environment holds no key; see OpenAIClient."""
        from openai import OpenAI

        key = os.environ.get(config.api_key_env)
        if not key and not config.base_url.startswith("http://"):
            raise BackendRefused(
                f"mllm.api_key_env: the environment variable {config.api_key_env} is not set, and {config.base_url}"
                " needs a key (on a cluster the workers' environment must hold it)"
            )
        keep_secret(key or "")  # a server may quote it in its messages
        self._config = config
        # Tries are counted here: the client's own do not know that other threads were told to wait.
        self._client = OpenAI(
            base_url=config.base_url, api_key=key or "none", timeout=config.timeout_seconds, max_retries=0
        )
        # Read in pieces, so that the limit holds for the whole of a reply and its bytes can be kept as they are.
        self._create: Any = self._client.chat.completions.with_streaming_response.create
        self._retries = Retries(config.max_retries, first_pause)
        self._pause = SharedPause()
        self._length_field = "max_tokens"
        # `run` means the run's folder, which only a pipeline knows: on its own a client keeps nothing.
        self._cache = None if config.reply_cache in {None, RUN_REPLIES} else ReplyCache(str(config.reply_cache))

    def check_server(self) -> None:
        """Ask for the list of models, so that a wrong address or key shows at once.

        Raises:
            BackendRefused: nobody answers, or the key is not accepted. A server without such a list is fine.
        """
        from openai import APIConnectionError, APIError, APIStatusError

        try:
            self._client.with_options(timeout=min(10.0, self._config.timeout_seconds)).models.list()
        except APIConnectionError as error:
            raise BackendRefused(
                f"mllm.base_url: no server answers at {self._config.base_url}: {error.__cause__ or error}"
            ) from error
        except APIStatusError as error:
            if error.status_code in {401, 403}:
                raise self._refused(error) from error
        except (APIError, ValueError):
            return  # an answer of some kind: the first request will show

    def complete(
        self, messages: list[dict[str, Any]], max_tokens: int, temperature: float, extra: dict[str, Any]
    ) -> Any:
        """A chat completion (`openai.types.chat.ChatCompletion`) with at least one choice, perhaps a kept one.

        Raises:
            Rejected: the server does not take this request (too long, held for unsafe, malformed).
            GaveUp: it failed in other ways, after all tries.
            BackendRefused: it will take none, or the cache's folder cannot be written.
        """
        request = {"model": self._config.model, "messages": messages, "temperature": temperature, **extra}
        # A sample without a seed is meant to be another one each time.
        cache = self._cache if temperature == 0 or "seed" in extra else None
        key = "" if cache is None else reply_key(self._config.base_url, {**request, "max_tokens": max_tokens})
        if cache is not None and (kept := _kept(cache, key)) is not None:
            return kept
        body = self._retries.run(lambda: self._once(request, max_tokens), self._pause)
        reply = read_reply(body)
        if cache is not None and _worth_keeping(reply):
            try:
                cache.keep(key, body)
            except OSError as error:
                raise BackendRefused(f"mllm.reply_cache = {cache.folder}: cannot write there: {error}") from error
        return reply

    def _once(self, request: dict[str, Any], max_tokens: int) -> bytes:
        """The body of a reply that `read_reply` can read."""
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        transport = _transport()
        length_field = self._length_field
        slow = TryAgain(f"no answer within {self._config.timeout_seconds:g} s")
        start = time.monotonic()
        try:
            with self._create(**request, **{length_field: max_tokens}) as response:
                body = b"".join(_before(start + self._config.timeout_seconds, response.iter_bytes(), slow))
        except (APITimeoutError, transport.TimeoutException):
            raise slow from None
        except APIConnectionError as error:
            raise TryAgain(f"the connection broke: {error.__cause__ or error}") from error
        except transport.HTTPError as error:  # while the body was read
            raise TryAgain(f"the connection broke: {error}") from error
        except APIStatusError as error:
            self._judge(error, length_field)
            raise Rejected(f"HTTP {error.status_code}: {_message(error)}") from error
        except APIError as error:
            raise TryAgain(f"the reply could not be read: {error}") from error
        read_reply(body)
        return body

    def _judge(self, error: Any, length_field: str) -> None:
        """Raise TryAgain or BackendRefused where the status calls for it; returns for a rejected request."""
        status, text = error.status_code, _message(error)
        if status == 429 and "insufficient_quota" in text:
            raise self._refused(error) from error
        if status in _LATER or status >= 500:
            raise TryAgain(f"HTTP {status}: {text}", retry_after(error.response.headers)) from error
        if status in {401, 402, 403, 404} or any(words in text.lower() for words in _NO_SUCH_MODEL):
            raise self._refused(error) from error
        if status == 400 and length_field == "max_tokens" and "max_completion_tokens" in text:
            self._length_field = "max_completion_tokens"  # newer models know only the other name
            raise TryAgain(f"HTTP {status}: {text}", 0.0) from error

    def _refused(self, error: Any) -> BackendRefused:
        no_model = f"there is no model {self._config.model} or no such address (mllm.model, mllm.base_url)"
        what = {
            401: f"the key in {self._config.api_key_env} is not accepted (mllm.api_key_env)",
            402: "the account has no credit left",
            403: f"the key in {self._config.api_key_env} may not do this (mllm.api_key_env)",
            429: "the account's quota is used up",
        }.get(error.status_code, no_model)
        return BackendRefused(f"{self._config.base_url}: {what}: {_message(error)}")


def _transport() -> ModuleType:
    """The HTTP library below the client, whose errors come through while a body is read: httpx or httpx2."""
    from openai import DefaultHttpxClient

    return importlib.import_module(DefaultHttpxClient.__bases__[0].__module__.partition(".")[0])


def _before(deadline: float, chunks: Iterable[bytes], slow: TryAgain) -> Iterator[bytes]:
    """The chunks of a body; a server that sends a byte now and then never runs into the client's own limit."""
    for chunk in chunks:
        if time.monotonic() > deadline:
            raise slow
        yield chunk


def _kept(cache: ReplyCache, key: str) -> Any | None:
    body = cache.find(key)
    try:
        return None if body is None else read_reply(body)
    except TryAgain:  # the file was damaged: as if it were not there
        return None


def _worth_keeping(reply: Any) -> bool:
    """Whether a reply says something: what a filter held back, or nothing at all, is asked for again."""
    choice = reply.choices[0]
    return choice.finish_reason != "content_filter" and bool(choice.message.content)


def _message(error: Any) -> str:
    """The server's own words, with its error code."""
    body = error.body if isinstance(error.body, dict) else {}
    code = body.get("code")
    return f"{body.get('message') or error.message}"[:300] + (f" ({code})" if code else "")
