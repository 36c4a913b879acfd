"""Check, before anything is started, that the models of the stages fit on the workers that will load them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from fgvr.config import Config, Mllm
from fgvr.config.base import Workers
from pipelines.stage import Stage, setting

log = logging.getLogger(__name__)


def check_engines(config: Config, stages: Iterable[Stage]) -> None:
    """Raise a UserError for a model that cannot run on its workers, and log how much memory each model will need."""
    from fgvr.mllm.backend import AskedBy
    from fgvr.mllm.backends import provider

    told: set[str] = set()
    for field, place in dict.fromkeys((stage.workers(config), stage.model(config)) for stage in stages):
        if field is None or place is None:
            continue
        workers: Workers = setting(config, field)
        model: Mllm = setting(config, place)
        said = provider(model).check(AskedBy(field, workers, place, config.cluster))
        if said is not None and said not in told:
            told.add(said)
            log.info("%s", said)
