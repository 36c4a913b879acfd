"""A student as a folder that timm itself loads: `timm.create_model("local-dir:FOLDER")`, without fgvr.

Source: timm's format of a folder (`config.json` with `architecture`, `num_classes`, `label_names`, `model_args` and
`pretrained_cfg`, beside `model.safetensors`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import timm
import torch
from safetensors.torch import save

from fgvr.encoders.timm_folder import CONFIG_FILE
from fgvr.export.onnx_model import example_pixels
from fgvr.export.places import Destination, ExportError
from fgvr.models.base import WEIGHTS_FILE, read_model_file
from fgvr.models.student import StudentSpec, load_student

OURS: Final = "fgvr_"
"""Names of networks that timm knows only where fgvr registers them begin so."""
TRIED: Final = 3
TOLERANCE: Final = 1e-4
"""Largest difference of a logit; it may come from another order of sums alone."""


def export_timm(folder: Path, to: Destination) -> dict[str, Any]:
    """`config.json` and `model.safetensors`: the network with its C class outputs, without aspects and choices.

    Args:
        folder: a student's folder on this machine.
        to: where.

    Raises:
        ExportError: no student, a network that timm alone cannot build, or one that would give other logits.
        ModelFolderError: the folder is damaged.
    """
    kind = read_model_file(folder)["kind"]
    if kind != "student":
        raise ExportError(f"--to timm: a model of kind {kind} is no network of timm; --model base or makd are")
    spec, model = load_student(folder)
    if spec.metadata is not None:
        raise ExportError("--to timm: this student sees columns beside the photo, which timm has no network for")
    if spec.backbone.startswith(OURS):
        raise ExportError(f"--to timm: timm does not know {spec.backbone}, which is fgvr's own; --to onnx does")
    config = timm_config(spec)
    network = timm.create_model(
        config["architecture"], pretrained=False, num_classes=config["num_classes"], **config["model_args"]
    )
    weights = class_weights(model.state_dict(), network.state_dict(), len(spec.labels))
    network.load_state_dict(weights)
    worst = _difference(spec, model, network.eval())
    if not worst <= TOLERANCE:
        raise ExportError(f"--to timm: without its other outputs the network gives other logits (by {worst:.2g})")
    to.write(WEIGHTS_FILE, save(weights, {"format": "pt"}))
    to.write(CONFIG_FILE, json.dumps(config, indent=1, ensure_ascii=False).encode())
    facts = {"architecture": config["architecture"], "names": len(spec.labels), "largest_difference": worst}
    return to.finish(facts | {"trained_in": spec.precision})


def timm_config(spec: StudentSpec) -> dict[str, Any]:
    """The content of `config.json`. timm's own resizing differs a little from that in training (PIL, not OpenCV)."""
    sizes = spec.preprocess
    side = [3, sizes.input_size, sizes.input_size]
    facts = timm.get_pretrained_cfg(spec.backbone.partition(".")[0])
    arguments = dict(spec.backbone_args)
    if facts is not None and facts.fixed_input_size:
        arguments.setdefault("img_size", sizes.input_size)
    classes = len(spec.labels)
    return {
        "architecture": spec.backbone.partition(".")[0],
        "num_classes": classes,
        "label_names": list(spec.labels),
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": side,
            "fixed_input_size": bool(facts is not None and facts.fixed_input_size),
            "interpolation": "bilinear",
            "crop_pct": sizes.input_size / sizes.resize,
            "crop_mode": "center",
            "mean": list(sizes.mean),
            "std": list(sizes.std),
        },
    }


def class_weights(
    weights: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], classes: int
) -> dict[str, torch.Tensor]:
    """The weights without the rows of other outputs: what has more rows than `wanted` keeps the first `classes`.

    Raises:
        ExportError: other tensors, or one whose shape differs in more than the number of outputs.
    """
    found = {}
    for name, tensor in weights.items():
        shape = wanted[name].shape if name in wanted else None
        if shape is not None and tensor.shape != shape and (shape[0], *tensor.shape[1:]) == (classes, *shape[1:]):
            tensor = tensor[:classes]  # noqa: PLW2901
        if shape is None or tensor.shape != shape:
            raise ExportError(f"--to timm: the weights {name} do not fit timm's network")
        found[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return found


@torch.inference_mode()
def _difference(spec: StudentSpec, model: torch.nn.Module, network: torch.nn.Module) -> float:
    images = spec.preprocess.normalise(
        example_pixels(TRIED, spec.preprocess.input_size).permute(0, 2, 3, 1).contiguous()
    )
    return float((spec.split(model(images))[0] - network(images)).abs().max())
