"""vLLM serves an adapter: its answers are those of transformers with the same adapter, and other ones than without.

The engine runs in a process of its own, since vLLM changes its process for good (the number of threads, for one).
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from fgvr.adapt.training import TARGETS, answers_of, load, save
from fgvr.config.models import VllmBackend
from fgvr.config.near import LABEL_PROMPT
from fgvr.demo.paths import MLLM_PATH
from fgvr.demo.samples import sample
from fgvr.images.pictures import Picture
from fgvr.mllm.adapter_folder import AdapterError, Verdict, check_adapter
from fgvr.mllm.backend import ImageRequest, Sampling
from fgvr.mllm.backends import backend_identity
from fgvr.mllm.prompts import image_conversation


@pytest.fixture(scope="module")
def strong(tmp_path_factory) -> tuple[Path, list[Image.Image], list[str], list[str]]:
    """An adapter of large random matrices, pictures, and transformers' answers without and with it."""
    from peft import LoraConfig, get_peft_model

    images = [Image.fromarray(sample(5, "test", index, difficulty=2.0).image) for index in range(6)]
    model, processor = load(MLLM_PATH)
    plain = [said[0] for said in answers_of(model, processor, images, max_tokens=8)]
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules=TARGETS, init_lora_weights=False))
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                weights.mul_(2)
    folder = tmp_path_factory.mktemp("strong")
    save(adapted, folder, MLLM_PATH, Verdict(6, 0.5, 0.5, 0, 0, 0, 0))
    return folder, images, plain, [said[0] for said in answers_of(adapted, processor, images, max_tokens=8)]


def vllm_says(folder: Path, images: list[Image.Image]) -> list[str]:
    """What vLLM answers with the adapter of this folder."""
    from fgvr.mllm.vllm_engine.engine import VllmEngine

    engine = VllmEngine(
        VllmBackend(adapter=str(folder), adapter_anyway=True, dtype="float32", cpu_kv_cache_gb=0.25, max_model_len=256)
    )
    requests = [
        ImageRequest(Picture.of(image), image_conversation(LABEL_PROMPT), Sampling(max_tokens=8)) for image in images
    ]
    try:
        return [answer.text for answer in engine.label(requests)]
    finally:
        engine.close()


@pytest.mark.slow
def test_vllm_answers_with_the_adapter(strong) -> None:
    folder, images, plain, expected = strong
    assert expected != plain
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as own_process:
        assert own_process.submit(vllm_says, folder, images).result() == expected


@pytest.mark.slow
def test_the_content_of_an_adapter_is_part_of_the_model(strong, tmp_path: Path) -> None:
    import shutil

    folder, *_ = strong
    copy = shutil.copytree(folder, tmp_path / "copy")
    without, one = backend_identity(VllmBackend()), backend_identity(VllmBackend(adapter=str(folder)))
    assert "adapter" not in without
    assert one == backend_identity(VllmBackend(adapter=str(copy)))
    (copy / "adapter_config.json").write_text('{"r": 4}')
    assert one != backend_identity(VllmBackend(adapter=str(copy)))
    (copy / "adapter_config.json").write_text('{"r": "many"}')
    with pytest.raises(AdapterError, match="expected the rank"):
        check_adapter(copy)
