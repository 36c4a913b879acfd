"""A distilled encoder: how it is built, and its folder.

The folder is one that timm itself reads (`config.json` and `model.safetensors`: the backbone without a classifier),
with the head beside it that maps into the teacher's space (`fgvr.encoders.distilled`). `embed.vectors.kind timm` finds
the head and gives vectors in that space.
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
from safetensors.torch import save_file
from torch import Tensor, nn

import fgvr
from fgvr.encoders.distilled import save_head
from fgvr.encoders.timm_folder import CONFIG_FILE
from fgvr.errors import UserError
from fgvr.models.base import WEIGHTS_FILE
from fgvr.models.student import Preprocess, StudentError, check_backbone, timm_preprocess

FIELD: Final = "distill.backbone"
Weights = Mapping[str, Tensor]


class DistilledError(UserError, ValueError):
    """The small encoder cannot be built; the message names the config field and what to do."""


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
    save_file(_of_part(weights, "backbone"), folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(_timm_config(spec), indent=1), encoding="utf-8")
    content = {
        "teacher": dict(teacher),
        "versions": {"fgvr": fgvr.__version__, "timm": timm.__version__, "torch": version("torch")},
        "facts": dict(facts),
    }
    save_head(folder, _of_part(weights, "head"), content)


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


def _of_part(weights: Weights, part: str) -> dict[str, Tensor]:
    """The tensors of one part of a model, by their names in that part: dense copies on the CPU, for safetensors."""
    start = f"{part}."
    found = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in found.items()}
