"""Requests to an OpenAI-compatible server, the bytes of its answers, and its words where it does not answer.

Servers agree on a status and on little else. Error bodies are read as OpenAI, Azure, vLLM and LiteLLM write them
(`error.message`, `.code`, `.param`), as FastAPI and Mistral do (lists of `loc` and `msg`), as Google does
(`details[].fieldViolations`), and as Ollama and llama.cpp do (a text); of others all texts are shown.
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
"""What servers call fields of a chat completion inside."""
_COMPLAINT = re.compile(
    r"unsupport|not (?:\w+ )?(?:support|allow|permit|availabl|enabl|recogni|accept|valid|implement)|unrecogni|unknown|"
    r"unexpect|invalid|does(?:n't| not)|do not|cannot|can't|must|should|extra|only|expected|instead|requires?|greater|"
    r"less|too (?:large|small|high|low)|out of range|deprecat|forbidden|disabled|illegal|range|"
    r"不支持|不允许|无效|非法|不合法|有误|错误|必须|只能|サポート|対応して|無効|지원|허용"
)
_FACTS = {"code", "type", "status", "object", "param", "id", "request_id", "requestId", "trace_id", "traceId"}
"""Texts of an error that are no sentences."""
_PLAIN_WORDS = {"seed", "detail", "stop", "user", "n"}
"""Fields whose names are words of any text: they count where they stand as a name."""
_OF_THE_CONTENT = re.compile(
    r"context.?(?:length|window)|(?:prompt|input|message|content|text)s? (?:is|are|was) too (?:long|large)|"
    r"prompt is too|input tokens|prompt tokens|reduce the length|request too large|content.?(?:policy|filter|manag)|"
    r"flagged|moderat|safety (?:system|filter)|unsafe|blocked|"
    r"(?:invalid|corrupt|broken|decode|process|download|load) (?:(?:the|your|this|an) )?(?:image|photo|picture)(?!\w)"
)


@dataclass(frozen=True)
class ServerError:
    """A refusal.

    Attributes:
        status: of HTTP, or the one that a body of status 200 names; 0: none.
        words: the server's own, with its error code; at most 300 characters and the code.
        text: the same uncut, in lower case and with_underscores, for recognising.
        code: its error code, "" where it has none.
        params: names of fields that it states apart from its words, the last part of each path.
    """

    status: int
    words: str
    text: str = ""
    code: str = ""
    params: tuple[str, ...] = ()

    @classmethod
    def of(cls, status: int, body: bytes) -> ServerError:
        """Read an error's body, whatever it is."""
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            text = body.decode("utf-8", "replace")
            return cls(status, _short(text) or f"status {status}", _snake(text))
        return cls.of_json(status, found)

    @classmethod
    def of_json(cls, status: int, found: Any) -> ServerError:
        """As `of`, of a body that was read."""
        while isinstance(found, list) and len(found) == 1:
            found = found[0]
        error = found.get("error", found) if isinstance(found, Mapping) else found
        facts: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
        code = str(next((facts[name] for name in ("code", "type", "status") if facts.get(name) is not None), ""))
        said, shown = _words(error), facts.get("code")
        words = _short(said) or f"status {status}"
        # Keys of JSON inside the words, and the request that some repeat, are not what is complained about.
        plain = re.sub(r'"\w+"\s*:', " ", said) if "{" in said else said
        text = _snake(re.split(r"'input'\s*:", plain)[0] + f" {code}")
        params = tuple(dict.fromkeys(_last(path) for path in _paths(found, 0)))
        return cls(status, words + (f" ({shown})" if shown else ""), text, code, params)

    @property
    def of_one_request(self) -> bool:
        """Whether it is about what was asked, its length or its content, and not about how."""
        return _OF_THE_CONTENT.search(self.text) is not None

    def field_among(self, names: Collection[str]) -> str | None:
        """Which of the fields `names` (as in the request, and `detail` of an image) is not taken; None: none, or all.

        A message about the prompt's length or content is about none, though it may name one.
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
    """A server's answer that is an error; `after`: seconds that it asks to wait, None when it says nothing."""

    def __init__(self, error: ServerError, after: float | None = None) -> None:
        super().__init__(
            f"HTTP {error.status}: {error.words}" if error.status else f"the reply is an error: {error.words}"
        )
        self.error, self.after = error, after


def _place(name: str, text: str) -> int | None:
    """Where a text names a field."""
    own = re.escape(name)
    if name not in _PLAIN_WORDS:
        found = re.search(rf"(?<!\w){own}(?!\w)", text, re.ASCII)  # Chinese has no blanks around it
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
    """The sentence for people in an error."""
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
    # Of any other form all its texts, with their names: fields and what is wrong with them, a title and a reason.
    said = said or "; ".join(
        f"{name}: {words}" for name, part in error.items() if name not in _FACTS and (words := _words(part))
    )
    # A router's own words are "Provider returned error"; the provider's stand beside them.
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    return f"{said}: {raw}" if isinstance(raw, str) and raw else said


def _paths(found: Any, depth: int) -> Iterator[str]:
    """Fields of the request that an error states as such."""
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
