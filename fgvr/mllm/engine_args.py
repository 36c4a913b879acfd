"""Further arguments of vLLM's engine (`mllm.engine_args`), checked by their names before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from fgvr.digests import file_digest, folder_digest
from fgvr.mllm.model_files import ModelError
from fgvr.mllm.vllm_private import known_arguments

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
    # How much at once, in which order, and in how much memory.
    "max_num_batched_tokens max_num_scheduled_tokens max_num_active_seqs max_num_queued_reqs max_num_queued_tokens "
    "long_prefill_token_threshold long_prefill_token_threshold_adaptive enable_chunked_prefill "
    "disable_chunked_mm_input scheduling_policy async_scheduling prefill_schedule_interval stream_interval "
    "scheduler_reserve_full_isl block_size num_gpu_blocks_override kv_cache_memory_bytes "
    "disable_hybrid_kv_cache_manager enable_prefix_caching prefix_caching_hash_algo prefix_cache_retention_interval "
    "cpu_offload_gb cpu_offload_params kv_offloading_size kv_offloading_backend offload_backend offload_params "
    "offload_group_size offload_num_in_group offload_prefetch_step skip_mm_profiling mm_processor_cache_type "
    "mm_shm_cache_max_object_size_mb mm_ipc_gpu_memory_gb mm_tensor_ipc mm_hasher_algorithm renderer_num_workers "
    "enable_shm_tensor_arena enable_cumem_allocator "
    # On which devices and by which processes.
    "pipeline_parallel_size distributed_executor_backend distributed_timeout_seconds cpu_distributed_timeout_seconds "
    "max_parallel_loading_workers disable_custom_all_reduce device_ids master_addr master_port numa_bind "
    "numa_bind_cpus numa_bind_nodes mm_encoder_tp_mode "
    # How weights come into memory; which they are decides.
    "download_dir safetensors_load_strategy safetensors_prefetch_block_size safetensors_prefetch_num_threads "
    "use_tqdm_on_load pt_load_map_location hf_token "
    # What is compiled, logged and measured.
    "cudagraph_capture_sizes max_cudagraph_capture_size cudagraph_metrics optimization_level performance_mode "
    "enable_flashinfer_autotune disable_log_stats aggregate_engine_logging enable_logging_iteration_details log_level "
    "logging_config log_config_file kv_cache_metrics kv_cache_metrics_sample enable_mfu_metrics "
    "enable_mm_processor_stats collect_detailed_traces otlp_traces_endpoint show_hidden_metrics_for_version "
    "custom_histogram_buckets enable_layerwise_nvtx_tracing ray_workers_use_nsight profiler_config "
    "jit_monitor_mode jit_monitor_verbose shutdown_timeout enable_sleep_mode served_model_name"
)
SPEED_ONLY: Final = frozenset(_SPEED_ONLY.split())
"""Arguments that change how quickly and in how much memory an engine answers, not what: no part of a fingerprint. All
others are, those of later versions of vLLM too."""


def deciding_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `mllm.engine_args` that may change an answer; a file or folder on this machine by its content."""
    return {name: _content(value) for name, value in given.items() if name not in SPEED_ONLY}


def _content(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(("/", "./", "../", "~")):
        return value
    place = Path(value).expanduser()
    return {"files": folder_digest(place) if place.is_dir() else file_digest(place)} if place.exists() else value


def check_engine_args(given: Mapping[str, Any], *, on_cpu: bool, place: str = "mllm") -> None:
    """Raise ModelError for arguments that vLLM does not know, or that are decided elsewhere.

    Args:
        given: `mllm.engine_args`.
        on_cpu: the engine runs without a GPU, where the cache's size is a field of its own.
        place: where the config has the model, if it is not `mllm`.
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


def gpus_of_engine(tensor_parallel_size: int, engine_args: Mapping[str, Any]) -> int:
    """GPUs that one engine takes."""
    return tensor_parallel_size * int(engine_args.get("pipeline_parallel_size", 1))
