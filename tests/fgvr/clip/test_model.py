import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from fgvr.clip.model import load_clip, load_source
from fgvr.clip.source import ClipError, ClipSource
from fgvr.config import Clip


@pytest.fixture(scope="module")
def model(clip_folder):
    return load_clip(Clip(model=str(clip_folder)))


def picture(seed, size=(50, 40)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_images_are_encoded_as_open_clip_does_with_the_folder_own_preprocessing(model, clip_folder):
    import open_clip

    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    images = [picture(0), picture(1, (20, 90)), picture(2, (32, 32))]
    with torch.no_grad():
        expected = network.eval().encode_image(torch.stack([preprocess(image) for image in images]), normalize=True)
    np.testing.assert_allclose(model.encode_images(images), expected.numpy(), atol=1e-6)
    # mean 0.5, std 0.25 stand in the folder's config: white is (1 − 0.5) / 0.25
    assert model.preprocess(Image.new("RGB", (9, 9), "white")).unique().tolist() == [2.0]


def test_features_are_unit_vectors_in_fp32(model):
    features = model.encode_images([picture(seed) for seed in range(5)])
    assert features.dtype == np.float32
    assert features.shape == (5, model.dim) == (5, 24)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, atol=1e-6)
    assert model.encode_images([]).shape == (0, 24)


def test_names_go_into_the_template(model):
    names = ["Teal", "Dusky Wren"]
    ids = model.tokenizer(["a photo of a Teal.", "a photo of a Dusky Wren."])
    expected = F.normalize(model.network.encode_text(ids), dim=-1).numpy()
    np.testing.assert_allclose(model.encode_names(names, "a photo of a {}."), expected, atol=1e-6)
    assert model.encode_names([], "{}").shape == (0, 24)


def test_a_name_with_braces_is_no_format_string(model):
    assert model.encode_names(["{0} {"], "a {}").shape == (1, 24)


def test_texts_that_do_not_fit_are_cut_with_a_warning(model, caplog):
    with caplog.at_level(logging.WARNING):
        model.encode_texts(["blue " * 30, "blue " * 31, "a", "blue " * 300])  # 32 tokens, start and end included
    assert "2 of 4 texts are too long" in caplog.text


def test_weights_are_frozen(model):
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert not model.network.training


def test_damaged_weights_are_a_clear_error(clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ClipError, match="cannot be loaded"):
        load_clip(Clip(model=str(tmp_path)))


def test_weights_of_another_architecture_are_a_clear_error(clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["width"] = 64
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ClipError, match="cannot be loaded"):
        load_clip(Clip(model=str(tmp_path)))


def test_the_activation_is_asserted_after_loading(clip_folder):
    source = ClipSource(f"local-dir:{clip_folder}", folder=clip_folder, quick_gelu=True)
    with pytest.raises(ClipError, match="without the QuickGELU"):
        load_source(source)
