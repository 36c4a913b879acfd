"""Photos of which an encoder can learn something, and jobs to distil encoders from vectors or a network, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fgvr.config import Distill, ImageLimits, TimmVectors
from fgvr.encoders.distilled import new_head
from fgvr.encoders.encoder import encode_images, load_encoder
from fgvr.models.distilled import DistilledSpec, build_backbone, save_distilled
from fgvr.training.encoder_data import EncoderJob
from fgvr.training.encoder_examples import EncoderExamples

SIDE = 32


def photos(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Two colours, one above the other, with noise: what differs is still there in a crop."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    uris = [str(folder / f"{n}.png") for n in range(count)]
    for uri in uris:
        pixels = rng.uniform(0, 255, (2, 1, 3)).repeat(20, axis=0).repeat(40, axis=1) + rng.normal(0, 10, (40, 40, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(uri)
    return uris


def teacher(folder: Path, backbone: str = "test_resnet", side: int = 48, dim: int | None = None) -> TimmVectors:
    """A network with random weights as a folder of timm; with a head of width `dim` where that is given."""
    spec = DistilledSpec.of(backbone, side, None, {})
    torch.manual_seed(7)
    network, features = build_backbone(spec)
    head = new_head(features, dim or features)
    weights = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    weights |= {f"head.{name}": value for name, value in head.state_dict().items()}
    save_distilled(folder, spec, weights, {"kind": "made up"}, {})
    if dim is None:
        for name in ("model.json", "head.safetensors"):
            (folder / name).unlink()
    return TimmVectors(model=str(folder))


def vectors_of(encoder: TimmVectors, uris: list[str]) -> np.ndarray:
    """As embed stores them."""
    return encode_images(load_encoder(encoder), [Image.open(uri) for uri in uris]).astype(np.float16)


def job(
    tmp_path: Path,
    count: int = 48,
    *,
    held: int = 0,
    vectors: np.ndarray | None = None,
    network: TimmVectors | None = None,
    uris: list[str] | None = None,
    **settings: Any,
) -> EncoderJob:
    """A job of a few steps per epoch; from stored vectors unless a network is given."""
    values: dict[str, Any] = {"backbone": "test_byobnet", "image_size": SIDE, "epochs": 3, "batch_size": 8}
    values |= {"lr": 0.05, "warmup_epochs": 0, "ema_epochs": 0.5, **settings}
    if network is not None:
        values["teacher"] = network.model_dump()
    recipe = Distill.model_validate(values)
    uris = photos(tmp_path / "photos", count) if uris is None else uris
    if network is None and vectors is None:
        vectors = np.random.default_rng(1).normal(size=(len(uris), 24)).astype(np.float16)
    examples = EncoderExamples(np.arange(len(uris)), uris, np.arange(len(uris)) >= len(uris) - held, "v1", vectors)
    examples.write(str(tmp_path / "examples"))
    spec = DistilledSpec.of(recipe.backbone, recipe.image_size, recipe.resize, recipe.backbone_args)
    cache = str(tmp_path / "cache")
    return EncoderJob(str(tmp_path / "examples"), spec, recipe, ImageLimits(), network, {"kind": "test"}, cache=cache)
