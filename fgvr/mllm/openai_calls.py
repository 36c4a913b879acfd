"""One call to an OpenAI-compatible server: what is tried again, what fails the row, what ends the job."""

from __future__ import annotations

import os
from typing import Any

from fgvr.config.models import OpenAIBackend
from fgvr.mllm.backend import BackendRefused
from fgvr.mllm.retry import Retries, SharedPause, TryAgain, retry_after

_LATER = {408, 409, 425, 429}


class Rejected(ValueError):
    """The server will not answer this request, however often it is asked."""


class Calls:
    """Chat completions with retries; safe for several threads, which share one pause."""

    def __init__(self, config: OpenAIBackend, first_pause: float = 1.0) -> None:
        """Raises BackendRefused where the environment holds no key; see OpenAIClient."""
        from openai import OpenAI

        key = os.environ.get(config.api_key_env)
        if not key and not config.base_url.startswith("http://"):
            raise BackendRefused(
                f"mllm.api_key_env: the environment variable {config.api_key_env} is not set, and {config.base_url}"
                " needs a key (on a cluster the workers' environment must hold it)"
            )
        self._config = config
        # Tries are counted here: the client's own do not know that other threads were told to wait.
        self._client = OpenAI(
            base_url=config.base_url, api_key=key or "none", timeout=config.timeout_seconds, max_retries=0
        )
        self._retries = Retries(config.max_retries, first_pause)
        self._pause = SharedPause()
        self._length_field = "max_tokens"

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
        except APIError:
            return  # an answer of some kind: the first request will show

    def complete(
        self, messages: list[dict[str, Any]], max_tokens: int, temperature: float, extra: dict[str, Any]
    ) -> Any:
        """A chat completion (`openai.types.chat.ChatCompletion`) with at least one choice.

        Raises:
            Rejected: the server does not take this request (too long, held for unsafe, malformed).
            GaveUp: it failed in other ways, after all tries.
            BackendRefused: it will take none.
        """
        return self._retries.run(lambda: self._once(messages, max_tokens, temperature, extra), self._pause)

    def _once(self, messages: list[dict[str, Any]], max_tokens: int, temperature: float, extra: dict[str, Any]) -> Any:
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        length_field = self._length_field
        length: dict[str, Any] = {length_field: max_tokens}
        try:
            reply = self._client.chat.completions.create(
                model=self._config.model,
                messages=messages,  # type: ignore[arg-type]  # plain dicts of the right shape
                temperature=temperature,
                **length,
                **extra,
            )
        except APITimeoutError:
            raise TryAgain(f"no answer within {self._config.timeout_seconds:g} s") from None
        except APIConnectionError as error:
            raise TryAgain(f"the connection broke: {error.__cause__ or error}") from error
        except APIStatusError as error:
            self._judge(error, length_field)
            raise Rejected(f"HTTP {error.status_code}: {_message(error)}") from error
        except APIError as error:
            raise TryAgain(f"the reply could not be read: {error}") from error
        except ValueError as error:  # the body was not JSON
            raise TryAgain(f"the reply could not be read: {error}") from error
        if not getattr(reply, "choices", None):  # some proxies answer 200 with a page or an error inside
            raise TryAgain(f"the reply has no choices: {str(reply)[:200]!r}")
        return reply

    def _judge(self, error: Any, length_field: str) -> None:
        """Raise TryAgain or BackendRefused where the status calls for it; returns for a rejected request."""
        status, text = error.status_code, _message(error)
        if status == 429 and "insufficient_quota" in text:
            raise self._refused(error) from error
        if status in _LATER or status >= 500:
            raise TryAgain(f"HTTP {status}: {text}", retry_after(error.response.headers)) from error
        if status in {401, 403, 404}:
            raise self._refused(error) from error
        if status == 400 and length_field == "max_tokens" and "max_completion_tokens" in text:
            self._length_field = "max_completion_tokens"  # newer models know only the other name
            raise TryAgain(f"HTTP {status}: {text}", 0.0) from error

    def _refused(self, error: Any) -> BackendRefused:
        what = {
            401: f"the key in {self._config.api_key_env} is not accepted (mllm.api_key_env)",
            403: f"the key in {self._config.api_key_env} may not do this (mllm.api_key_env)",
            404: f"there is no model {self._config.model} or no such address (mllm.model, mllm.base_url)",
            429: "the account's quota is used up",
        }[error.status_code]
        return BackendRefused(f"{self._config.base_url}: {what}: {_message(error)}")


def _message(error: Any) -> str:
    """The server's own words, with its error code."""
    body = error.body if isinstance(error.body, dict) else {}
    code = body.get("code")
    return f"{body.get('message') or error.message}"[:300] + (f" ({code})" if code else "")
