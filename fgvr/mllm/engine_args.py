"""Further arguments of vLLM's engine (`mllm.engine_args`), checked by their names before anything is started."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from fgvr.mllm.model_files import ModelError

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


@cache
def known_arguments() -> frozenset[str]:
    """Fields of vLLM's `EngineArgs`, read from its source: importing vLLM takes many seconds.

    Raises ModelError where vLLM is not installed.
    """
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        raise ModelError("mllm.kind = vllm: vLLM is not installed here; `make setup` or `make setup-gpu` does it")
    source = Path(next(iter(found.submodule_search_locations)), "engine", "arg_utils.py").read_text()
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs")
    fields = (node.target for each in classes for node in each.body if isinstance(node, ast.AnnAssign))
    return frozenset(field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_"))


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
