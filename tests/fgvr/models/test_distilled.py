"""The folder of a distilled encoder: read by timm, by embed and by models that need it; and damaged ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

from fgvr.config import ImageLimits, TimmVectors
from fgvr.encoders.distilled import DistilledEncoder, DistilledFolderError, load_head
from fgvr.encoders.embed_worker import EmbedWorker
from fgvr.encoders.encoder import encode_images, encoder_identity, load_encoder, save_encoder, saved_encoder
from fgvr.encoders.timm_source import TimmError
from fgvr.models.base import ModelFolderError, read_file_of_kind
from fgvr.models.distilled import DistilledError, DistilledSpec, build_backbone
from fgvr.models.infer import load_classifier
from fgvr.tables import vectors
from tests.fgvr.training.distilled_photos import photos, teacher

import timm  # isort: skip - behind fgvr, which prepares torchvision beside a CPU torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("distilled")
    teacher(place, "test_byobnet", 48, dim=20)
    return place


@pytest.fixture(scope="module")
def uris(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return photos(tmp_path_factory.mktemp("photos"), 5)


def by_hand(folder: Path, uris: list[str]) -> np.ndarray:
    """Vectors by timm's own loading and preprocessing, and the head written out."""
    network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    facts = timm.data.resolve_model_data_config(network)
    pixels = torch.stack([timm.data.create_transform(**facts)(Image.open(uri)) for uri in uris])
    head = load_file(folder / "head.safetensors")
    with torch.no_grad():
        features = functional.layer_norm(network(pixels), (256,), head["0.weight"], head["0.bias"])
        found = functional.linear(features, head["1.weight"], head["1.bias"])
    return (found / found.norm(dim=1, keepdim=True)).numpy()


def test_embed_gives_the_vectors_of_the_model_itself(folder: Path, uris: list[str]) -> None:
    expected = by_hand(folder, uris)
    encoder = load_encoder(TimmVectors(model=str(folder)))
    assert (encoder.dim, encoder.image_size, encoder.short_side) == (20, 48, 96)
    np.testing.assert_allclose(encode_images(encoder, [Image.open(uri) for uri in uris]), expected, atol=1e-6)
    worker = EmbedWorker(
        encoder=TimmVectors(model=str(folder)), limits=ImageLimits(), batch_images=2, device="cpu", threads=0
    )
    table = worker.process(pa.table({"image_id": pa.array(range(5), pa.int64()), "uri": uris}))
    np.testing.assert_allclose(vectors(table["vector"]), expected, atol=1e-3)


def test_a_copy_for_another_model_keeps_the_head(folder: Path, uris: list[str], tmp_path: Path) -> None:
    config = TimmVectors(model=str(folder))
    reference = save_encoder(config, tmp_path)
    images = [Image.open(uri) for uri in uris]
    again = load_encoder(saved_encoder(json.loads(json.dumps(reference)), tmp_path))
    np.testing.assert_array_equal(encode_images(again, images), encode_images(load_encoder(config), images))


def test_the_head_is_part_of_what_identifies_it(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    same = encoder_identity(TimmVectors(model=str(copy)))
    assert same == encoder_identity(TimmVectors(model=str(folder)))
    head = load_file(copy / "head.safetensors")
    save_file(head | {"1.bias": head["1.bias"] + 1}, copy / "head.safetensors")
    assert encoder_identity(TimmVectors(model=str(copy))) != same


def altered(folder: Path, place: Path, change: str) -> Path:
    """A copy with one thing wrong."""
    copy = shutil.copytree(folder, place / change.replace(" ", "_"))
    head, facts = load_file(copy / "head.safetensors"), json.loads((copy / "model.json").read_text())
    match change:
        case "another width":
            head |= {"1.weight": head["1.weight"][:7].clone(), "1.bias": head["1.bias"][:7].clone()}
        case "another backbone":
            head |= {name: torch.ones(9) for name in ("0.weight", "0.bias")} | {"1.weight": torch.ones(20, 9)}
            facts["features"] = 9
        case "half a head":
            del head["0.weight"]
        case "another kind":
            facts["kind"] = "student"
        case "no width":
            del facts["dim"]
    save_file(head, copy / "head.safetensors")
    (copy / "model.json").write_text(json.dumps(facts))
    if change == "no head":
        (copy / "head.safetensors").unlink()
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("another width", r"says a head from 256 features to 20 numbers, and head\.safetensors has 256 and 7"),
        ("another backbone", r"is for 9 features, and the backbone beside it gives 256: files of two encoders"),
        ("half a head", r"is not the head of an encoder"),
        ("no head", r"head\.safetensors is not the head of an encoder"),
        ("another kind", r"kind 'student'.*expected encoder"),
        ("no width", r"is damaged: .*dim"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path, change: str, message: str) -> None:
    copy = altered(folder, tmp_path, change)
    with pytest.raises(DistilledFolderError, match=message):
        load_head(copy, 256)
    with pytest.raises(TimmError, match=rf"^embed\.vectors\.model: .*{message}"):
        load_encoder(TimmVectors(model=str(copy)))


def test_a_folder_of_timm_has_no_head(folder: Path, tmp_path: Path) -> None:
    teacher(tmp_path / "plain", "test_byobnet", 48)
    assert load_head(tmp_path / "plain", 256) is None
    assert load_encoder(TimmVectors(model=str(tmp_path / "plain"))).dim == 256


def test_it_is_no_classifier(folder: Path) -> None:
    assert read_file_of_kind(folder, "encoder", 1, ("dim", "features", "teacher", "facts"))["dim"] == 20
    with pytest.raises(ModelFolderError, match="kind 'encoder' is unknown"):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("backbone", "size", "arguments", "message"),
    [
        ("mobilenetv3_smal_100", 64, {}, r"distill\.backbone 'mobilenetv3_smal_100': timm has no such model; did you"),
        ("hf-hub:timm/resnet18.a1_in1k", 64, {}, r"distill\.backbone 'hf-hub:.*timm has no such model"),
        ("test_vit", 40, {"img_size": 48}, r"distill\.backbone 'test_vit' cannot be built for 40 px"),
        ("test_byobnet", 64, {"no_such": 1}, r"cannot be built for 64 px with arguments .*no_such"),
        ("test_byobnet", 64, {"global_pool": ""}, r"gives features of shape \(256, 2, 2\); a vector is needed"),
    ],
)
def test_a_backbone_that_cannot_be_built(backbone: str, size: int, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DistilledError, match=message):
        build_backbone(DistilledSpec.of(backbone, size, None, arguments))


def test_what_is_kept_has_the_teachers_width(folder: Path) -> None:
    spec = DistilledSpec.of("test_byobnet", 48, 64, {})
    backbone, features = build_backbone(spec)
    head = load_head(folder, features)
    assert head is not None
    encoder = DistilledEncoder(backbone, head).eval()
    assert encoder(torch.zeros(2, 3, 48, 48)).shape == (2, 20)
