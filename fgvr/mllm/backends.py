"""From the config to a backend that answers."""

from __future__ import annotations

import json
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from fgvr.config.models import Mllm, OpenAIBackend
from fgvr.config.simulated import SimulatedBackend
from fgvr.mllm.backend import MllmBackend
from fgvr.mllm.engine_args import deciding_arguments
from fgvr.mllm.model_files import identity, pinned
from fgvr.part_worker import Engine

ASKING = 1
"""Raised when the same model is asked otherwise about the same thing, or its tokens come to mean other numbers."""


def make_backend(config: Mllm, *, vision: bool = True) -> MllmBackend:
    """Start the engine, or connect to the server, that the config names.

    Args:
        config: the backend's part of the config.
        vision: whether images will be asked about.

    Raises:
        UserError: of many kinds, each naming the field that is wrong.
    """
    if isinstance(config, OpenAIBackend):
        from fgvr.mllm.openai_backend import OpenAIClient

        return OpenAIClient(config)
    if isinstance(config, SimulatedBackend):
        from fgvr.mllm.simulated_backend import SimulatedEngine

        return SimulatedEngine(config)
    from fgvr.mllm.vllm_backend import VllmEngine

    return VllmEngine(config, vision=vision)


def backend_engine(config: Mllm, *, vision: bool = True) -> Engine:
    """The backend as what a worker's process loads; what runs there is lent from stage to stage.

    Arguments as of `make_backend`. All fields of the config are its identity, those that only decide its speed, too.
    """
    facts = json.dumps([config.model_dump(mode="json"), vision], sort_keys=True)
    return Engine(facts, partial(make_backend, config, vision=vision), lent=not isinstance(config, OpenAIBackend))


def backend_identity(config: Mllm) -> dict[str, Any]:
    """What decides a backend's answers, for the fingerprints of stages; how fast it runs is left out.

    Raises ModelError for a model that cannot be found, so a slip shows before anything starts.
    """
    if isinstance(config, OpenAIBackend):
        return {
            "kind": config.kind,
            "asking": ASKING,
            "server": server_identity(config.base_url),
            "model": config.model,
            "detail": config.image_detail,
            "max_image_side": config.max_image_side,
            "top_logprobs": config.top_logprobs,
            "answer_logprobs": config.answer_logprobs,
        }
    if isinstance(config, SimulatedBackend):
        times = {"request_seconds", "tokens_per_second", "concurrency", "start_seconds"}
        return {"asking": ASKING, **config.model_dump(mode="json", exclude=times)}
    return {
        "kind": config.kind,
        "asking": ASKING,
        "model": identity(config),
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "seed": config.seed,
        "engine_args": deciding_arguments(config.engine_args),
    }


def exactly(config: Mllm) -> Mllm:
    """The same backend for workers: a name on the hub with the commit that it means now. Raises ModelError."""
    return config if isinstance(config, OpenAIBackend | SimulatedBackend) else pinned(config)


def server_identity(url: str) -> str:
    """What of a server's address says which server it is: host and path.

    The scheme, a user and password, the port (of a tunnel, or of a server that was started again), a query and a slash
    at the end are how it is reached.
    """
    parts = urlsplit(url)
    return f"{(parts.hostname or '').rstrip('.')}/{parts.path.strip('/')}"
