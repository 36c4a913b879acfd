"""Networks as teachers: their vectors are those that embed gives, and their maps those before the pooling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fgvr.config import Clip, TimmVectors
from fgvr.encoders.encoder import load_encoder
from fgvr.models.student import timm_preprocess
from fgvr.training.encoder import EncoderTrainer
from fgvr.training.encoder_examples import EncoderTrainingError
from fgvr.training.encoder_teacher import _clip_mapped, common_input, open_encoder_teacher, resized
from fgvr.training.reporter import LocalReporter
from tests.fgvr.training.distilled_photos import job, teacher

CPU = torch.device("cpu")
NONE = np.zeros(0, np.int64)


def opened(config: Any, **more: Any) -> Any:
    return open_encoder_teacher(config, None, CPU, "fp32", **more)


def pixels(side: int, count: int = 3) -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def embedded(config: Clip | TimmVectors, images: torch.Tensor) -> np.ndarray:
    """Vectors by the encoder's own preprocessing, of images that have its size."""
    encoder = load_encoder(config)
    return encoder.encode(torch.stack([encoder.preprocess(Image.fromarray(image.numpy())) for image in images]))


def unit(vectors: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vectors).numpy()


def test_clip_teaches_its_projected_vectors_and_the_maps_before_the_projection(clip_folder: Path) -> None:
    config = Clip(model=str(clip_folder))
    plain, mapped = opened(config), opened(config, spatial=True)
    images = pixels(plain.side)
    expected = embedded(config, images)
    np.testing.assert_allclose(unit(plain(NONE, images).vectors), expected, atol=1e-5)
    np.testing.assert_allclose(unit(mapped(NONE, images).vectors), expected, atol=1e-5)
    assert plain(NONE, images).grid is None
    assert plain.dim == mapped.dim == 24
    assert mapped.grid is not None


def test_towers_of_open_clip() -> None:
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    torch.manual_seed(0)
    tower = VisionTransformer(32, 8, 16, 1, 2, 2.0, output_dim=10).eval()
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        vectors, grid = _clip_mapped(tower, inputs)
        assert torch.equal(vectors, tower(inputs))
        # By hand: the class token is projected, the patches behind it are the map.
        tokens = tower.ln_post(tower.transformer(tower._embeds(inputs)))
    torch.testing.assert_close(vectors, tokens[:, 0] @ tower.proj)
    torch.testing.assert_close(grid, tokens[:, 1:].reshape(2, 4, 4, 16))
    assert not tower.output_tokens  # as it was
    trunk = TimmModel("test_byobnet", 12, image_size=64, pretrained=False).eval()
    with torch.no_grad():
        vectors, grid = _clip_mapped(trunk, torch.randn(2, 3, 64, 64))
    assert (tuple(vectors.shape), tuple(grid.shape)) == ((2, 12), (2, 2, 2, 256))


def test_a_distilled_encoder_can_teach_the_next_one(tmp_path: Path) -> None:
    config = teacher(tmp_path / "teacher", dim=20)
    found, images = opened(config, spatial=True), pixels(48)
    np.testing.assert_allclose(unit(found(NONE, images).vectors), embedded(config, images), atol=1e-5)
    assert (found.dim, found.side, found.grid) == (20, 48, (2, 2, 96))
    trainer = EncoderTrainer(job(tmp_path, network=config), LocalReporter(tmp_path / "run"))
    assert trainer.student.encoder.head[1].out_features == 20  # type: ignore[index, union-attr]


def test_student_and_teacher_see_one_crop_at_the_larger_size() -> None:
    student = timm_preprocess("test_byobnet", 64, 80)
    assert common_input(student, 0) is student
    assert common_input(student, 48) is student
    common = common_input(student, 96)
    assert (common.input_size, common.resize, common.stored_side) == (96, 120, 180)
    assert (common.mean, common.std) == (student.mean, student.std)
    images = pixels(96)
    assert resized(images, 96, 96) is images
    expected = np.asarray(Image.fromarray(images[0].numpy()).resize((48, 48), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resized(images, 48, 48)[0].numpy(), expected, atol=1)


def test_maps_that_a_teacher_does_not_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fgvr.training.encoder_teacher.grid_of", lambda *_: None)
    config = teacher(tmp_path / "teacher")
    assert opened(config, spatial=True).grid is None
    assert [
        term.name for term in EncoderTrainer(job(tmp_path, network=config), LocalReporter(tmp_path / "run")).terms
    ] == ["vector_loss"]
    with pytest.raises(EncoderTrainingError, match=r"distill\.spatial_weight: the teacher's network has no feature"):
        opened(config, spatial=True, asked=True)
