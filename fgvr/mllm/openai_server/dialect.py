"""Which request fields one server accepts, learned from its errors: each field once, for all threads.

Reasoning models accept no temperature, some servers no seed, others fewer log-probabilities than requested. Optional
fields are dropped, with a remark; a rejected field that is needed ends the job with the server's own message.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

from fgvr.mllm.backend import BackendRefused
from fgvr.mllm.openai_server.transport import ServerError

log = logging.getLogger(__name__)

LENGTH = "max_tokens"
LENGTHS = ("max_tokens", "max_completion_tokens")
_TOPS = "top_logprobs"
_USUAL_TOPS = 5
"""Used if a server says that 20 are too many but not how many it allows."""
_FEWEST_TOPS = 2
_ALMOST_ZERO = 0.01
"""For servers that require a temperature above 0."""
DETAIL = "detail"

_AT_MOST = re.compile(
    r"(?:<=|≤|(?:less|smaller|lower) than or equal to|at most|up to|(?:no|not) (?:more|greater|larger) than|not exceed|"
    r"max(?:imum)?(?: (?:allowed|value|number|limit|output|completion|tokens))*(?: (?:of|is|for [a-z_ ]{1,40}is))?|"
    r"supports?(?: only)?|"
    r"between -?\d+(?:\.\d+)? and|from -?\d+ to|\[-?\d+(?:\.\d+)?,|range:? -?\d+(?:\.\d+)?(?:\.\.| to| -|-))"
    r"[\s:='\"`(]{0,3}(\d+)(?!\w|\.\d)"
)
_BELOW = re.compile(r"(?:(?:less|smaller|lower) than|below|<)[\s:='\"`]{0,3}(\d+)(?!\w|\.\d)")
_AT_LEAST = re.compile(
    r"(?:>=|≥|(?:greater|larger|more) than or equal to|at least|min(?:imum)?(?: (?:allowed|value))?(?: (?:of|is))?|"
    r"(?:no|not) (?:less|lower) than|between|\[)[\s:='\"`(]{0,3}(\d+)(?!\w|\.\d)"
)
_POSITIVE = re.compile(r"strictly positive|positive (?:float|number)|greater than 0|above 0|> ?0(?![.\d])")
_NOT_AT_ALL = re.compile(r"unsupport|not (?:\w+ )?(?:support|allow|permit|availabl|enabl)|unrecogni|unknown|extra")

_LEFT_OUT = {
    "temperature": "the server accepts no temperature: answers are sampled at its own, so they are not deterministic",
    "seed": "the server accepts no seed: sampled answers cannot be reproduced",
    "logprobs": "the server gives no log-probabilities of answers",
    DETAIL: "the server accepts no image_detail and chooses it itself",
}


class Dialect:
    """How requests are sent to one server; thread-safe.

    A request is a mapping with `model`, `messages`, `max_tokens` and further fields, as it is meant; see `sent`.
    """

    def __init__(self, server: str) -> None:
        """`server`: its name for messages."""
        self._server = server
        self._lock = threading.Lock()
        self._dropped: set[str] = set()
        self._length = LENGTH
        self._refused_lengths: set[str] = set()
        self._longest: int | None = None
        self._shortest: int | None = None
        self._tops: int | None = None
        self._temperature: float | None = None  # in place of 0

    def sent(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request in the form that this server accepts."""
        dropped = self._dropped
        found = {name: value for name, value in request.items() if name not in dropped and name != LENGTH}
        if "logprobs" in dropped:
            found.pop(_TOPS, None)
        if DETAIL in dropped:
            found["messages"] = [_without_detail(message) for message in request["messages"]]
        if self._tops is not None and _TOPS in found:
            found[_TOPS] = min(found[_TOPS], self._tops)
        if self._temperature is not None and found.get("temperature") == 0:
            found["temperature"] = self._temperature
        if LENGTH in request:
            length = request[LENGTH] if self._longest is None else min(request[LENGTH], self._longest)
            found[self._length] = max(length, self._shortest or 0)
        return found

    def learn(
        self, error: ServerError, request: Mapping[str, Any], sent: Mapping[str, Any], needed: Mapping[str, str]
    ) -> bool:
        """Whether to send the request again in another form after `error`; False: the error is not about a field.

        Args:
            error: the response to `sent`.
            request: as it is meant.
            sent: as it was sent.
            needed: fields that cannot be dropped, each with the message that ends the job.

        Raises:
            BackendRefused: the server rejects a needed field, or keeps rejecting.
        """
        # Also for a field that was dropped: without it the server is not satisfied either.
        field = error.field_among(_names(sent) | (_names(request) & self._dropped))
        if field is None:
            return False
        with self._lock:
            if self.sent(request) != sent:
                return True  # another thread learned this while the request was in flight
            said = self._learned(field, error, sent, needed) if field in _names(sent) else ""
            if self.sent(request) == sent:
                reason = needed.get(field, f"it does not accept the {field} that this job needs")
                raise BackendRefused(f"{self._server}: {reason}: {error.words}")
        if said:
            log.warning("%s: %s (it said: %s)", self._server, said, error.words)
        return True

    def remarks(self, request: Mapping[str, Any]) -> list[str]:
        """Notes for a reader of the answers: how the request was sent differently from what was meant."""
        found = [_left_out(name) for name in sorted(self._dropped) if name in _names(request)]
        if self._tops is not None and request.get(_TOPS, 0) > self._tops:
            found.append(self._fewer_tops())
        if self._longest is not None and request.get(LENGTH, 0) > self._longest:
            found.append(self._shorter())
        if self._temperature is not None and request.get("temperature") == 0:
            found.append(self._warmer())
        return found

    def _learned(self, field: str, error: ServerError, sent: Mapping[str, Any], needed: Mapping[str, str]) -> str:
        """Change what is sent, unless nothing helps; returns what to say about it, "" if nobody would notice."""
        if field == "logprobs" and _TOPS in sent and not _NOT_AT_ALL.search(error.text):
            field = _TOPS  # "requested sample logprobs of 20 …"
        if field in LENGTHS:
            return self._learn_length(field, error.text, sent[field])
        if field == _TOPS and (fewer := _fewer_tops(error.text, sent[_TOPS])) is not None:
            self._tops = fewer
            return self._fewer_tops()
        if field == "temperature":
            if sent[field] == 0 and _POSITIVE.search(error.text) and self._temperature is None:
                self._temperature = _ALMOST_ZERO
                return self._warmer()
            limit = _limit(_AT_MOST, error.text)
            if limit is not None and 0 < limit < sent[field]:
                return ""  # the user's own choice, which the user can change
        if field in needed or (field == _TOPS and "logprobs" in needed):
            return ""
        self._dropped.add(field)
        return _left_out(field)

    def _learn_length(self, field: str, text: str, tokens: int) -> str:
        most, least = _limit(_AT_MOST, text), _limit(_AT_LEAST, text)
        if most is not None and 0 < most < tokens:
            self._longest = most
            return self._shorter()
        if least is not None and tokens < least <= 1024:
            self._shortest = least
            return ""
        self._refused_lengths.add(field)
        self._length = next((name for name in LENGTHS if name not in self._refused_lengths), field)
        return ""

    def _fewer_tops(self) -> str:
        return f"the server lists at most {self._tops} first tokens (mllm.top_logprobs): less likely words get a bound"

    def _shorter(self) -> str:
        return f"the server writes at most {self._longest} tokens: longer answers are cut off"

    def _warmer(self) -> str:
        return f"the server accepts no temperature of 0: {self._temperature:g} is sent, which is nearly the same"


def _fewer_tops(text: str, asked: int) -> int | None:
    """How many top tokens to request instead; None if fewer do not help."""
    below = _limit(_BELOW, text)
    for limit in (_limit(_AT_MOST, text), None if below is None else below - 1):
        if limit is not None and limit < asked:
            return limit if limit >= _FEWEST_TOPS else None
    if _NOT_AT_ALL.search(text):
        return None
    return next((fewer for fewer in (_USUAL_TOPS, _FEWEST_TOPS) if fewer < asked), None)


def _limit(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return None if found is None else int(found[1][:9])


def _left_out(field: str) -> str:
    return _LEFT_OUT.get(field, f"the server accepts no {field}: it is left out")


def _names(request: Mapping[str, Any]) -> set[str]:
    """Fields of a request that a server may reject."""
    names = set(request) - {"model", "messages"}
    parts = [part for message in request["messages"] for part in message["content"] if isinstance(part, dict)]
    return names | ({DETAIL} if any(DETAIL in part.get("image_url", {}) for part in parts) else set())


def _without_detail(message: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return dict(message)
    parts = []
    for part in message["content"]:
        if part["type"] == "image_url":
            image = {name: value for name, value in part["image_url"].items() if name != DETAIL}
            part = {**part, "image_url": image}  # noqa: PLW2901  # the caller's own stays
        parts.append(part)
    return {**message, "content": parts}
