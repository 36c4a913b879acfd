import json

import pytest

from fgvr import storage
from fgvr.clip.source import ClipError, find_clip
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
