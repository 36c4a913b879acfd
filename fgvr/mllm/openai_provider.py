"""A model behind an OpenAI-compatible server, before it is asked."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlsplit

from fgvr.config.models import OpenAIBackend
from fgvr.mllm.backend import MllmBackend
from fgvr.mllm.provider import AskedBy, KeptShare, Provider, Size

_OPENAI = {"gpt-4o-mini": (2833, 5667), "gpt-4o": (85, 170), "gpt-4.1": (85, 170), "gpt-4.5": (75, 150)}
"""(of an image, of each tile of 512 × 512), by the beginning of the model's name, as its maker's guide states them; the
longest that fits counts."""


class OpenAIProvider(Provider):
    """See Provider."""

    def __init__(self, config: OpenAIBackend) -> None:
        self._config = config

    def start(self, *, vision: bool) -> MllmBackend:
        """See Provider; the server knows by itself whether it sees."""
        from fgvr.mllm.openai_backend import OpenAIClient

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
        """See Provider; only the server knows what its names mean."""
        return self._config

    def check(self, asked: AskedBy) -> None:
        """See Provider; nothing of it runs on the workers."""

    def image_tokens(self, size: Size) -> int | None:
        """See Provider: by the guide of the models' maker."""
        return _image_tokens(self._config, size)

    def billions(self) -> None:
        """See Provider."""
        return

    def kept_replies(self) -> KeptShare | None:
        """See Provider."""
        from fgvr import storage
        from fgvr.mllm.kept_replies import KeptReplies

        folder = self._config.reply_cache
        return KeptReplies(self._config) if folder is not None and storage.exists(folder) else None


def server_identity(url: str) -> str:
    """What of a server's address says which server it is: host and path.

    The scheme, a user and password, the port (of a tunnel, or of a server that was started again), a query and a slash
    at the end are how it is reached.
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
