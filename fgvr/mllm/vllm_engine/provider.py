"""A model that vLLM will run in the workers: found, and checked against them before anything is started."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from fgvr import hub, storage
from fgvr.config import ConfigError
from fgvr.config.model_names import DEMO_MODEL
from fgvr.config.models import VllmBackend
from fgvr.digests import folder_digest
from fgvr.mllm.adapter_folder import check_adapter
from fgvr.mllm.backend import ASSUMED_BILLIONS, AskedBy, MllmBackend, Provider, Size
from fgvr.mllm.vllm_engine import model_files
from fgvr.mllm.vllm_engine.memory import (
    GIB,
    EngineSize,
    NotEnoughMemory,
    available_bytes,
    card_bytes,
    cards_here,
    check_cpu_cache,
    check_on_gpus,
    engine_bytes,
    size_of,
    smallest_here,
    weight_bytes,
)
from fgvr.mllm.vllm_engine.named_files import with_commits
from fgvr.mllm.vllm_engine.start import check_engine_args, deciding_arguments, gpus_of_engine, runs_on_cpu

log = logging.getLogger(__name__)

_FILES = ("config.json", "processor_config.json", "preprocessor_config.json")


class VllmProvider(Provider):
    """See Provider."""

    def __init__(self, config: VllmBackend) -> None:
        self._config = config

    def start(self, *, vision: bool) -> MllmBackend:
        """See Provider."""
        from fgvr.mllm.vllm_engine.engine import VllmEngine

        return VllmEngine(self._config, vision=vision)

    def identity(self) -> dict[str, Any]:
        """See Provider."""
        config = self._config
        # A newer field: it counts only where it is used, so that tables of earlier versions are still found.
        adapter = {} if config.adapter is None else {"adapter": folder_digest(config.adapter)}
        return adapter | {
            "model": model_files.identity(config),
            "dtype": config.dtype,
            "max_model_len": config.max_model_len,
            "seed": config.seed,
            "engine_args": deciding_arguments(config.engine_args),
        }

    def pinned(self) -> VllmBackend:
        """See Provider."""
        pinned = model_files.pinned(self._config)
        return pinned.model_copy(update={"engine_args": with_commits(pinned.engine_args)})

    def check(self, asked: AskedBy) -> str | None:
        """See Provider.

        Raises:
            ConfigError: reserved and used GPUs differ, or engines that share a GPU take more than there is.
            AdapterError: the adapter cannot be used with the model.
            ModelError: an engine argument that vLLM does not know, or that has a field of its own.
            NotEnoughMemory: it cannot fit on the GPU or the machine.
        """
        config = self._config
        _check_gpus(config, asked)
        check_engine_args(config.engine_args, on_cpu=asked.workers.num_gpus == 0, place=asked.place)
        if config.adapter is not None:
            base = model_files.find(config).folder if self._is_here() else None
            check_adapter(config.adapter, base, field=f"{asked.place}.adapter", anyway=config.adapter_anyway)
        if not self._is_here():
            return None  # the worker that fetches it checks again
        return _check_memory(config, asked, size_of(config, model_files.find(config)))

    def image_tokens(self, size: Size) -> int | None:
        """See Provider."""
        config = self._config
        return _image_tokens(_with_kwargs(_facts(config), config.engine_args.get("mm_processor_kwargs")), size)

    def billions(self) -> float:
        """See Provider: from the model's name (8B, 30B-A3B), else from weights on this machine."""
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
            # Ray may give a worker any of them: the worker checks again with its own GPU.
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
    if here and runs_on_cpu():
        _check_machine(asked, size, cache)
    return f"{field}: {size.text(size.weights + size.activations + cache)}"


def _check_machine(asked: AskedBy, size: EngineSize, cache: int) -> None:
    """The engines that this machine's cores let start together must fit into its memory."""
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


def _image_tokens(facts: Mapping[str, Any], size: Size) -> int | None:
    """From the config of the model and its processor: known families, and configs that state a fixed number."""
    kind = str(facts.get("model_type", ""))
    processor = facts.get("image_processor") or facts
    if kind.startswith("internvl") and "image_seq_length" in facts:
        most = int(processor.get("max_patches") or 12)
        side = _side(processor.get("size")) or 448
        tiles = 1 if most <= 1 else _tiles(size, side, most)
        return int(facts["image_seq_length"]) * (tiles + (tiles > 1))  # plus a thumbnail of the whole image
    if kind.startswith("qwen") and "vl" in kind:
        vision = facts.get("vision_config") or {}
        patch = int(processor.get("patch_size") or vision.get("patch_size") or 14)
        cell = patch * int(processor.get("merge_size") or vision.get("spatial_merge_size") or 2)
        allowed = processor.get("size") or {}
        least = int(processor.get("min_pixels") or allowed.get("shortest_edge") or 56 * 56)
        most_pixels = int(processor.get("max_pixels") or allowed.get("longest_edge") or 28 * 28 * 1280)
        pixels = min(max(math.prod(size), least), most_pixels)
        scale = math.sqrt(pixels / math.prod(size))
        return math.prod(max(1, round(side * scale / cell)) for side in size)
    stated = facts.get("mm_tokens_per_image") or facts.get("image_seq_length") or facts.get("image_seq_len")
    return None if stated is None else int(stated)


def _with_kwargs(facts: dict[str, Any], given: Any) -> dict[str, Any]:
    """The facts with `mllm.engine_args.mm_processor_kwargs` applied.

    Qwen-VL's bounds have two names each, with vLLM's precedence: the edges of `size` override those of the files, and
    `min_pixels` and `max_pixels` override both.
    """
    if not isinstance(given, Mapping):
        return facts
    for_images = given.get("images_kwargs")
    changed = {**given, **(for_images if isinstance(for_images, Mapping) else {})}
    edges = changed.get("size")
    for edge, name in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
        if isinstance(edges, Mapping) and edge in edges:
            changed.setdefault(name, edges[edge])
    if changed.get("crop_to_patches") is False:  # InternVL's: one tile
        changed["max_patches"] = 1
    return {**facts, "image_processor": {**(facts.get("image_processor") or facts), **changed}}


def _tiles(size: Size, side: int, most: int) -> int:
    """Tiles of `side` into which InternVL's processor splits an image: the grid closest to its aspect ratio.

    Among equally close grids, a larger one only if the image has more than half of its pixels.
    """
    width, height = size
    grids = sorted(
        ((columns, rows) for columns, rows in product(range(1, most + 1), repeat=2) if columns * rows <= most),
        key=lambda grid: grid[0] * grid[1],
    )
    best, nearest = (1, 1), math.inf
    for columns, rows in grids:
        off = abs(width / height - columns / rows)
        larger = off == nearest and width * height > 0.5 * side * side * columns * rows
        if off < nearest or larger:
            best, nearest = (columns, rows), off
    return best[0] * best[1]


def _side(size: Any) -> int | None:
    found = size.get("height") if isinstance(size, Mapping) else size
    return int(found) if isinstance(found, int | float) else None


def _facts(model: VllmBackend) -> dict[str, Any]:
    """The JSON files of a model merged, later ones taking precedence; empty if none can be had."""
    merged: dict[str, Any] = {}
    for name in _FILES:
        text = _file(model, name)
        try:
            found = json.loads(text) if text else {}
        except ValueError:
            found = {}
        if isinstance(found, dict):
            merged |= {key: value for key, value in found.items() if key not in merged or key == "image_processor"}
            if name == "preprocessor_config.json" and found and "image_processor" not in merged:
                merged["image_processor"] = found
    return merged


def _file(model: VllmBackend, name: str) -> bytes | None:
    if model.model == DEMO_MODEL:
        from fgvr.demo.paths import MLLM_PATH

        return (MLLM_PATH / name).read_bytes() if (MLLM_PATH / name).is_file() else None
    try:
        if not storage.is_local(model.model) or storage.exists(model.model):
            return storage.read_bytes(storage.join(model.model, name))
        return hub.file_of(model.model, name, model.revision).read_bytes()
    except Exception:  # only an estimate: a missing hub is reported elsewhere
        return None
