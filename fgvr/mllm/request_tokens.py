"""How many tokens a request will have: of its text, and of a photo as the model's processor cuts it.

Estimates: what a run has counted itself (its tables have the tokens) is better, and taken where it is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from fgvr import storage
from fgvr.config.models import DEMO_MODEL, Mllm, OpenAIBackend, VllmBackend

Size = tuple[int, int]
"""Width and height, pixels."""

PHOTO: Size = (1000, 1000)
"""Assumed of photos that nobody has opened yet."""
UNKNOWN_IMAGE = 1000
"""Tokens assumed of an image where the processor's way is not known."""
FRAME = 20
"""Tokens of a chat template around a prompt."""
BYTES_A_TOKEN = 4
_OPENAI = {"gpt-4o-mini": (2833, 5667), "gpt-4o": (85, 170), "gpt-4.1": (85, 170), "gpt-4.5": (75, 150)}
"""(of an image, of each tile of 512 × 512), by the beginning of the model's name, as its maker's guide states them; the
longest that fits counts."""
_FILES = ("config.json", "processor_config.json", "preprocessor_config.json")


def text_tokens(text: str) -> int:
    """Of a text: four bytes a token, as English has about."""
    return math.ceil(len(text.encode()) / BYTES_A_TOKEN)


def image_tokens(model: Mllm, size: Size = PHOTO) -> int | None:
    """Of a photo of this size in a prompt; None where it is not known how the model cuts it. Fetches no weights."""
    if isinstance(model, OpenAIBackend):
        return _of_server(model, size)
    if isinstance(model, VllmBackend):
        return _of_checkpoint(_facts(model), size)
    return None


def _of_server(model: OpenAIBackend, size: Size) -> int | None:
    name = model.model.lower().rpartition("/")[2]
    known = max((start for start in _OPENAI if name.startswith(start)), key=len, default=None)
    if known is None:
        return None
    base, tile = _OPENAI[known]
    if model.image_detail == "low":
        return base
    scale = min(1.0, model.max_image_side / max(size), 2048 / max(size))
    scale *= min(1.0, 768 / (min(size) * scale))
    return base + tile * math.prod(math.ceil(side * scale / 512 - 1e-9) for side in size)


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
