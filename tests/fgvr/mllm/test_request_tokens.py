"""Tokens of photos by the published rules of their models, by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from fgvr.config import build
from fgvr.mllm.request_tokens import image_tokens, text_tokens


def model(**facts: Any) -> Any:
    return build({"mllm": facts}).mllm


@pytest.mark.parametrize(
    ("name", "size", "detail", "expected"),
    [
        # OpenAI's guide: 1024 × 1024 becomes 768 × 768, four tiles: 4 · 170 + 85; 2048 × 4096 becomes 768 × 1536: six.
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o-2024-11-20", (512, 512), "auto", 255),
        ("gpt-4o-mini", (1024, 1024), "high", 4 * 5667 + 2833),
        ("openai/gpt-4o", (512, 512), "auto", 255),
        ("a-model-of-ours", (512, 512), "auto", None),
    ],
)
def test_servers_whose_rule_is_published(name: str, size: tuple[int, int], detail: str, expected: int | None) -> None:
    mllm = model(kind="openai", model=name, image_detail=detail, max_image_side=8192)
    assert image_tokens(mllm, size) == expected


def test_an_image_that_is_scaled_before_it_is_sent_has_fewer() -> None:
    assert image_tokens(model(kind="openai", model="gpt-4o", max_image_side=512), (4000, 4000)) == 255


def checkpoint(folder: Path, **files: dict[str, Any]) -> Any:
    for name, facts in files.items():
        (folder / f"{name}.json").write_text(json.dumps(facts))
    return model(kind="vllm", model=str(folder))


@pytest.mark.parametrize(
    ("size", "tiles"),
    [
        ((448, 448), 1),
        ((1000, 1000), 9),  # 3 × 3: 10⁶ pixels are more than half of 9 · 448², and no 4 × 4 is allowed
        ((1000, 500), 2),  # 2 × 1: 4 × 2 would need 0.8 · 10⁶ pixels
        ((500, 1500), 3),
    ],
)
def test_internvl_cuts_tiles_and_adds_a_thumbnail(tmp_path: Path, size: tuple[int, int], tiles: int) -> None:
    mllm = checkpoint(
        tmp_path,
        config={"model_type": "internvl", "image_seq_length": 256},
        preprocessor_config={"max_patches": 12, "min_patches": 1, "size": {"height": 448, "width": 448}},
    )
    assert image_tokens(mllm, size) == 256 * (tiles + (tiles > 1))


def test_qwen_takes_a_token_for_each_cell_of_28_pixels_within_its_bounds(tmp_path: Path) -> None:
    mllm = checkpoint(
        tmp_path,
        config={"model_type": "qwen2_5_vl", "vision_config": {"patch_size": 14, "spatial_merge_size": 2}},
        preprocessor_config={"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12_845_056},
    )
    assert image_tokens(mllm, (280, 560)) == 10 * 20


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 36 * 36),  # 1000 / 28 is nearest to 36
        ({"max_pixels": 401_408}, 23 * 23),  # 512 · 28²: sides of 633.6 pixels
        ({"images_kwargs": {"max_pixels": 401_408}}, 23 * 23),
        ({"size": {"shortest_edge": 3136, "longest_edge": 401_408}}, 23 * 23),
        ({"size": {"longest_edge": 3136}, "max_pixels": 401_408}, 23 * 23),
        ({"min_pixels": 4_000_000}, 71 * 71),  # sides of 2,000 pixels
    ],
)
def test_bounds_that_the_engine_is_given(tmp_path: Path, given: dict[str, Any], expected: int) -> None:
    mllm = checkpoint(
        tmp_path,
        config={"model_type": "qwen2_5_vl", "vision_config": {"patch_size": 14, "spatial_merge_size": 2}},
        preprocessor_config={"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12_845_056},
    )
    mllm = mllm.model_copy(update={"engine_args": {"mm_processor_kwargs": given}})
    assert image_tokens(mllm, (1000, 1000)) == expected


def test_tiles_that_the_engine_is_given(tmp_path: Path) -> None:
    mllm = checkpoint(
        tmp_path,
        config={"model_type": "internvl", "image_seq_length": 256},
        preprocessor_config={"max_patches": 12, "size": {"height": 448, "width": 448}, "crop_to_patches": False},
    )
    fewer = mllm.model_copy(update={"engine_args": {"mm_processor_kwargs": {"max_patches": 4}}})
    whole = mllm.model_copy(update={"engine_args": {"mm_processor_kwargs": {"crop_to_patches": False}}})
    assert [image_tokens(each, (1000, 1000)) for each in (mllm, fewer, whole)] == [10 * 256, 5 * 256, 256]


def test_others_state_a_number_or_nothing(tmp_path: Path) -> None:
    assert image_tokens(checkpoint(tmp_path, config={"model_type": "gemma3", "mm_tokens_per_image": 256})) == 256
    assert image_tokens(checkpoint(tmp_path, config={"model_type": "unheard_of"})) is None
    (tmp_path / "config.json").write_text("not JSON")
    assert image_tokens(checkpoint(tmp_path)) is None


def test_the_demo_s_model_has_one_tile() -> None:
    assert image_tokens(model(kind="vllm"), (64, 64)) == 16  # its processor_config.json: image_seq_length


def test_texts_are_counted_by_their_bytes() -> None:
    assert [text_tokens(text) for text in ("", "four", "fives", "鳥の種")] == [0, 1, 2, 3]
