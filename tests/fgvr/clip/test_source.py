import json
from pathlib import Path

import pytest

from fgvr import storage
from fgvr.clip.source import ClipError, check_clip_weights, find_clip
from fgvr.config import Clip


def test_folders_with_and_without_prefix_are_found_and_told_apart_by_content(clip_folder, tmp_path):
    plain = find_clip(Clip(model=str(clip_folder)))
    assert plain == find_clip(Clip(model=f"local-dir:{clip_folder}"))
    assert plain.folder == clip_folder
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in clip_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert find_clip(Clip(model=str(copy))).identity() == plain.identity()
    weights = copy / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    assert find_clip(Clip(model=str(copy))).identity() != plain.identity()


def test_a_folder_on_an_object_store_is_fetched(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path))
    storage.put_folder(clip_folder, "memory://models/clip")
    found = find_clip(Clip(model="memory://models/clip"))
    assert found == find_clip(Clip(model="local-dir:memory://models/clip"))
    assert found.identity() == find_clip(Clip(model=str(clip_folder))).identity()
    with pytest.raises(ClipError, match="there is nothing at memory://models/other"):
        find_clip(Clip(model="memory://models/other"))


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("local-dir:/nowhere/at/all", None, "clip.model: /nowhere/at/all is not a folder"),
        ("./nowhere", None, "clip.model: nowhere is not a folder"),
        ("ViT-B-61", "openai", "clip.model: 'ViT-B-61' is neither a folder nor a model .* did you mean ViT-B-16"),
        ("ViT-B-16", None, "clip.pretrained: ViT-B-16 without weights is random; name a file or one of openai"),
        ("ViT-B-16", "opneai", "clip.pretrained: 'opneai' is no file and no tag of ViT-B-16"),
        ("ViT-B-16", "openai", "trained with QuickGELU.*use ViT-B-16-quickgelu"),
    ],
)
def test_what_does_not_exist_or_fit_is_named(model, pretrained, message):
    with pytest.raises(ClipError, match=message):
        find_clip(Clip(model=model, pretrained=pretrained))


def test_the_openai_weights_with_their_activation_are_accepted():
    source = find_clip(Clip(model="ViT-B-16-quickgelu", pretrained="openai"))
    assert source.quick_gelu
    assert source.identity() == {"name": "ViT-B-16-quickgelu", "pretrained": "openai"}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no open_clip_config.json"), ("{", "is not JSON"), ("{}", "has no `model_cfg`"), (None, "no")],
)
def test_a_folder_that_is_no_model(tmp_path, content, message):
    if content is not None:
        (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(ClipError, match=message):
        find_clip(Clip(model=str(tmp_path)))


def test_a_folder_without_weights_is_refused_instead_of_used_at_random(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(ClipError, match="holds no weights"):
        find_clip(Clip(model=str(tmp_path)))


def test_weights_at_a_url_are_fetched_and_remembered_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    storage.write_bytes("memory://models/clip/w.pt", b"weights")
    storage.write_bytes("memory://models/clip/other.pt", b"others")
    found = find_clip(Clip(model="ViT-B-32", pretrained="memory://models/clip/w.pt"))
    assert found.pretrained is not None
    assert Path(found.pretrained).read_bytes() == b"weights"
    assert found.origin == "memory://models/clip/w.pt"
    assert [file.name for file in Path(found.pretrained).parent.iterdir()] == ["w.pt"]
    with pytest.raises(ClipError, match=r"clip\.pretrained: there is no file memory://models/clip/none\.pt"):
        find_clip(Clip(model="ViT-B-32", pretrained="memory://models/clip/none.pt"))


def test_weights_that_the_hub_would_have_are_missed_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    check_clip_weights(Clip())
    config = Clip(model="ViT-B-16-quickgelu", pretrained="openai")
    with pytest.raises(ClipError, match=r"openai of ViT-B-16-quickgelu is not in the hub's cache .* HF_HUB_OFFLINE"):
        check_clip_weights(config)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("fgvr.hub.has_no_network", lambda: True)
    with pytest.raises(ClipError, match=r"not in the hub's cache on this machine, and there is no network here"):
        check_clip_weights(config)
    monkeypatch.setattr("fgvr.hub.has_no_network", lambda: False)
    check_clip_weights(config)  # fetched by whoever needs them first
