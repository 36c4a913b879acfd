"""From the config to a running backend."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, assert_never

from fgvr.config.models import Mllm, OpenAIBackend, SimulatedBackend, VllmBackend
from fgvr.mllm.backend import MllmBackend, Provider
from fgvr.part_worker import Engine

ASKING = 1
"""Increase it when the same model is asked differently about the same thing, or its tokens are read differently."""


def provider(config: Mllm) -> Provider:
    """The kind of model that the config names: the only place that distinguishes kinds."""
    match config:
        case VllmBackend():
            from fgvr.mllm.vllm_engine.provider import VllmProvider

            return VllmProvider(config)
        case OpenAIBackend():
            from fgvr.mllm.openai_server.provider import OpenAIProvider

            return OpenAIProvider(config)
        case SimulatedBackend():
            from fgvr.mllm.simulated import SimulatedProvider

            return SimulatedProvider(config)
    assert_never(config)


def make_backend(config: Mllm, *, vision: bool = True) -> MllmBackend:
    """Start the engine, or connect to the server, that the config names.

    Args:
        config: the backend's part of the config.
        vision: whether requests will contain images.

    Raises:
        UserError: of various kinds, each naming the wrong field.
    """
    return provider(config).start(vision=vision)


def backend_engine(config: Mllm, *, vision: bool = True) -> Engine:
    """The backend in the form that a worker process loads; engines in the process are lent from stage to stage.

    Arguments as for `make_backend`. All config fields are part of its identity, including those that only affect speed.
    """
    facts = json.dumps([config.model_dump(mode="json"), vision], sort_keys=True)
    return Engine(facts, partial(make_backend, config, vision=vision), lent=config.runs_here)


def backend_identity(config: Mllm) -> dict[str, Any]:
    """What determines a backend's answers, for the fingerprints of stages; what only affects speed is left out.

    Raises ModelError if the model cannot be found, so that mistakes show before anything starts.
    """
    return {"kind": config.kind, "asking": ASKING, **provider(config).identity()}


def with_weights(config: Mllm) -> VllmBackend | None:
    """The backend whose model's weights are at hand, so that an adapter can be trained for it; None: they are not."""
    return config if isinstance(config, VllmBackend) else None


def exactly(config: Mllm) -> Mllm:
    """The same backend for workers: a hub name is pinned to its current commit. Raises ModelError."""
    return provider(config).pinned()
