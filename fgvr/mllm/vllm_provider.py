"""A model that vLLM will run in the workers: found, named and checked against them before anything is started."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

from fgvr import storage
from fgvr.config import ConfigError
from fgvr.config.models import DEMO_MODEL, VllmBackend
from fgvr.mllm import environment, model_files
from fgvr.mllm.backend import MllmBackend
from fgvr.mllm.cards import card_bytes, cards_here, smallest_here
from fgvr.mllm.checkpoint_tokens import image_tokens
from fgvr.mllm.engine_args import check_engine_args, deciding_arguments, gpus_of_engine
from fgvr.mllm.engine_size import EngineSize, check_cpu_cache, check_on_gpus, size_of, weight_bytes
from fgvr.mllm.memory import GIB, NotEnoughMemory, available_bytes, engine_bytes
from fgvr.mllm.provider import ASSUMED_BILLIONS, AskedBy, Provider, Size

log = logging.getLogger(__name__)


class VllmProvider(Provider):
    """See Provider."""

    def __init__(self, config: VllmBackend) -> None:
        self._config = config

    def start(self, *, vision: bool) -> MllmBackend:
        """See Provider."""
        from fgvr.mllm.vllm_backend import VllmEngine

        return VllmEngine(self._config, vision=vision)

    def identity(self) -> dict[str, Any]:
        """See Provider."""
        config = self._config
        return {
            "model": model_files.identity(config),
            "dtype": config.dtype,
            "max_model_len": config.max_model_len,
            "seed": config.seed,
            "engine_args": deciding_arguments(config.engine_args),
        }

    def pinned(self) -> VllmBackend:
        """See Provider."""
        return model_files.pinned(self._config)

    def check(self, asked: AskedBy) -> str | None:
        """See Provider.

        Raises:
            ConfigError: GPUs reserved and GPUs used differ, or engines that share a GPU take more than there is.
            ModelError: an engine argument that vLLM does not know, or that stands elsewhere.
            NotEnoughMemory: it cannot fit on the card or the machine.
        """
        config = self._config
        _check_gpus(config, asked)
        check_engine_args(config.engine_args, on_cpu=asked.workers.num_gpus == 0, place=asked.place)
        if not self._is_here():
            return None  # the worker that fetches it says the same
        return _check_memory(config, asked, size_of(config, model_files.find(config)))

    def image_tokens(self, size: Size) -> int | None:
        """See Provider."""
        return image_tokens(self._config, size)

    def billions(self) -> float:
        """See Provider: as the model's name says (8B, 30B-A3B), else by weights that are here."""
        name = self._config.model.rpartition("/")[2]
        said = re.findall(r"(?<![A-Za-z0-9.])(A?)(\d+(?:\.\d+)?)B(?![A-Za-z0-9])", name)
        if said:
            return float(next((number for active, number in said if active), said[0][1]))
        if self._is_here():
            return max(weight_bytes(model_files.find(self._config), "bfloat16") / 2e9, 1e-3)
        return ASSUMED_BILLIONS

    def kept_replies(self) -> None:
        """See Provider."""
        return

    def _is_here(self) -> bool:
        model = self._config.model
        return model == DEMO_MODEL or (storage.is_local(model) and storage.exists(model))


def _check_gpus(mllm: VllmBackend, asked: AskedBy) -> None:
    field, place = asked.field, asked.place
    used, reserved = gpus_of_engine(mllm.tensor_parallel_size, mllm.engine_args), asked.workers.num_gpus
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


def _check_memory(mllm: VllmBackend, asked: AskedBy, size: EngineSize) -> str:
    """What an engine needs, in words; raises NotEnoughMemory."""
    field, workers, place = asked.field, asked.workers, asked.place
    here = asked.cluster.address is None and not os.environ.get("RAY_ADDRESS")
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
        _check_machine(asked, size, cache)
    return f"{field}: {size.text(size.weights + size.activations + cache)}"


def _check_machine(asked: AskedBy, size: EngineSize, cache: int) -> None:
    """As many engines as this machine's cores let start at once must fit into its memory."""
    field, workers, place = asked.field, asked.workers, asked.place
    cores = asked.cluster.num_cpus or os.cpu_count() or 1
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
