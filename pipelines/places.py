"""Check, before anything is started, the locations that a config names: stores that deny access, missing API keys."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

from fgvr import storage
from fgvr.config import Config, ConfigError
from fgvr.redact import masked
from fgvr.sources.shards import numbered
from fgvr.storage_errors import StorageRefused, told
from pipelines.stage import Stage, model_of

log = logging.getLogger(__name__)


def check_stores(config: Config) -> None:
    """Try to reach every object-store location in the config; raises StorageRefused, which names the field.

    Whether anything exists there is not checked here, but by the stage that needs it.
    """
    for field, uri in _remote(config.model_dump(mode="json")):
        try:
            with told(field, masked(uri)):
                storage.exists(numbered(uri)[0])
        except ImportError as error:  # for a store whose library is not a dependency: gs://, az:// …
            raise StorageRefused(f"{field} = {masked(uri)}: a package is missing: {error}") from error


def _remote(values: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, URI) of all values that name a place on an object store."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _remote(value, f"{field}.{name}" if field else str(name))
    elif isinstance(values, list):
        for value in values:
            yield from _remote(value, field)
    elif isinstance(values, str) and storage.is_object_store(values) and not values.lower().startswith("memory:"):
        yield field, values


def check_keys(config: Config, stages: Iterable[Stage]) -> None:
    """Check that the environment holds the API keys of the servers that these stages ask.

    Workers on this machine inherit this process's environment. Workers of another cluster have their own, which is
    unknown here: then a missing key is only a warning.

    Args:
        config: the config of the run.
        stages: the stages that have something left to ask.

    Raises:
        ConfigError: a key is missing in the environment.
    """
    for field, model in {stage.model(config): model_of(stage, config) for stage in stages}.items():
        key = None if model is None else model.key
        if key is None or os.environ.get(key.variable):
            continue
        words = f"{field}.api_key_env: the environment variable {key.variable} is not set"
        if config.cluster.address is None and not os.environ.get("RAY_ADDRESS"):
            raise ConfigError(f"{words}, and {key.server} needs a key")
        log.warning("%s here; the workers' environment must hold it, as %s needs a key", words, key.server)
