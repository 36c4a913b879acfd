"""One interface for all image encoders: found by their config, loaded on a device, kept with a model that needs them.

A classifier over stored vectors needs the encoder that made them, for images that come later: `save_encoder` writes
what it takes into the model's folder, and `saved_encoder` gives the config with which `load_encoder` loads it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from fgvr.arrays import Floats
from fgvr.clip.model import load_clip
from fgvr.clip.source import find_clip
from fgvr.clip.source import pinned as pinned_clip
from fgvr.config.model_names import LOCAL
from fgvr.config.models import Clip
from fgvr.config.vectors import TimmVectors
from fgvr.encoders.distilled import FACTS_FILE, HEAD_FILE
from fgvr.encoders.timm_folder import CONFIG_FILE
from fgvr.encoders.timm_model import load_timm
from fgvr.encoders.timm_source import find_timm
from fgvr.encoders.timm_source import pinned as pinned_timm
from fgvr.precision import Precision
from fgvr.tables import Table

EncoderConfig = Clip | TimmVectors
"""The config part that names an encoder."""
CLIP_FOLDER, TIMM_FOLDER = "clip", "encoder"
"""Folders in a model's folder that hold an encoder's files."""


class Encoder(Protocol):
    """An image encoder on a device.

    `preprocess` is separate from `encode` so that threads can run it while images are read.
    """

    @property
    def dim(self) -> int:
        """Length d of a vector."""
        ...

    @property
    def image_size(self) -> int:
        """The longer side of the input, pixels."""
        ...

    @property
    def short_side(self) -> int:
        """Pixels that an image's shorter side needs before `preprocess`; files must be read at this size."""
        ...

    @property
    def preprocess(self) -> Any:
        """The function from an RGB image to the input, float32 [3, H, W] on the CPU, without a batch axis."""
        ...

    def encode(self, pixels: Tensor) -> Floats:
        """Vectors of a stacked batch of inputs [n, 3, H, W]: L2-normalised float32 [n, d]."""
        ...


def load_encoder(
    config: EncoderConfig, device: str | torch.device = "cpu", precision: Precision | None = None
) -> Encoder:
    """Load an encoder.

    Args:
        config: the part that names it.
        device: where it runs.
        precision: precision in which a table was begun; None: the device's default.

    Raises:
        ClipError, TimmError: it cannot be found, fetched or used.
        PrecisionError: the device does not support the precision.
    """
    match config:
        case Clip():
            return load_clip(config, device, precision)
        case TimmVectors():
            return load_timm(find_timm(config), device, precision)


def encode_images(encoder: Encoder, images: list[Image.Image]) -> Floats:
    """Vectors of RGB images, L2-normalised float32 [N, d]; at least one image."""
    return encoder.encode(torch.stack([encoder.preprocess(image) for image in images]))


def pinned_encoder(config: EncoderConfig) -> EncoderConfig:
    """The same encoder, with a hub name pinned to its current commit; raises ClipError or TimmError."""
    match config:
        case Clip():
            return pinned_clip(config)
        case TimmVectors():
            return pinned_timm(config)


def encoder_identity(config: EncoderConfig) -> dict[str, str | None]:
    """What identifies the encoder in fingerprints, wherever its files lie; of CLIP with `kind: clip`."""
    match config:
        case Clip():
            return {"kind": "clip", **find_clip(config).identity()}
        case TimmVectors():
            return {**find_timm(config).identity()}


def identity_of_vectors(embeddings: Table) -> dict[str, str | None]:
    """Identity of the encoder whose vectors a table holds, as `encoder_identity` gives it.

    Of a file of vectors without an encoder `{"kind": "file", …}`, of made-up vectors `{"kind": "simulated"}`: neither
    can be computed for further images.
    """
    extra = embeddings.extra
    if "encoder" in extra:
        return dict(extra["encoder"])
    return {"kind": "clip", **extra["clip"]} if "clip" in extra else {"kind": "simulated"}


def save_encoder(config: EncoderConfig, folder: Path) -> dict[str, Any]:
    """Write what a model's folder needs of the encoder; returns its reference, JSON types, for `saved_encoder`.

    Files that came from a folder of the user's are copied, since that folder may be gone when the model is used; a hub
    name is kept with its commit.
    """
    config = pinned_encoder(config)
    reference: dict[str, Any] = {"identity": encoder_identity(config), "bundled": False}
    match config:
        case Clip():
            clip = find_clip(config)
            if clip.folder is not None:
                shutil.copytree(clip.folder, folder / CLIP_FOLDER, dirs_exist_ok=True)
                reference["bundled"] = True
            named = {"model": clip.name, "pretrained": clip.origin or clip.pretrained, "revision": clip.commit}
        case TimmVectors():
            timm = find_timm(config)
            if timm.weights is not None:
                place = folder / TIMM_FOLDER
                place.mkdir(parents=True, exist_ok=True)
                safe = timm.weights.suffix.lower() == ".safetensors"
                shutil.copyfile(timm.weights, place / ("model.safetensors" if safe else "pytorch_model.bin"))
                facts = {"architecture": timm.architecture, "pretrained_cfg": timm.data, "model_args": timm.model_args}
                (place / CONFIG_FILE).write_text(json.dumps(facts, indent=1), encoding="utf-8")
                if timm.folder is not None and (timm.folder / FACTS_FILE).is_file():  # distilled: its head
                    for name in (HEAD_FILE, FACTS_FILE):
                        shutil.copyfile(timm.folder / name, place / name)
                reference["bundled"] = True
            named = {"model": config.model, "revision": config.revision}
    return reference | ({} if reference["bundled"] else named)


def saved_encoder(reference: dict[str, Any], folder: Path) -> EncoderConfig:
    """The config part of an encoder that `save_encoder` kept in this folder."""
    clip = reference["identity"]["kind"] == "clip"
    if reference["bundled"]:
        place = f"{LOCAL}{folder.absolute() / (CLIP_FOLDER if clip else TIMM_FOLDER)}"
        return Clip(model=place) if clip else TimmVectors(model=place)
    named = {name: reference[name] for name in ("model", "pretrained", "revision") if name in reference}
    return Clip(**named) if clip else TimmVectors(**named)
