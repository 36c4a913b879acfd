"""The body of a server's reply as a chat completion: whatever a server or a proxy sent, only what is usable passes."""

from __future__ import annotations

import json
import math
from typing import Any

from fgvr.mllm.retry import TryAgain


def read_reply(body: bytes) -> Any:
    """A reply's body as the client's type, `openai.types.chat.ChatCompletion`.

    Its first choice has a message, whose content and refusal are texts or null; where tokens are listed, their
    log-probabilities are numbers. Of the other facts nothing is promised.

    Raises:
        TryAgain: it is no chat completion; some proxies answer 200 with a page or an error inside.
    """
    from openai.types.chat import ChatCompletion

    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise TryAgain(f"the reply could not be read: {body[:200]!r}") from None
    choices = found.get("choices") if isinstance(found, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise TryAgain(f"the reply has no choices: {body[:200]!r}")
    if not all(isinstance(message.get(name), str | None) for name in ("content", "refusal")):
        raise TryAgain(f"the reply's message is no text: {body[:200]!r}")
    if not _are_numbers(choice.get("logprobs")):
        raise TryAgain(f"the reply's log-probabilities are no numbers: {body[:200]!r}")
    choice.setdefault("finish_reason", None)
    message.setdefault("content", None)
    return ChatCompletion.construct(**{**found, "choices": [choice]})


def _are_numbers(logprobs: Any) -> bool:
    """Whether listed tokens, if any, are as the client's type says."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return content is None or (isinstance(content, list) and all(_is_token(token) for token in content))


def _is_token(token: Any) -> bool:
    if not isinstance(token, dict) or not isinstance(token.get("token"), str):
        return False
    value, tops = token.get("logprob"), token.get("top_logprobs")
    if not isinstance(value, int | float) or math.isnan(value):
        return False
    return tops is None or (isinstance(tops, list) and all(_is_token(top) for top in tops))
