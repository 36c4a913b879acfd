"""HTTP requests to an OpenAI-compatible server, the bytes of its answers, and the parsing of its errors.

Servers agree on HTTP statuses and on little else. Errors are parsed in the formats of OpenAI, Azure, vLLM and LiteLLM
(`error.message`, `.code`, `.param`), FastAPI and Mistral (lists of `loc` and `msg`), Google
(`details[].fieldViolations`), and Ollama and llama.cpp (a text); of any other format all texts are shown.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fgvr.config.models import OpenAIBackend, check_base_url
from fgvr.mllm.backend import BackendRefused
from fgvr.mllm.openai_server.retry import TryAgain, retry_after
from fgvr.redact import keep_secret

_MOST_WORDS = 300
_OTHER_NAMES = {
    "response_logprobs": "logprobs",
    "max_output_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "num_predict": "max_tokens",
    "n_predict": "max_tokens",
    "image_detail": "detail",
    "response_schema": "response_format",
    "json_schema": "response_format",
    "response_mime_type": "response_format",
    "guided_json": "response_format",
    "random_seed": "seed",
}
"""Names that servers use internally for fields of a chat completion."""
_COMPLAINT = re.compile(
    r"unsupport|not (?:\w+ )?(?:support|allow|permit|availabl|enabl|recogni|accept|valid|implement)|unrecogni|unknown|"
    r"unexpect|invalid|does(?:n't| not)|do not|cannot|can't|must|should|extra|only|expected|instead|requires?|greater|"
    r"less|too (?:large|small|high|low)|out of range|deprecat|forbidden|disabled|illegal|range|"
    r"不支持|不允许|无效|非法|不合法|有误|错误|必须|只能|サポート|対応して|無効|지원|허용"
)
_FACTS = {"code", "type", "status", "object", "param", "id", "request_id", "requestId", "trace_id", "traceId"}
"""Keys of an error whose texts are not sentences."""
_PLAIN_WORDS = {"seed", "detail", "stop", "user", "n"}
"""Fields whose names are also ordinary words: they count only where they stand as a name."""
_OF_THE_CONTENT = re.compile(
    r"context.?(?:length|window)|(?:prompt|input|message|content|text)s? (?:is|are|was) too (?:long|large)|"
    r"prompt is too|input tokens|prompt tokens|reduce the length|request too large|content.?(?:policy|filter|manag)|"
    r"flagged|moderat|safety (?:system|filter)|unsafe|blocked|"
    r"(?:invalid|corrupt|broken|decode|process|download|load) (?:(?:the|your|this|an) )?(?:image|photo|picture)(?!\w)"
)


@dataclass(frozen=True)
class ServerError:
    """An error response.

    Attributes:
        status: HTTP status, or the one named in a body of status 200; 0: none.
        words: the server's message with its error code; at most 300 characters and the code.
        text: the full message in lower case and with_underscores, for matching.
        code: its error code, "" if it has none.
        params: names of fields that the error states separately, the last part of each path.
    """

    status: int
    words: str
    text: str = ""
    code: str = ""
    params: tuple[str, ...] = ()

    @classmethod
    def of(cls, status: int, body: bytes) -> ServerError:
        """Parse the body of an error, whatever its format."""
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            text = body.decode("utf-8", "replace")
            return cls(status, _short(text) or f"status {status}", _snake(text))
        return cls.of_json(status, found)

    @classmethod
    def of_json(cls, status: int, found: Any) -> ServerError:
        """As `of`, for a body that was parsed already."""
        while isinstance(found, list) and len(found) == 1:
            found = found[0]
        error = found.get("error", found) if isinstance(found, Mapping) else found
        facts: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
        code = str(next((facts[name] for name in ("code", "type", "status") if facts.get(name) is not None), ""))
        said, shown = _words(error), facts.get("code")
        words = _short(said) or f"status {status}"
        # Neither JSON keys inside the message nor a quoted request are what the error is about.
        plain = re.sub(r'"\w+"\s*:', " ", said) if "{" in said else said
        text = _snake(re.split(r"'input'\s*:", plain)[0] + f" {code}")
        params = tuple(dict.fromkeys(_last(path) for path in _paths(found, 0)))
        return cls(status, words + (f" ({shown})" if shown else ""), text, code, params)

    @property
    def of_one_request(self) -> bool:
        """Whether the error is about this request's length or content, and not about its form."""
        return _OF_THE_CONTENT.search(self.text) is not None

    def field_among(self, names: Collection[str]) -> str | None:
        """Which of the fields `names` (as in the request, or an image's `detail`) is rejected; None: none, or all.

        A message about the prompt's length or content is about no field, though it may mention one.
        """
        if self.of_one_request:
            return None
        for param in self.params:
            if (name := _OTHER_NAMES.get(param, param)) in names:
                return name
        if any(param in {"messages", "prompt", "content", "image_url", "url", "model"} for param in self.params):
            return None
        if _COMPLAINT.search(self.text) is None:
            return None
        known = {name: name for name in names} | {o: n for o, n in _OTHER_NAMES.items() if n in names}
        places = [(place, known[name]) for name in known if (place := _place(name, self.text)) is not None]
        return min(places)[1] if places else None


class Refusal(Exception):
    """An error response of a server; `after`: seconds that it asks to wait, None if it does not say."""

    def __init__(self, error: ServerError, after: float | None = None) -> None:
        super().__init__(
            f"HTTP {error.status}: {error.words}" if error.status else f"the reply is an error: {error.words}"
        )
        self.error, self.after = error, after


def _place(name: str, text: str) -> int | None:
    """Position at which a text names a field."""
    own = re.escape(name)
    if name not in _PLAIN_WORDS:
        found = re.search(rf"(?<!\w){own}(?!\w)", text, re.ASCII)  # Chinese text has no blanks around names
    else:
        found = re.search(
            rf"[`'\"\[.]{own}[`'\"\],]"
            rf"|(?<!\w){own} (?:param\w*|argument|field|option|keyword)(?!\w)"
            rf"|image {own} (?:[`'\"]\w+[`'\"] )?(?:is |must )"
            rf"|(?:param\w*|arguments?|fields?|options?|keys?|keyword|supplied|support\w*|allow\w*)\W+(?:the \W?)?"
            rf"{own}(?!\w)"
            rf"|(?:^|[^\w\s]\s*|the ){own}\W{{1,3}}(?:(?:is|was|are|has) )?"
            r"(?:not|un\w+|invalid|must|should|extra|out|only|does)\b",
            text,
        )
    return None if found is None else found.start()


def _words(error: Any) -> str:
    """The message for people in an error."""
    if isinstance(error, str):
        return error
    if isinstance(error, list):
        return "; ".join(filter(None, (_words(part) for part in error[:4])))
    if not isinstance(error, Mapping):
        return ""
    if isinstance(error.get("msg"), str):
        path = error.get("loc")
        where = ".".join(str(part) for part in path) if isinstance(path, list) else ""
        return f"{where}: {error['msg']}" if where else str(error["msg"])
    said = next((words for name in ("message", "detail", "error", "errors") if (words := _words(error.get(name)))), "")
    # Any other format: all its texts with their keys: fields and what is wrong with them, a title and a reason.
    said = said or "; ".join(
        f"{name}: {words}" for name, part in error.items() if name not in _FACTS and (words := _words(part))
    )
    # A router's own message is "Provider returned error"; the provider's stands beside it.
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    return f"{said}: {raw}" if isinstance(raw, str) and raw else said


def _paths(found: Any, depth: int) -> Iterator[str]:
    """Fields of the request that an error names explicitly."""
    if depth > 6:
        return
    if isinstance(found, list):
        for part in found[:20]:
            yield from _paths(part, depth + 1)
    elif isinstance(found, Mapping):
        for name in ("param", "field", "loc"):
            path = found.get(name)
            if isinstance(path, str) and path:
                yield path
            elif name == "loc" and isinstance(path, list) and path:
                yield ".".join(str(part) for part in path)
        for name in ("error", "message", "detail", "details", "errors", "field_violations", "fieldViolations"):
            yield from _paths(found.get(name), depth + 1)


def _last(path: str) -> str:
    parts = [part for part in re.split(r"[.\[\]/\s]+", _snake(path)) if part and not part.isdigit()]
    return parts[-1] if parts else ""


def _snake(text: str) -> str:
    """`responseLogprobs` as `response_logprobs`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text[:5000]).lower()


def _short(text: str) -> str:
    return " ".join(text.split())[:_MOST_WORDS]


class Transport:
    """The connection to one server; thread-safe."""

    def __init__(self, config: OpenAIBackend) -> None:
        """Raises BackendRefused if the address is invalid or the environment has no key."""
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
        # Retries are counted here: the client's own do not know that other threads were told to wait.
        self._client = OpenAI(
            base_url=config.base_url, api_key=key or "none", timeout=config.timeout_seconds, max_retries=0
        )
        # Read in chunks, so that the timeout applies to the whole reply and its bytes can be kept as they are.
        self._create: Any = self._client.chat.completions.with_streaming_response.create

    def look(self) -> None:
        """Request the list of models; raises Refusal, or BackendRefused if there is no response."""
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
            return  # some kind of response: the first request will show more

    def post(self, request: dict[str, Any]) -> bytes:
        """The body of the response to a chat completion request.

        Raises:
            TryAgain: no response, or not complete in time.
            Refusal: it has an error status.
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
    """The HTTP library below the client, whose errors surface while a body is read: httpx or httpx2."""
    from openai import DefaultHttpxClient

    return importlib.import_module(DefaultHttpxClient.__bases__[0].__module__.partition(".")[0])


def _before(deadline: float, chunks: Iterable[bytes], slow: TryAgain) -> Iterator[bytes]:
    """The chunks of a body; the client's own timeout never applies to a server that sends a byte now and then."""
    for chunk in chunks:
        if time.monotonic() > deadline:
            raise slow
        yield chunk
