"""Requests to an OpenAI-compatible server and the bytes of its answers."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from fgvr.config.models import OpenAIBackend, check_base_url
from fgvr.mllm.backend import BackendRefused
from fgvr.mllm.openai_errors import Refusal, ServerError
from fgvr.mllm.retry import TryAgain, retry_after
from fgvr.safe_text import keep_secret


class Transport:
    """One server; safe for several threads."""

    def __init__(self, config: OpenAIBackend) -> None:
        """Raises BackendRefused where the address is none or the environment holds no key."""
        from openai import OpenAI

        try:
            check_base_url(config.base_url)
        except ValueError as error:
            raise BackendRefused(f"mllm.base_url: {error}") from None
        key = os.environ.get(config.api_key_env)
        if not key and not config.base_url.lower().startswith("http://"):
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

    def look(self) -> None:
        """Ask for the list of models; raises Refusal, and BackendRefused where nobody answers."""
        from openai import APIConnectionError, APIError, APIStatusError

        try:
            self._client.with_options(timeout=min(10.0, self._config.timeout_seconds)).models.list()
        except APIConnectionError as error:
            raise BackendRefused(
                f"mllm.base_url: no server answers at {self._config.base_url}: {error.__cause__ or error}"
            ) from error
        except APIStatusError as error:
            raise Refusal(ServerError.of(error.status_code, error.response.content)) from error
        except (APIError, ValueError):
            return  # an answer of some kind: the first request will show

    def post(self, request: dict[str, Any]) -> bytes:
        """The body of the answer to a chat completion's request.

        Raises:
            TryAgain: there was none, or not the whole of it in time.
            Refusal: its status is that of an error.
        """
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        transport = _transport()
        slow = TryAgain(f"no answer within {self._config.timeout_seconds:g} s")
        start = time.monotonic()
        try:
            with self._create(**request) as response:
                return b"".join(_before(start + self._config.timeout_seconds, response.iter_bytes(), slow))
        except (APITimeoutError, transport.TimeoutException):
            raise slow from None
        except APIConnectionError as error:
            raise TryAgain(f"the connection broke: {error.__cause__ or error}") from error
        except transport.HTTPError as error:  # while the body was read
            raise TryAgain(f"the connection broke: {error}") from error
        except APIStatusError as error:
            found = ServerError.of(error.status_code, error.response.content)
            raise Refusal(found, retry_after(error.response.headers)) from error
        except APIError as error:
            raise TryAgain(f"the reply could not be read: {error}") from error


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
