"""How much memory an engine needs, from a checkpoint's headers and config alone: known before anything is loaded."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgvr.config.models import VllmBackend
from fgvr.mllm.memory import GIB, NotEnoughMemory
from fgvr.mllm.model_files import ModelFiles
from fgvr.mllm.weight_files import weights_in

STEP_TOKENS = 8192
"""vLLM's default of `max_num_batched_tokens` on large cards; smaller ones take 2,048."""
LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
AUTO = 2
"""Bytes of a weight where `dtype` is auto: vLLM takes checkpoints in fp32 as bf16, or fp16 where a card has no bf16."""
_STORED = {"I64": 8, "I32": 4, "I16": 2}  # all others that are no floats: one byte
_ASKED = {"float32": 4, "float16": 2, "bfloat16": 2}
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class EngineSize:
    """Bytes, over all GPUs of an engine.

    Attributes:
        weights: of the model.
        token: of the key-value cache, a token; 0 where the config does not tell.
        longest: tokens of the longest prompt with its answer.
        activations: of a step: an estimate, see `size_of`.
    """

    weights: int
    token: int
    longest: int
    activations: int

    @property
    def prompt(self) -> int:
        """Cache that one prompt of the longest kind needs: with less, vLLM does not start."""
        return self.token * self.longest

    @property
    def least(self) -> int:
        """Without this much the engine cannot answer anything."""
        return self.weights + self.prompt + self.activations

    def text(self, share: int) -> str:
        """The sizes in words, and how many prompts of the longest kind fit at once into `share` bytes."""
        room = max(0, share - self.weights - self.activations)
        prompts = f", room for {room // self.prompt} such prompts at once" if self.prompt else ""
        return (
            f"weights {self.weights / GIB:.2f} GiB, key-value cache {self.prompt / GIB:.2f} GiB for a prompt of"
            f" {self.longest:,} tokens, activations about {self.activations / GIB:.2f} GiB: {self.least / GIB:.2f} of"
            f" {share / GIB:.1f} GiB{prompts}"
        )


def size_of(config: VllmBackend, files: ModelFiles) -> EngineSize:
    """The sizes of an engine.

    The cache holds a key and a value of every head in every layer (of latent attention one compressed vector); layers
    with a sliding window or a state need less, so it is an upper bound. Activations are estimated: of each token of a
    step four vectors of the hidden size and two of the feed-forward's, of each sequence fp32 logits.
    """
    text = files.config.get("text_config") or files.config.get("llm_config") or files.config
    width = _ASKED.get(config.dtype, AUTO)
    cache_width = 1 if str(config.engine_args.get("kv_cache_dtype", "auto")).startswith("fp8") else width
    longest = config.max_model_len or int(text.get("max_position_embeddings") or 0)
    step = int(config.engine_args.get("max_num_batched_tokens") or STEP_TOKENS)
    hidden, inner = int(text.get("hidden_size") or 0), int(text.get("intermediate_size") or 0)
    logits = min(config.max_num_seqs, step) * int(text.get("vocab_size") or 0) * 4
    return EngineSize(
        weights=weight_bytes(files, config.dtype),
        token=_numbers_a_token(text) * cache_width,
        longest=longest,
        activations=step * (4 * hidden + 2 * inner) * width + logits,
    )


def _numbers_a_token(text: dict[str, Any]) -> int:
    layers, heads = int(text.get("num_hidden_layers") or 0), int(text.get("num_attention_heads") or 0)
    if text.get("kv_lora_rank"):  # latent attention (DeepSeek)
        return layers * (int(text["kv_lora_rank"]) + int(text.get("qk_rope_head_dim") or 0))
    if not heads:
        return 0
    head = int(text.get("head_dim") or int(text.get("hidden_size") or 0) // heads)
    return 2 * layers * int(text.get("num_key_value_heads") or heads) * head


def weight_bytes(files: ModelFiles, dtype: str) -> int:
    """Memory of the weights in `dtype` ("auto": 16 bits, as vLLM takes it), from the headers of the safetensors files.

    Other formats, and headers that cannot be read, are estimated from the files' sizes.
    """
    total = 0
    try:
        for file in weights_in(files.folder):
            if file.suffix != ".safetensors":
                break
            for stored, count in _tensors(file):
                total += count * (_ASKED.get(dtype, AUTO) if stored in _FLOATS else _STORED.get(stored, 1))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error):
        total = 0  # strangers write these files: whatever is wrong with one, its size is known
    return total or files.weight_bytes(dtype)


def _tensors(file: Path) -> list[tuple[str, int]]:
    """Type and length of each tensor; a safetensors file begins with eight bytes that say how long their JSON is."""
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        if size > LONGEST_HEADER:
            raise ValueError(f"{file} has no safetensors header")
        facts = json.loads(stream.read(size))
    return [
        (str(tensor["dtype"]), math.prod(int(length) for length in tensor["shape"]))
        for name, tensor in facts.items()
        if name != "__metadata__"
    ]


def check_on_gpus(size: EngineSize, card: int, gpus: int, utilization: float, place: str = "mllm") -> int:
    """Bytes that the engine at `place` of the config may take of `gpus` cards of `card` bytes.

    Raises NotEnoughMemory where they are too few.
    """
    share = int(card * utilization) * gpus
    if size.least > share:
        raise NotEnoughMemory(
            f"{place}: {size.text(share)} on {gpus} GPU(s) of {card / GIB:.0f} GiB at {place}.gpu_memory_utilization ="
            f" {utilization:g}: it cannot fit. Lower {place}.max_model_len, raise {place}.tensor_parallel_size with the"
            f" workers' num_gpus, set {place}.engine_args.kv_cache_dtype to fp8, or take a smaller or quantized"
            f" {place}.model"
        )
    return share


def check_cpu_cache(size: EngineSize, cache: int, place: str = "mllm") -> None:
    """Raise NotEnoughMemory where not one prompt of the longest kind fits into the cache (bytes); vLLM would refuse."""
    if size.prompt > cache:
        raise NotEnoughMemory(
            f"{place}.cpu_kv_cache_gb = {cache / GIB:g}: a prompt of {size.longest:,} tokens needs"
            f" {size.prompt / GIB:.2f} GiB. Raise it, or lower {place}.max_model_len"
        )
