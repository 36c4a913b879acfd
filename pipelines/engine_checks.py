"""Do the engines that a config asks for fit the workers that shall run them? Asked before anything is started."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fgvr import storage
from fgvr.config import Config, ConfigError
from fgvr.config.base import Workers
from fgvr.config.models import DEMO_MODEL, VllmBackend
from fgvr.mllm import environment
from fgvr.mllm.cards import card_bytes, cards_here, smallest_here
from fgvr.mllm.engine_args import check_engine_args, gpus_of_engine
from fgvr.mllm.engine_size import EngineSize, check_cpu_cache, check_on_gpus, size_of
from fgvr.mllm.memory import GIB, NotEnoughMemory, available_bytes, engine_bytes
from fgvr.mllm.model_files import find
from pipelines.stage import Stage, setting

log = logging.getLogger(__name__)


def check_engines(config: Config, stages: Iterable[Stage]) -> None:
    """Raise a UserError that names the field, and say how much memory each engine of these stages will need.

    Raises:
        ConfigError: GPUs reserved and GPUs used differ, or engines that share a GPU take more than there is.
        ModelError: an engine argument that vLLM does not know, or that stands elsewhere.
        NotEnoughMemory: it cannot fit on the card or the machine.
    """
    told: set[str] = set()
    for engine in _engines(config, stages):
        mllm = engine.backend
        _check_gpus(engine)
        check_engine_args(mllm.engine_args, on_cpu=engine.workers.num_gpus == 0, place=engine.place)
        if not storage.is_local(mllm.model) or not (mllm.model == DEMO_MODEL or storage.exists(mllm.model)):
            continue  # not here yet: the worker that fetches it says the same
        said = _check_memory(config, engine, size_of(mllm, find(mllm)))
        if said not in told:
            told.add(said)
            log.info("%s", said)


@dataclass(frozen=True)
class _Engine:
    """A model that vLLM will run: where the config has its workers and itself."""

    field: str
    workers: Workers
    place: str
    backend: VllmBackend


def _engines(config: Config, stages: Iterable[Stage]) -> Iterator[_Engine]:
    """Each pair of workers and model once, in the order of a run."""
    places = dict.fromkeys((stage.workers(config), stage.model(config)) for stage in stages)
    for field, place in places:
        if field is None or place is None:
            continue
        workers, model = setting(config, field), setting(config, place)
        if isinstance(model, VllmBackend):
            yield _Engine(field, workers, place, model)


def _check_gpus(engine: _Engine) -> None:
    field, place, mllm = engine.field, engine.place, engine.backend
    used, reserved = gpus_of_engine(mllm.tensor_parallel_size, mllm.engine_args), engine.workers.num_gpus
    if used > 1 and reserved != used:
        raise ConfigError(
            f"{field}.num_gpus = {reserved:g}: an engine with {place}.tensor_parallel_size ="
            f" {mllm.tensor_parallel_size} takes {used} GPUs, all of one machine; set it to {used}"
        )
    if reserved > used:
        raise ConfigError(
            f"{field}.num_gpus = {reserved:g}: an engine takes {used} GPU(s) and would leave the others idle; set it to"
            f" {used}, or {place}.tensor_parallel_size to {reserved:g}"
        )
    if 0 < reserved < 1:
        engines = int(1 / reserved + 1e-9)
        if engines * mllm.gpu_memory_utilization > 1 + 1e-9:
            raise ConfigError(
                f"{field}.num_gpus = {reserved:g} lets {engines} engines share a GPU, and each would take"
                f" {place}.gpu_memory_utilization = {mllm.gpu_memory_utilization:g} of its memory; set that to"
                f" {0.9 / engines:.2f} or less"
            )


def _check_memory(config: Config, engine: _Engine, size: EngineSize) -> str:
    """What an engine needs, in words; raises NotEnoughMemory."""
    field, workers, place, mllm = engine.field, engine.workers, engine.place, engine.backend
    here = config.cluster.address is None and not os.environ.get("RAY_ADDRESS")
    if workers.num_gpus:
        kind = workers.accelerator_type
        card = smallest_here() if here else None
        largest = max(cards_here(), default=0) if here else 0
        card = card_bytes(kind) if card is None and kind is not None else card
        if card is None:
            return f"{field}: an engine needs {size.least / GIB:.2f} GiB of GPU memory at least; its card is not known"
        gpus = gpus_of_engine(mllm.tensor_parallel_size, mllm.engine_args)
        try:
            share = check_on_gpus(size, card, gpus, mllm.gpu_memory_utilization, place)
        except NotEnoughMemory as error:
            if largest <= card:
                raise
            # Ray gives any of them: the worker knows its card, and looks again.
            share = check_on_gpus(size, largest, gpus, mllm.gpu_memory_utilization, place)
            log.warning(
                "%s (%s) This machine has cards of %.0f GiB, too: a worker that gets one of these can start",
                field,
                error,
                largest / GIB,
            )
        return f"{field}: {size.text(share)}"
    cache = int(mllm.cpu_kv_cache_gb * GIB)
    check_cpu_cache(size, cache, place)
    if here and environment.runs_on_cpu():
        _check_machine(config, engine, size, cache)
    return f"{field}: {size.text(size.weights + size.activations + cache)}"


def _check_machine(config: Config, engine: _Engine, size: EngineSize, cache: int) -> None:
    """As many engines as this machine's cores let start at once must fit into its memory."""
    field, workers, place = engine.field, engine.workers, engine.place
    cores = config.cluster.num_cpus or os.cpu_count() or 1
    engines = max(1, min(workers.max_workers, int(cores / workers.num_cpus + 1e-9)))
    each, free = engine_bytes(size.weights, cache), available_bytes()
    if free is not None and engines * each > free:
        fit = free // each
        remedy = f"lower {field}.max_workers to {fit}" if fit else f"take a smaller {place}.model"
        raise NotEnoughMemory(
            f"{field}: {engines} engine(s) of about {each / GIB:.1f} GiB each (weights {size.weights / GIB:.2f},"
            f" {place}.cpu_kv_cache_gb = {cache / GIB:g}) need more than the {free / GIB:.1f} GiB that are free here:"
            f" {remedy}, lower {place}.cpu_kv_cache_gb, or close other programs"
        )
