"""How many tokens a photo has in the prompt of a checkpoint, by its processor's files: estimates."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from fgvr import storage
from fgvr.config.models import DEMO_MODEL, VllmBackend
from fgvr.mllm.provider import Size

_FILES = ("config.json", "processor_config.json", "preprocessor_config.json")


def image_tokens(model: VllmBackend, size: Size) -> int | None:
    """Of a photo of this size; None where it is not known how the model cuts it. Fetches no weights."""
    return _of_checkpoint(_with_kwargs(_facts(model), model.engine_args.get("mm_processor_kwargs")), size)


def _of_checkpoint(facts: Mapping[str, Any], size: Size) -> int | None:
    """By the config of the model and its processor: families of transformers, and what states one number."""
    kind = str(facts.get("model_type", ""))
    processor = facts.get("image_processor") or facts
    if kind.startswith("internvl") and "image_seq_length" in facts:
        most = int(processor.get("max_patches") or 12)
        side = _side(processor.get("size")) or 448
        tiles = 1 if most <= 1 else _tiles(size, side, most)
        return int(facts["image_seq_length"]) * (tiles + (tiles > 1))  # and a thumbnail of the whole
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
    """The facts as `mllm.engine_args.mm_processor_kwargs` changes them.

    Qwen-VL's bounds have two names each, as vLLM takes them: `size`'s edges over those of the files, and `min_pixels`
    and `max_pixels` over these.
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
    """Tiles of `side` into which InternVL's processor cuts an image: the grid nearest to its shape.

    Of equally near grids a larger one only where the image has more than half of its pixels.
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
    """What the JSON files of a model say, the later ones added to the earlier; empty where none can be had."""
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
    from huggingface_hub import hf_hub_download

    if model.model == DEMO_MODEL:
        from fgvr.demo.paths import MLLM_PATH

        return (MLLM_PATH / name).read_bytes() if (MLLM_PATH / name).is_file() else None
    try:
        if not storage.is_local(model.model) or storage.exists(model.model):
            return storage.read_bytes(storage.join(model.model, name))
        return Path(hf_hub_download(model.model, name, revision=model.revision)).read_bytes()
    except Exception:  # an estimate: a hub that does not answer says so where the model is looked for
        return None
