"""Any timm model as a student: C class outputs followed by Q aspect outputs."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, cast

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from fgvr.errors import UserError
from fgvr.precision import Precision
from fgvr.students.preprocess import STORED_PER_INPUT, Preprocess


class StudentError(UserError, ValueError):
    """A student that cannot be built; the message names the config field and what to do."""


@dataclass(frozen=True)
class StudentSpec:
    """All that is needed to build a student again, save its weights.

    Attributes:
        backbone: timm's name of the architecture.
        labels: names of the C classes.
        questions: the Q aspect questions; empty for the base student.
        preprocess: how it sees photos.
        backbone_args: further arguments of `timm.create_model` (drop_rate, drop_path_rate …).
        precision: of its activations in training and validation, which inference keeps; None: not known.
    """

    backbone: str
    labels: tuple[str, ...]
    questions: tuple[str, ...]
    preprocess: Preprocess
    backbone_args: dict[str, Any] = field(default_factory=dict)
    precision: Precision | None = None

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [N, C] and aspect logits [N, Q] of outputs [N, C + Q]."""
        return outputs[:, : len(self.labels)], outputs[:, len(self.labels) :]

    def predicted(self, outputs: Tensor) -> Tensor:
        """Class ids [N]: the arg max over the class outputs only (the official code takes it over all C + Q)."""
        return self.split(outputs)[0].argmax(dim=1)


def check_backbone(name: str) -> None:
    """Raise StudentError, with names that are close, where timm has no such architecture.

    Only names in timm's own registry pass: an `hf-hub:` name would be fetched, and students start from scratch.
    """
    architecture = name.partition(".")[0]
    if timm.is_model(architecture):
        return
    known = timm.list_models()
    close = difflib.get_close_matches(architecture, known, n=4, cutoff=0.6)
    hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists all"
    raise StudentError(f"makd.backbone {name!r}: timm has no such model; {hint}")


def timm_preprocess(backbone: str, input_size: int, resize: int | None = None) -> Preprocess:
    """The preprocessing of a student: sizes as asked, mean and standard deviation as timm states them for the model."""
    check_backbone(backbone)
    facts = timm.get_pretrained_cfg(backbone.partition(".")[0])
    mean = facts.mean if facts is not None else IMAGENET_DEFAULT_MEAN
    std = facts.std if facts is not None else IMAGENET_DEFAULT_STD
    return Preprocess(
        input_size=input_size,
        resize=resize or input_size,
        stored_side=round(STORED_PER_INPUT * (resize or input_size)),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )


def build_student(spec: StudentSpec) -> nn.Module:
    """A student with random weights: float32 [N, 3, S, S] → logits [N, C + Q], channels-last.

    Raises:
        StudentError: timm has no such model, or it cannot be built with this input size and these arguments.
    """
    check_backbone(spec.backbone)
    if not spec.labels:
        raise StudentError("a student needs at least one class")
    outputs = len(spec.labels) + len(spec.questions)
    arguments = dict(spec.backbone_args)
    facts = timm.get_pretrained_cfg(spec.backbone.partition(".")[0])
    if facts is not None and facts.fixed_input_size:  # transformers have a position embedding for each patch
        arguments.setdefault("img_size", spec.preprocess.input_size)
    side = spec.preprocess.input_size
    try:
        model = cast("nn.Module", timm.create_model(spec.backbone, pretrained=False, num_classes=outputs, **arguments))
        with torch.no_grad():
            model.eval()
            shape = tuple(model(torch.zeros(1, 3, side, side)).shape)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise StudentError(
            f"makd.backbone {spec.backbone!r} cannot be built for {side} px with arguments {arguments}: {error}"
        ) from error
    if shape != (1, outputs):
        raise StudentError(f"makd.backbone {spec.backbone!r} gives outputs {shape} where (1, {outputs}) are needed")
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
