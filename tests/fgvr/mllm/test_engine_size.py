import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fgvr.config.models import VllmBackend
from fgvr.mllm.vllm_engine.memory import (
    GIB,
    EngineSize,
    NotEnoughMemory,
    card_bytes,
    check_cpu_cache,
    check_on_gpus,
    size_of,
    smallest_here,
    weight_bytes,
)
from fgvr.mllm.vllm_engine.model_files import ModelFiles, find

# Qwen3-8B's config, the language model of InternVL3.5-8B.
QWEN3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "dtype": "bfloat16",
}


def files(folder: Path, text: dict[str, Any], nested: bool = True) -> ModelFiles:
    tensors = {"a": torch.zeros(100, 40, dtype=torch.bfloat16), "b": torch.zeros(50, dtype=torch.int8)}
    save_file(tensors, folder / "model-00001-of-00002.safetensors")
    save_file({"c": torch.zeros(10, dtype=torch.float32)}, folder / "model-00002-of-00002.safetensors")
    (folder / "config.json").write_text(json.dumps({"text_config": text} if nested else text))
    return find(VllmBackend(model=str(folder)))


@pytest.mark.parametrize(("dtype", "expected"), [("auto", 8000 + 50 + 20), ("float32", 16000 + 50 + 40)])
def test_weights_are_those_of_the_headers_whatever_else_is_in_the_folder(
    tmp_path: Path, dtype: str, expected: int
) -> None:
    found = files(tmp_path, QWEN3_8B)
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(10_000))
    assert weight_bytes(found, dtype) == expected


def test_a_damaged_header_is_not_believed(tmp_path: Path) -> None:
    found = files(tmp_path, QWEN3_8B)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(struct.pack("<Q", 2**60) + bytes(992))
    other = (tmp_path / "model-00002-of-00002.safetensors").stat().st_size
    assert weight_bytes(found, "auto") == 1000 + other


@pytest.mark.parametrize(
    "header",
    [[1, 2], {"w": 5}, {"w": {"dtype": "BF16"}}, {"w": {"dtype": "BF16", "shape": ["a"]}}, {"w": {"shape": 3}}],
)
def test_neither_is_one_that_does_not_describe_tensors(tmp_path: Path, header: object) -> None:
    found = files(tmp_path, QWEN3_8B)
    text = json.dumps(header).encode()
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(1000))
    other = (tmp_path / "model-00002-of-00002.safetensors").stat().st_size
    assert weight_bytes(found, "auto") == 8 + len(text) + 1000 + other


def test_the_cache_of_a_token_and_of_the_longest_prompt(tmp_path: Path) -> None:
    # 2 (key and value) x 36 layers x 8 heads x 128 numbers x 2 bytes = 147,456 bytes a token
    size = size_of(VllmBackend(max_model_len=8192), files(tmp_path, QWEN3_8B))
    assert (size.token, size.longest) == (147_456, 8192)
    assert size.prompt == 1_207_959_552
    # 8,192 tokens x (4 x 4,096 + 2 x 12,288) x 2 bytes + 256 sequences x 151,936 x 4 bytes
    assert size.activations == 671_088_640 + 155_582_464
    # vLLM runs a checkpoint in fp32 in 16 bits unless it is told otherwise.
    single = files(tmp_path, QWEN3_8B | {"dtype": "float32"})
    assert size_of(VllmBackend(), single).token == 147_456
    assert size_of(VllmBackend(dtype="float32"), single).token == 2 * 147_456
    fp8 = VllmBackend(engine_args={"kv_cache_dtype": "fp8_e4m3"})
    whole = size_of(fp8, files(tmp_path, QWEN3_8B, nested=False))
    assert (whole.token, whole.longest) == (73_728, 40960)


def test_latent_attention_keeps_one_vector(tmp_path: Path) -> None:
    latent = {"num_hidden_layers": 27, "num_attention_heads": 16, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    assert size_of(VllmBackend(), files(tmp_path, latent)).token == 27 * 576 * 2


def test_a_config_that_tells_nothing_is_not_guessed(tmp_path: Path) -> None:
    size = size_of(VllmBackend(), files(tmp_path, {}))
    assert (size.token, size.activations, size.prompt) == (0, 0, 0)
    assert "such prompts" not in size.text(GIB)


SIZE = EngineSize(weights=16 * GIB, token=147_456, longest=8192, activations=GIB)  # a prompt: 1.125 GiB


def test_what_fits_on_a_card_and_what_is_said_of_it() -> None:
    share = check_on_gpus(SIZE, 24 * GIB, 1, 0.9)
    assert share == int(24 * GIB * 0.9)
    # 21.6 - 16 - 1 = 4.6 GiB for prompts of 1.125 GiB
    assert SIZE.text(share).endswith("18.12 of 21.6 GiB, room for 4 such prompts at once")
    with pytest.raises(NotEnoughMemory, match=r"18\.12 of 14\.4 GiB.* on 1 GPU\(s\) of 16 GiB .*tensor_parallel_size"):
        check_on_gpus(SIZE, 16 * GIB, 1, 0.9)
    assert check_on_gpus(SIZE, 16 * GIB, 2, 0.9)


def test_a_cache_for_less_than_one_prompt_is_refused() -> None:
    check_cpu_cache(SIZE, 2 * GIB)
    with pytest.raises(NotEnoughMemory, match=r"cpu_kv_cache_gb = 1: a prompt of 8,192 tokens needs 1\.12 GiB"):
        check_cpu_cache(SIZE, GIB)


def test_cards_by_rays_name_and_as_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert card_bytes("H100") == 80 * GIB
    assert card_bytes("A100") is None  # of 40 or of 80
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 81559\necho 24564\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert smallest_here() == 24564 * 2**20
    tool.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert smallest_here() is None
