"""A distilled encoder: a timm model, and the head that turns its features into another encoder's vectors.

Its folder is one that timm itself reads (`config.json` and `model.safetensors`: the backbone without a classifier),
with the head beside it: `head.safetensors`, described by `model.json`, which is written last. `embed.vectors.kind timm`
finds the head and gives vectors in the teacher's space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fgvr
from fgvr.errors import UserError
from fgvr.models.base import MODEL_FILE, WEIGHTS_FILE, ModelFolderError, read_file_of_kind, write_model_file
from fgvr.models.student import Preprocess, StudentError, check_backbone, timm_preprocess

KIND: Final = "encoder"
FORMAT: Final = 1
CONFIG_FILE: Final = "config.json"
HEAD_FILE: Final = "head.safetensors"
FIELD: Final = "distill.backbone"
Weights = Mapping[str, Tensor]


class DistilledError(UserError, ValueError):
    """The small encoder cannot be built; the message names the config field and what to do."""


class DistilledEncoder(nn.Module):
    """A backbone without a classifier, and layer normalisation and a linear layer behind it (Proteus).

    Attributes:
        backbone: timm's model: float32 [N, 3, S, S] → features [N, f].
        head: features [N, f] → vectors in the teacher's space [N, d], of any length.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors [N, d] of normalised images [N, 3, S, S]."""
        return cast("Tensor", self.head(self.backbone(pixels)))


def new_head(features: int, dim: int) -> nn.Module:
    """A head with random weights: layer normalisation, then a linear layer, on the last axis."""
    return nn.Sequential(nn.LayerNorm(features), nn.Linear(features, dim))


@dataclass(frozen=True)
class DistilledSpec:
    """Everything needed to rebuild a distilled encoder, except its weights and the width of its teacher's space.

    Attributes:
        backbone: timm's name of the architecture.
        preprocess: its image preprocessing.
        backbone_args: further arguments of `timm.create_model`.
    """

    backbone: str
    preprocess: Preprocess
    backbone_args: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, backbone: str, image_size: int, resize: int | None, backbone_args: dict[str, Any]) -> DistilledSpec:
        """With timm's mean and standard deviation; raises DistilledError for a backbone that timm does not have."""
        try:
            check_backbone(backbone, FIELD)
        except StudentError as error:
            raise DistilledError(str(error)) from None
        return cls(backbone, timm_preprocess(backbone, image_size, resize), backbone_args)

    def arguments(self) -> dict[str, Any]:
        """Arguments of `timm.create_model`: vision transformers have one position embedding per patch."""
        facts = timm.get_pretrained_cfg(self.backbone.partition(".")[0])
        fixed = facts is not None and facts.fixed_input_size
        return ({"img_size": self.preprocess.input_size} if fixed else {}) | self.backbone_args


def build_backbone(spec: DistilledSpec) -> tuple[nn.Module, int]:
    """The backbone with random weights and without a classifier, channels-last; and the number of its features.

    Raises:
        DistilledError: timm cannot build it with this input size and these arguments, or it gives no vector per image.
    """
    side, arguments = spec.preprocess.input_size, spec.arguments()
    try:
        model = timm.create_model(spec.backbone, pretrained=False, num_classes=0, **arguments)
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(1, 3, side, side)).shape)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise DistilledError(
            f"{FIELD} {spec.backbone!r} cannot be built for {side} px with arguments {arguments}: {error}"
        ) from error
    if len(shape) != 2:
        raise DistilledError(f"{FIELD} {spec.backbone!r} gives features of shape {shape[1:]}; a vector is needed")
    return cast("nn.Module", model).to(memory_format=torch.channels_last), shape[1]  # type: ignore[call-overload]


def save_distilled(
    folder: Path, spec: DistilledSpec, weights: Weights, teacher: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """Write the folder of an encoder.

    Args:
        folder: created if missing; its `model.json` is written last.
        spec: how to build the backbone.
        weights: the state dict of a `DistilledEncoder`, on any device; other tensors are ignored.
        teacher: what identifies the encoder whose vectors it learned; JSON types only.
        facts: further facts (training, measured quality); JSON types only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backbone, head = of_part(weights, "backbone"), of_part(weights, "head")
    save_file(backbone, folder / WEIGHTS_FILE)
    save_file(head, folder / HEAD_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(_timm_config(spec), indent=1), encoding="utf-8")
    dim, features = _widths(head)
    content = {
        "dim": dim,
        "features": features,
        "teacher": dict(teacher),
        "versions": {"fgvr": fgvr.__version__, "timm": timm.__version__, "torch": version("torch")},
        "facts": dict(facts),
    }
    write_model_file(folder, KIND, FORMAT, content)


def _timm_config(spec: DistilledSpec) -> dict[str, Any]:
    """`config.json` as timm writes it; bilinear, as crops are resized in training."""
    sizes = spec.preprocess
    return {
        "architecture": spec.backbone.partition(".")[0],
        "num_classes": 0,
        "model_args": spec.arguments(),
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, sizes.input_size, sizes.input_size],
            "interpolation": "bilinear",
            "crop_pct": sizes.input_size / sizes.resize,
            "crop_mode": "center",
            "mean": list(sizes.mean),
            "std": list(sizes.std),
        },
    }


def of_part(weights: Weights, part: str) -> dict[str, Tensor]:
    """The tensors of one part of a model, by their names in that part: dense copies on the CPU, for safetensors."""
    start = f"{part}."
    found = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    return {name: value.detach().cpu().contiguous() for name, value in found.items()}


def _widths(head: Weights) -> tuple[int, int]:
    """Width of a head's vectors, and of the features that it takes."""
    dim, features = head["1.weight"].shape
    return int(dim), int(features)


def load_head(folder: Path, features: int) -> nn.Module | None:
    """The head in an encoder's folder, in evaluation mode; None for a folder without one, as timm itself saves it.

    Args:
        folder: as `save_distilled` writes it.
        features: number of features that the folder's backbone gives.

    Raises:
        ModelFolderError: the folder is damaged or of another kind, or its files are of different widths.
    """
    if not (folder / MODEL_FILE).exists():
        return None
    facts, file = read_file_of_kind(folder, KIND, FORMAT, ("dim", "features")), folder / HEAD_FILE
    try:
        weights = load_file(file)
        widths = _widths(weights)
    except (SafetensorError, FileNotFoundError, KeyError, ValueError) as error:
        raise ModelFolderError(f"{file} is not the head of an encoder: {error}") from None
    if widths != (facts["dim"], facts["features"]):
        raise ModelFolderError(
            f"{folder / MODEL_FILE} says a head from {facts['features']} features to {facts['dim']} numbers, and "
            f"{HEAD_FILE} has {widths[1]} and {widths[0]}: files of two encoders"
        )
    if widths[1] != features:
        raise ModelFolderError(
            f"{file} is for {widths[1]} features, and the backbone beside it gives {features}: files of two encoders"
        )
    head = new_head(features, widths[0])
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFolderError(f"{file} is not the head of an encoder: {error}") from None
    return head.eval()
