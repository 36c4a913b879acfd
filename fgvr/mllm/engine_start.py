"""Starts vLLM's synchronous engine in this process, after everything that can be checked beforehand was checked."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

from fgvr.config.models import VllmBackend
from fgvr.mllm import environment, vllm_private
from fgvr.mllm.cards import cards_here, own_card_is_known
from fgvr.mllm.engine_args import check_engine_args, gpus_of_engine
from fgvr.mllm.engine_size import check_cpu_cache, check_on_gpus, size_of
from fgvr.mllm.memory import GIB, NotEnoughMemory, available_bytes, check_engine_fits
from fgvr.mllm.model_files import PICKLED, ModelError, ModelFiles, find

log = logging.getLogger(__name__)

CPU_BLOCK_SIZE = 32
"""Tokens in a block of the key-value cache: CPU attention wants a multiple of 32, prefixes share whole blocks."""


def start_engine(config: VllmBackend, *, vision: bool) -> tuple[Any, ModelFiles]:
    """Load the model; returns `vllm.LLM` and the model's files.

    Args:
        config: the engine's part of the config.
        vision: whether images will be asked about.

    Raises:
        ModelError: no such model, not a vision model, or vLLM cannot load it.
        NotEnoughMemory: weights and cache do not fit.
    """
    files = find(config)
    on_cpu = environment.runs_on_cpu()
    if not on_cpu:
        environment.count_cards_as_the_driver()
    check_engine_args(config.engine_args, on_cpu=on_cpu)
    _check_size(config, files, on_cpu=on_cpu)
    arguments = engine_arguments(config, files, on_cpu=on_cpu, vision=vision)
    environment.prepare(separate_process=config.separate_process, eager=arguments["enforce_eager"])
    with _no_garbage_collection():
        from vllm import LLM

        gc.freeze()  # what was imported stays: vLLM's own collections at start need not look at it
        if vision:
            files.check_vision(vllm_private.multimodal_architectures())
        log.info("loading %s", files.folder)
        try:
            engine = LLM(**arguments)
        except UnpicklingError as error:
            raise ModelError(f"mllm.model: {files.folder}: {PICKLED}") from error
        except (ValueError, TypeError, RuntimeError, OSError, NotImplementedError) as error:
            # vLLM's own errors are of all these kinds, many lines long, and name none of our fields.
            raise ModelError(f"mllm.model: vLLM cannot run {files.folder} ({files.architecture}): {error}") from error
    if vision and not engine.model_config.is_multimodal_model:
        raise ModelError(f"mllm.model: {files.folder} ({files.architecture}) reads no images")
    return engine, files


def _check_size(config: VllmBackend, files: ModelFiles, *, on_cpu: bool) -> None:
    """Say how much memory the engine needs here; raises NotEnoughMemory."""
    size = size_of(config, files)
    if on_cpu:
        cache, free = int(config.cpu_kv_cache_gb * GIB), available_bytes()
        check_cpu_cache(size, cache)
        check_engine_fits(size.weights, cache, free)
        log.info("mllm: %s", size.text(size.weights + size.activations + cache))
        return
    gpus = gpus_of_engine(config.tensor_parallel_size, config.engine_args)
    cards = cards_here()
    mine = cards[:gpus]  # vLLM takes the first ones
    if not mine:
        return
    try:
        share = check_on_gpus(size, min(mine), gpus, config.gpu_memory_utilization)
    except NotEnoughMemory as error:
        if own_card_is_known(cards):
            raise
        log.warning(
            "%s. It is tried all the same: this machine's cards differ, and which one it gets is not known", error
        )
    else:
        log.info("mllm: %s", size.text(share))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Importing makes millions of objects that live on: looking for garbage among them took a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def engine_arguments(config: VllmBackend, files: ModelFiles, *, on_cpu: bool, vision: bool) -> dict[str, Any]:
    """Arguments of `vllm.LLM`; `engine_args` of the config are added and overrule what has no field of its own."""
    arguments: dict[str, Any] = {
        "model": str(files.folder),
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "tensor_parallel_size": config.tensor_parallel_size,
        "max_num_seqs": config.max_num_seqs,
        "seed": config.seed,
        "enforce_eager": on_cpu if config.enforce_eager is None else config.enforce_eager,
        "enable_prefix_caching": True,
    }
    if vision:
        arguments |= {
            "limit_mm_per_prompt": {"image": 1, "video": 0, "audio": 0},
            "mm_processor_cache_gb": config.image_cache_gb,
        }
    if on_cpu:
        arguments |= {
            "block_size": CPU_BLOCK_SIZE,
            "kv_cache_memory_bytes": int(config.cpu_kv_cache_gb * GIB),
            # Its measuring run with the largest possible image serves the sizing of GPU memory only.
            "skip_mm_profiling": True,
        }
    else:
        arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
    return arguments | config.engine_args
