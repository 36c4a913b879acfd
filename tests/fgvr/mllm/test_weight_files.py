"""Checkpoints that hold their weights twice, as repositories of the hub have them."""

import json
from pathlib import Path

import fsspec
import pytest

from fgvr import storage
from fgvr.config.models import VllmBackend
from fgvr.mllm.vllm_engine.memory import weight_bytes
from fgvr.mllm.vllm_engine.model_files import find, needed_files, weight_files

INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
TEXTS = ["config.json", "tokenizer.json", "README.md"]


def reads(**files: str):
    def read(name: str) -> bytes:
        content = {name.replace(".", "_"): text for name, text in files.items()}.get(name.replace(".", "_"))
        if content is None:
            raise FileNotFoundError(name)
        return content.encode()

    return read


@pytest.mark.parametrize(
    ("names", "index", "expected"),
    [
        ([*SHARDS, "consolidated.safetensors", "model.safetensors.index.json"], INDEX, SHARDS),
        ([*SHARDS, "model-00001-of-00001.safetensors", "model.safetensors.index.json"], INDEX, SHARDS),
        ([*SHARDS, "consolidated-00001-of-00001.safetensors"], None, SHARDS),
        ([*SHARDS, "other.safetensors", "model.safetensors.index.json"], "[1]", SHARDS),
        ([*SHARDS, "other.safetensors", "model.safetensors.index.json"], "{no json", SHARDS),
        (["model.safetensors", "pytorch_model.bin"], None, ["model.safetensors"]),
        (["consolidated.safetensors"], None, ["consolidated.safetensors"]),
        (["adapter.safetensors", "vision.safetensors"], None, ["adapter.safetensors", "vision.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.bin"], None, ["pytorch_model.bin"]),
        (["weights.bin", "training_args.bin"], None, ["weights.bin"]),
        (["model.gguf"], None, ["model.gguf"]),
        (["training_args.bin"], None, []),
    ],
)
def test_each_weight_counts_once(names: list[str], index: str | None, expected: list[str]) -> None:
    read = reads(model_safetensors_index_json=index) if index is not None else reads()
    assert weight_files([*names, *TEXTS], read) == expected


def test_an_index_of_pickles_is_read_too() -> None:
    index = json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}})
    names = ["pytorch_model-1.bin", "pytorch_model-old.bin", "pytorch_model.bin.index.json"]
    assert weight_files(names, reads(pytorch_model_bin_index_json=index)) == ["pytorch_model-1.bin"]


def test_other_copies_are_not_needed_and_everything_else_is() -> None:
    names = [*SHARDS, *TEXTS, "consolidated.safetensors", "pytorch_model.bin", "original/model.pth", "onnx/model.onnx"]
    names += ["model.safetensors.index.json", "chat/template.jinja", "modeling.py"]
    read = reads(model_safetensors_index_json=INDEX)
    doubles = {"consolidated.safetensors", "pytorch_model.bin", "original/model.pth", "onnx/model.onnx"}
    assert set(names) - set(needed_files(names, read)) == doubles
    assert needed_files(["config.json", "deep/model.safetensors"], read) == ["config.json", "deep/model.safetensors"]


def tensors(numbers: int) -> bytes:
    """A safetensors file with so many numbers of 16 bits, without them."""
    header = json.dumps({"w": {"dtype": "BF16", "shape": [numbers], "data_offsets": [0, 0]}}).encode()
    return len(header).to_bytes(8, "little") + header


def mistral(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["X"], "vision_config": {}}))
    (folder / "model.safetensors.index.json").write_text(INDEX)
    for name, numbers in zip([*SHARDS, "consolidated.safetensors"], (600, 400, 1000), strict=True):
        (folder / name).write_bytes(tensors(numbers))
    return folder


def test_memory_is_that_of_the_shards_alone(tmp_path: Path) -> None:
    files = find(VllmBackend(model=str(mistral(tmp_path / "model"))))
    assert weight_bytes(files, "auto") == 2000
    assert files.weight_bytes("auto") == sum((files.folder / name).stat().st_size for name in SHARDS)


def test_of_an_object_store_each_weight_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    storage.put_folder(mistral(tmp_path / "model"), "memory://twice/model")
    try:
        files = find(VllmBackend(model="memory://twice/model"))
    finally:
        fsspec.filesystem("memory").rm("/twice", recursive=True)
    assert {file.name for file in files.folder.iterdir()} == {*SHARDS, "config.json", "model.safetensors.index.json"}


def test_of_the_hub_each_weight_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = mistral(tmp_path / "0123abcd"), {}

    def snapshot(name: str, *, revision: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, ignore=ignore_patterns)
        return str(model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, name, **__: str(model / name))
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, **__: [file.name for file in model.iterdir()])
    find(VllmBackend(model="someone/model"))
    assert asked == {"name": "someone/model", "revision": "0123abcd", "ignore": ["consolidated.safetensors"]}
