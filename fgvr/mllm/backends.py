"""From the config to a backend that answers."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, assert_never

from fgvr.config.models import Mllm, OpenAIBackend, SimulatedBackend, VllmBackend
from fgvr.mllm.backend import MllmBackend, Provider
from fgvr.part_worker import Engine

ASKING = 1
"""Raised when the same model is asked otherwise about the same thing, or its tokens come to mean other numbers."""


def provider(config: Mllm) -> Provider:
    """The kind of model that the config names: the one place where kinds are told apart."""
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
        vision: whether images will be asked about.

    Raises:
        UserError: of many kinds, each naming the field that is wrong.
    """
    return provider(config).start(vision=vision)


def backend_engine(config: Mllm, *, vision: bool = True) -> Engine:
    """The backend as what a worker's process loads; what runs there is lent from stage to stage.

    Arguments as of `make_backend`. All fields of the config are its identity, those that only decide its speed, too.
    """
    facts = json.dumps([config.model_dump(mode="json"), vision], sort_keys=True)
    return Engine(facts, partial(make_backend, config, vision=vision), lent=config.runs_here)


def backend_identity(config: Mllm) -> dict[str, Any]:
    """What decides a backend's answers, for the fingerprints of stages; how fast it runs is left out.

    Raises ModelError for a model that cannot be found, so a slip shows before anything starts.
    """
    return {"kind": config.kind, "asking": ASKING, **provider(config).identity()}


def exactly(config: Mllm) -> Mllm:
    """The same backend for workers: a name on the hub with the commit that it means now. Raises ModelError."""
    return provider(config).pinned()
