"""Do the models that a config asks fit the workers that shall ask them? Looked at before anything is started."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from fgvr.config import Config, Mllm
from fgvr.mllm.backend import AskedBy
from fgvr.mllm.backends import provider
from pipelines.teacher import asks_mllm

log = logging.getLogger(__name__)


def check_engines(config: Config) -> None:
    """Raise the UserError of a model that cannot work on its workers, and say how much memory each will need."""
    told: set[str] = set()
    for asked, model in _asked(config):
        said = provider(model).check(asked)
        if said is not None and said not in told:
            told.add(said)
            log.info("%s", said)


def _asked(config: Config) -> Iterator[tuple[AskedBy, Mllm]]:
    questions, llm = config.questions.workers, config.questions.llm
    yield AskedBy("label.workers", config.label.workers, "mllm", config.cluster), config.mllm
    yield AskedBy("aspects.workers", config.aspects.workers, "mllm", config.cluster), config.mllm
    if llm is not None:
        yield AskedBy("questions.workers", questions, "questions.llm", config.cluster), llm
    if asks_mllm(config.makd):
        yield AskedBy("class_scores.workers", config.class_scores.workers, "mllm", config.cluster), config.mllm
    if "finer" in config.evaluate.methods and (llm := config.baselines.finer.llm) is not None:
        yield AskedBy("questions.workers", questions, "baselines.finer.llm", config.cluster), llm
