"""Model folders are judged before anything is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fgvr import storage
from fgvr.config.models import OpenAIBackend, VllmBackend
from fgvr.mllm.backends import backend_identity
from fgvr.mllm.vllm_engine.memory import NotEnoughMemory
from fgvr.mllm.vllm_engine.model_files import ModelError, ModelFiles, find, identity
from fgvr.mllm.vllm_engine.start import deciding_arguments, engine_arguments, start_engine


def folder(tmp_path: Path, name: str = "model", size: int = 1000, **config: Any) -> Path:
    made = tmp_path / name
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"architectures": ["SomeForConditionalGeneration"], **config}))
    (made / "model.safetensors").write_bytes(bytes(size))
    return made


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/no/such/folder", r"mllm\.model: there is no folder /no/such/folder"),
        ("./models/none", r"mllm\.model: there is no folder \./models/none"),
        ("none", r"mllm\.model: there is no folder none"),
        (
            "owner/none",
            r"owner/none is no folder here, and the Hugging Face hub did not give it: HF_HUB_OFFLINE is set",
        ),
    ],
)
@pytest.mark.parametrize("look", [find, identity])
def test_a_model_that_is_not_there(model: str, message: str, look: Callable[[VllmBackend], object]) -> None:
    with pytest.raises(ModelError, match=message):
        look(VllmBackend(model=model))


def test_a_model_in_an_object_store_is_identified_without_its_weights(tmp_path: Path) -> None:
    uri = "memory://models/tiny"
    for name, data in {"config.json": b'{"vision_config": {}}', "model.safetensors": b"12345"}.items():
        storage.write_bytes(storage.join(uri, name), data)
    before = identity(VllmBackend(model=uri))
    storage.write_bytes(storage.join(uri, "model.safetensors"), b"1234567")
    assert identity(VllmBackend(model=uri)) != before
    with pytest.raises(ModelError, match=r"memory://models/none has no config\.json"):
        identity(VllmBackend(model="memory://models/none"))


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    made = folder(tmp_path)
    assert find(VllmBackend(model=f"file://{made}")).folder == made


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        find(VllmBackend(model=str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        find(VllmBackend(model=str(tmp_path)))


def test_a_text_model_reads_no_images(tmp_path: Path) -> None:
    files = find(VllmBackend(model=str(folder(tmp_path, architectures=["LlamaForCausalLM"]))))
    with pytest.raises(ModelError, match="LlamaForCausalLM, which reads no images"):
        files.check_vision({"MolmoForCausalLM"})
    files.check_vision({"LlamaForCausalLM"})  # known to the engine under a text-like name
    ModelFiles(tmp_path, {"architectures": ["X"], "vision_config": {}}).check_vision(set())


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        ({"dtype": "bfloat16"}, "auto", 1000),
        ({"dtype": "float32"}, "auto", 500),
        ({"dtype": "bfloat16"}, "float32", 2000),
        ({"torch_dtype": "float32"}, "bfloat16", 500),
        ({"text_config": {"dtype": "float32"}}, "float16", 500),
        ({}, "float32", 2000),
    ],
)
def test_memory_of_the_weights(tmp_path: Path, config: dict[str, Any], dtype: str, expected: int) -> None:
    assert find(VllmBackend(model=str(folder(tmp_path, **config)))).weight_bytes(dtype) == expected


def test_too_little_memory_is_said_before_vllm_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = folder(tmp_path, vision_config={})
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(900 * 2**30)  # a sparse file
    monkeypatch.setattr("fgvr.mllm.vllm_engine.start.runs_on_cpu", lambda: True)
    monkeypatch.setattr("fgvr.mllm.vllm_engine.start.prepare", lambda **_: pytest.fail("too late"))
    with pytest.raises(NotEnoughMemory, match=r"weights 900\.0"):
        start_engine(VllmBackend(model=str(model)), vision=True)


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    one = folder(tmp_path, size=3_000_000)
    shutil.copytree(one, tmp_path / "copy")
    before = backend_identity(VllmBackend(model=str(one)))
    assert backend_identity(VllmBackend(model=str(tmp_path / "copy"))) == before
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(b"\1" + weights.read_bytes()[1:])
    assert backend_identity(VllmBackend(model=str(tmp_path / "copy"))) != before
    # How wide the engine runs does not change what it answers.
    assert backend_identity(VllmBackend(model=str(one), max_num_seqs=1, images_in_flight=1)) == before


def test_engine_arguments_of_cpu_and_gpu(tmp_path: Path) -> None:
    files = find(VllmBackend(model=str(folder(tmp_path))))
    config = VllmBackend(cpu_kv_cache_gb=0.5, engine_args={"max_num_batched_tokens": 99, "block_size": 64})
    cpu = engine_arguments(config, files, on_cpu=True, vision=True)
    assert (cpu["kv_cache_memory_bytes"], cpu["block_size"], cpu["enforce_eager"]) == (2**29, 64, True)
    assert (cpu["max_num_batched_tokens"], cpu["seed"]) == (99, 0)
    gpu = engine_arguments(config, files, on_cpu=False, vision=False)
    assert (gpu["gpu_memory_utilization"], gpu["enforce_eager"]) == (0.9, False)
    assert not {"kv_cache_memory_bytes", "limit_mm_per_prompt"} & set(gpu)


def test_how_an_engine_is_sized_decides_nothing_and_what_is_not_known_does(tmp_path: Path) -> None:
    def of(**arguments: Any) -> dict[str, Any]:
        return backend_identity(VllmBackend(model=str(tmp_path / "model"), engine_args=arguments))

    folder(tmp_path)
    plain = of()
    assert of(max_num_batched_tokens=8192, block_size=32, hf_token="secret") == plain
    for deciding in ({"quantization": "fp8"}, {"kv_cache_dtype": "fp8"}, {"hf_overrides": {}}, {"from_tomorrow": 1}):
        assert of(**deciding) != plain
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    before = of(tokenizer=str(tmp_path / "tokenizer"))
    assert str(tmp_path) not in repr(before)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"other": 1}')
    assert of(tokenizer=str(tmp_path / "tokenizer")) != before


@pytest.mark.parametrize(
    "arguments",
    [
        {"tokenizer": "{place}"},
        {"tokenizer": "file://{place}"},
        {"tokenizer": "tok"},
        {"tokenizer": "./tok"},
        {"of_tomorrow": "deep/tok"},
        {"mm_encoder_fp8_scale_path": "tok/tokenizer.json"},
        {"speculative_config": {"model": "tok", "num_speculative_tokens": 2}},
        {"default_mm_loras": {"image": "tok"}},
        {"lora_modules": [{"name": "a", "path": "{place}"}]},
    ],
)
def test_a_file_that_an_engine_argument_names_counts_by_its_content(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(where: Path) -> dict[str, Any]:
        monkeypatch.chdir(where)
        given = json.loads(json.dumps(arguments).replace("{place}", f"{where}/tok"))
        return backend_identity(VllmBackend(model=model, engine_args=given))["engine_args"]

    model, one = str(folder(tmp_path)), tmp_path / "one"
    for place in (one / "tok", one / "deep" / "tok"):
        place.mkdir(parents=True)
        (place / "tokenizer.json").write_text("{}")
    shutil.copytree(one, tmp_path / "elsewhere")
    before = of(one)
    assert '"files"' in json.dumps(before)
    assert of(tmp_path / "elsewhere") == before
    for file in one.rglob("tokenizer.json"):
        file.write_text('{"other": 1}')
    assert of(one) != before


def test_words_and_places_to_write_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "quantization": "fp8",
        "generation_config": "vllm",
        "tokenizer_mode": "slow/",
        "compilation_config": {"cache_dir": str(tmp_path), "debug_dump_path": str(tmp_path)},
        "hf_overrides": {"text": "a/" * 9999, "home": "~nobody-of-this-name/x", "empty": f"{tmp_path}/none"},
        "tokenizer": "",
        "max_logprobs": 3,
    }
    monkeypatch.chdir(tmp_path)
    for name in ("fp8", "vllm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "none").mkdir()
    assert deciding_arguments(given) == given


@pytest.mark.parametrize(
    "url",
    [
        "http://gpu:8001/v1",
        "https://gpu/v1/",
        "http://user:key@gpu:8000/v1",
        "http://GPU:8000/v1?key=secret",
    ],
)
def test_a_server_is_its_host_and_path(url: str) -> None:
    first, other = (OpenAIBackend(model="m", base_url=each) for each in ("http://gpu:8000/v1", url))
    assert backend_identity(other) == backend_identity(first)
    assert "key" not in repr(backend_identity(other))
    elsewhere = OpenAIBackend(model="m", base_url="http://gpu2:8000/v1")
    assert backend_identity(elsewhere) != backend_identity(first)
