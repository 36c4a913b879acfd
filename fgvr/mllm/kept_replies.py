"""How many of a server's replies are kept already, by making the requests and asking nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fgvr.config.models import RUN_REPLIES, OpenAIBackend
from fgvr.mllm.held_answers import HeldAnswers
from fgvr.mllm.openai_backend import OpenAIClient
from fgvr.mllm.openai_calls import Rejected, Result, chat_request, is_kept
from fgvr.mllm.openai_replies import read_reply
from fgvr.mllm.reply_cache import ReplyCache, reply_key


class _Looking:
    """In the place of `Calls`: kept replies, and no others."""

    remarks: tuple[str, ...] = ()

    def __init__(self, config: OpenAIBackend) -> None:
        self._config = config
        self._cache = None if config.reply_cache in {None, RUN_REPLIES} else ReplyCache(str(config.reply_cache))
        self.kept = self.missing = 0

    def complete(
        self,
        messages: list[dict[str, Any]],
        max_tokens: int,
        temperature: float,
        extra: dict[str, Any],
        *,
        read: Callable[[Any], Result],
        needed: Mapping[str, str] | None = None,
    ) -> Result:
        """The kept reply; raises Rejected where there is none."""
        request = chat_request(self._config.model, messages, max_tokens, temperature, extra)
        body = None
        if self._cache is not None and is_kept(temperature, extra):
            body = self._cache.find(reply_key(self._config.base_url, request))
        if body is None:
            self.missing += 1
            raise Rejected("not kept")
        self.kept += 1
        return read(read_reply(body))


class KeptReplies(OpenAIClient):
    """A backend that answers from the cache alone, and counts what it found there."""

    def __init__(self, config: OpenAIBackend) -> None:
        """Connects to nobody and needs no key."""
        self._config = config
        self._looking = _Looking(config)
        self._calls: Any = self._looking
        self._scored = True
        self._held = HeldAnswers(config.model)

    @property
    def share(self) -> float:
        """Of the requests made so far, those whose reply is kept: 0 to 1."""
        asked = self._looking.kept + self._looking.missing
        return self._looking.kept / asked if asked else 0.0
