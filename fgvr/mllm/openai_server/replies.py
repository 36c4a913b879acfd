"""Parses the body of a server's reply as a chat completion: whatever was sent, only usable parts pass."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fgvr.mllm.openai_server.retry import TryAgain
from fgvr.mllm.openai_server.transport import Refusal, ServerError

CUT, FILTERED = "length", "content_filter"
"""OpenAI's finish reasons for a reply ended by the token limit, and for one that was filtered."""
_NO_ANSWER = {"error", "abort", "network_error", "insufficient_system_resource"}
"""The engine broke off; the last two are Zhipu's and DeepSeek's."""
_SAME_REASON = dict.fromkeys(
    # Finish reasons of Anthropic and Gemini, Mistral, watsonx, and of other APIs behind routers
    (
        "max_tokens",
        "model_length",
        "token_limit",
        "max_output_tokens",
        "max_new_tokens",
        "model_context_window_exceeded",
    ),
    CUT,
) | dict.fromkeys(
    ("content-filter", "safety", "recitation", "prohibited_content", "blocklist", "spii", "image_safety", "sensitive"),
    FILTERED,
)
"""Finish reasons of other servers, in lower case."""
_ABOVE_ONE = 0.01
"""Rounding may put a log-probability this far above 0; a higher value is something else."""


def unreadable(what: str, body: bytes) -> TryAgain:
    """The error for a reply that arrived, and was paid for, but cannot be used."""
    return TryAgain(f"{what}: {body[:200]!r}", paid=True)


def read_reply(body: bytes) -> Any:
    """A reply's body as the client's type, `openai.types.chat.ChatCompletion`.

    Its first choice has a message whose content and refusal are texts or null; content given in parts is joined,
    without thoughts. If tokens are listed, their log-probabilities are valid numbers, down to minus infinity. The
    finish reason is one of OpenAI's (`CUT`, `FILTERED`) or None. A stream of events that nobody requested is joined.
    Nothing is guaranteed about other fields.

    Raises:
        TryAgain: it is not a chat completion, or the engine behind the server broke off.
        Refusal: it is an error, whatever the HTTP status.
    """
    from openai.types.chat import ChatCompletion

    found = parsed(body)
    choices = found.get("choices") if isinstance(found, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    for place in (found, choice):
        if isinstance(place, dict) and place.get("error"):
            raise Refusal(_error_inside(place["error"]))
    finish = _finish_reason(choice)
    if finish in _NO_ANSWER:
        raise unreadable(f"the server ended the request with finish_reason {finish}", body)
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise unreadable("the reply has no choices", body)
    message = {**message, **_texts(message)}
    if not all(isinstance(message[name], str | None) for name in ("content", "refusal")):
        raise unreadable("the reply's message is not text", body)
    try:
        logprobs = _with_numbers(choice.get("logprobs"))
    except (TypeError, ValueError, OverflowError):
        raise unreadable("the reply's log-probabilities are not valid", body) from None
    usable = {"finish_reason": finish, "message": message, "logprobs": logprobs}
    return ChatCompletion.construct(**{"usage": None, **found, "choices": [{**choice, **usable}]})


def _finish_reason(choice: Any) -> str | None:
    found = choice.get("finish_reason") if isinstance(choice, dict) else None
    if not isinstance(found, str):
        return None
    word = found.rpartition(".")[2].casefold()  # a Python enum's name, "FinishReason.MAX_TOKENS"
    return _SAME_REASON.get(word, word)


def parsed(body: bytes) -> Any:
    """A body's JSON, or the completion joined from a stream of events; raises TryAgain."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    if body.lstrip()[:5] in {b"data:", b"event", b": pin"} or b"\ndata:" in body[:1000]:
        return _joined_stream(body)
    raise unreadable("the reply could not be read", body)


def _joined_stream(body: bytes) -> dict[str, Any]:
    """A completion joined from a stream of events; raises TryAgain if the stream breaks off."""
    joined: dict[str, Any] = {}
    said: dict[str, str] = {}
    tokens: list[Any] = []
    finish: Any = None
    for event in _events(body):
        if event.get("error"):
            return event
        joined |= {key: value for key, value in event.items() if value is not None and key != "choices"}
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        part = choice.get("delta") or choice.get("message")
        for key, text in _texts(part).items() if isinstance(part, dict) else ():
            said[key] = said.get(key, "") + (text if isinstance(text, str) else "")
        listed = choice.get("logprobs")
        content = listed.get("content") if isinstance(listed, dict) else None
        tokens += content if isinstance(content, list) else []
        finish = choice.get("finish_reason") or finish
    if finish is None and b"[DONE]" not in body:
        raise unreadable("the reply is a stream of events that breaks off", body)
    choice = {"index": 0, "finish_reason": finish, "logprobs": {"content": tokens} if tokens else None}
    return {**joined, "choices": [{**choice, "message": {"role": "assistant", "content": None, **said}}]}


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.splitlines():
        name, _, data = line.partition(b":")
        if name.strip() != b"data" or data.strip() in {b"", b"[DONE]"}:
            continue
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            raise unreadable("the reply is a stream of events that cannot be read", body) from None
        if isinstance(event, dict):
            yield event


def _error_inside(error: Any) -> ServerError:
    code = error.get("code", error.get("status")) if isinstance(error, Mapping) else None
    status = int(code) if isinstance(code, int | str) and str(code).isdecimal() and 400 <= int(code) <= 599 else 0
    return ServerError.of_json(status, {"error": error})


def _texts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Content and refusal as texts: text parts are joined; thoughts, pictures and all else are dropped."""
    content, refusal = message.get("content"), message.get("refusal")
    parts = [content] if isinstance(content, dict) else content
    if isinstance(parts, list) and all(isinstance(part, dict | str) for part in parts):
        content = _joined(parts, ("text", "output_text"), "text")
        refusal = refusal or _joined(parts, ("refusal",), "refusal")
    return {"content": content, "refusal": refusal}


def _joined(parts: list[Any], kinds: tuple[str, ...], field: str) -> str | None:
    texts: list[Any] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part if field == "text" else None)
        elif part.get("type", "text") in kinds:
            texts.append(part.get(field))
    found = [text for text in texts if isinstance(text, str)]
    return "".join(found) if found else None


def _with_numbers(logprobs: Any) -> Any:
    """Listed tokens, if any, with float log-probabilities; raises TypeError or ValueError for invalid ones."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if content is None:
        return logprobs
    if not isinstance(content, list):
        raise TypeError("no list of tokens")
    return {**logprobs, "content": [_token(token) for token in content]}


def _token(token: Any) -> dict[str, Any]:
    if not isinstance(token, dict) or not isinstance(token.get("token"), str):
        raise TypeError("no token")
    value, tops = token.get("logprob"), token.get("top_logprobs")
    if isinstance(value, str) and value.lower() in {"-inf", "-infinity"}:  # JSON has no such number
        value = -math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("no number")
    number = float(value)
    if math.isnan(number) or number > _ABOVE_ONE:
        raise ValueError("no logarithm of a probability")
    if tops is not None and not isinstance(tops, list):
        raise TypeError("no list of tokens")
    listed = tops if tops is None else [_token(top) for top in tops]
    return {**token, "logprob": min(number, 0.0), "top_logprobs": listed}
