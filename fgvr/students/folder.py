"""A trained student as a folder: `model.json` and `model.safetensors`, the weights under timm's own names.

The weights load into `timm.create_model(backbone, num_classes=C + Q)` without this package.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import fgvr
from fgvr.models.base import MODEL_FILE, WEIGHTS_FILE, ModelFolderError, read_model_file
from fgvr.precision import Precision
from fgvr.students.architecture import StudentSpec, build_student
from fgvr.students.preprocess import Preprocess

FORMAT = 1
KIND = "student"


def save_student(folder: Path, spec: StudentSpec, weights: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write a model folder.

    Args:
        folder: made if it is not there; its `model.json` is written last.
        spec: how to build the student.
        weights: its state dict, on any device.
        facts: what else is worth knowing about it (training, measured quality); JSON types only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Dense copies: a state dict may hold views of one tensor or channels-last memory, which the format cannot.
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
    content = {
        "format": FORMAT,
        "kind": KIND,
        "backbone": spec.backbone,
        "backbone_args": spec.backbone_args,
        "preprocess": asdict(spec.preprocess),
        "labels": spec.labels,
        "questions": spec.questions,
        "precision": spec.precision,
        "versions": {"fgvr": fgvr.__version__, "timm": timm.__version__, "torch": version("torch")},
        "facts": facts,
    }
    (folder / MODEL_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def load_student(folder: Path, device: str | torch.device = "cpu") -> tuple[StudentSpec, nn.Module]:
    """The student in a folder, in eval mode; raises ModelFolderError where it is damaged or of another kind."""
    content = read_model_file(folder)
    if content["kind"] != KIND or content.get("format") != FORMAT:
        raise ModelFolderError(
            f"{folder / MODEL_FILE}: kind {content['kind']!r}, format {content.get('format')}; "
            f"expected a {KIND} of format {FORMAT}"
        )
    try:
        sizes, precision = content["preprocess"], content.get("precision")
        if precision not in {None, *get_args(Precision)}:
            raise ModelFolderError(f"{folder / MODEL_FILE}: precision {precision!r} is unknown")
        spec = StudentSpec(
            backbone=content["backbone"],
            backbone_args=content["backbone_args"],
            labels=tuple(content["labels"]),
            questions=tuple(content["questions"]),
            preprocess=Preprocess(**{**sizes, "mean": tuple(sizes["mean"]), "std": tuple(sizes["std"])}),
            precision=precision,
        )
    except (KeyError, TypeError) as error:
        raise ModelFolderError(f"{folder / MODEL_FILE} is damaged: {error!r}") from None
    model = build_student(spec)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise ModelFolderError(f"{folder / WEIGHTS_FILE} does not fit {MODEL_FILE}: {error}") from None
    return spec, model.eval().to(device)
