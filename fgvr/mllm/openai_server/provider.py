"""A model behind an OpenAI-compatible server, before any request; and what share of its replies is cached."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from fgvr import storage
from fgvr.config.models import RUN_REPLIES, OpenAIBackend
from fgvr.mllm.backend import AskedBy, KeptShare, MllmBackend, Provider, Size
from fgvr.mllm.openai_server.backend import HeldAnswers, OpenAIClient
from fgvr.mllm.openai_server.cache import ReplyCache, reply_key
from fgvr.mllm.openai_server.calls import Rejected, Result, chat_request, is_kept
from fgvr.mllm.openai_server.replies import read_reply

_OPENAI = {"gpt-4o-mini": (2833, 5667), "gpt-4o": (85, 170), "gpt-4.1": (85, 170), "gpt-4.5": (75, 150)}
"""(tokens of an image, of each tile of 512 × 512), by prefix of the model's name, as in OpenAI's guide; the longest
matching prefix counts."""


class OpenAIProvider(Provider):
    """See Provider."""

    def __init__(self, config: OpenAIBackend) -> None:
        self._config = config

    def start(self, *, vision: bool) -> MllmBackend:
        """See Provider; whether the model has vision is up to the server."""
        return OpenAIClient(self._config)

    def identity(self) -> dict[str, Any]:
        """See Provider."""
        config = self._config
        return {
            "server": server_identity(config.base_url),
            "model": config.model,
            "detail": config.image_detail,
            "max_image_side": config.max_image_side,
            "top_logprobs": config.top_logprobs,
            "answer_logprobs": config.answer_logprobs,
        }

    def pinned(self) -> OpenAIBackend:
        """See Provider; only the server knows what its names refer to."""
        return self._config

    def check(self, asked: AskedBy) -> None:
        """See Provider; nothing of it runs on the workers."""

    def image_tokens(self, size: Size) -> int | None:
        """See Provider: by the guide of the model's maker."""
        return _image_tokens(self._config, size)

    def billions(self) -> None:
        """See Provider."""
        return

    def kept_replies(self) -> KeptShare | None:
        """See Provider."""
        folder = self._config.reply_cache
        return KeptReplies(self._config) if folder is not None and storage.exists(folder) else None


def server_identity(url: str) -> str:
    """The part of a server's address that identifies the server: host and path.

    The scheme, user and password, port (of a tunnel or a restarted server), query and trailing slash only say how it
    is reached.
    """
    parts = urlsplit(url)
    return f"{(parts.hostname or '').rstrip('.')}/{parts.path.strip('/')}"


def _image_tokens(model: OpenAIBackend, size: Size) -> int | None:
    name = model.model.lower().rpartition("/")[2]
    known = max((start for start in _OPENAI if name.startswith(start)), key=len, default=None)
    if known is None:
        return None
    base, tile = _OPENAI[known]
    if model.image_detail == "low":
        return base
    scale = min(1.0, model.max_image_side / max(size), 2048 / max(size))
    scale *= min(1.0, 768 / (min(size) * scale))
    return base + tile * math.prod(math.ceil(side * scale / 512 - 1e-9) for side in size)


class _Looking:
    """In place of `Calls`: cached replies only."""

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
        """The cached reply; raises Rejected if there is none."""
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
    """A backend that answers from the cache only, and counts what it found there."""

    def __init__(self, config: OpenAIBackend) -> None:
        """Makes no connection and needs no key."""
        self._config = config
        self._looking = _Looking(config)
        self._calls: Any = self._looking
        self._scored = True
        self._held = HeldAnswers(config.model)

    @property
    def share(self) -> float:
        """Share (0 to 1) of the requests made so far whose reply is in the cache."""
        asked = self._looking.kept + self._looking.missing
        return self._looking.kept / asked if asked else 0.0
