"""Students: small timm models with class and aspect outputs, their image preprocessing, and their model folders."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt
import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

import fgvr
from fgvr.config.data import ImageLimits
from fgvr.errors import UserError
from fgvr.forward_pass import in_passes
from fgvr.images.read import decode_pixels
from fgvr.metadata.fitted import MetadataFormatError
from fgvr.mllm.choices import ChoiceQuestion
from fgvr.models import t2t_vit  # noqa: F401  # registers its networks with timm
from fgvr.models.base import (
    MODEL_FILE,
    WEIGHTS_FILE,
    ModelFolderError,
    Outputs,
    PreparedClassifier,
    Texts,
    read_file_of_kind,
    write_model_file,
)
from fgvr.models.fused import FusedStudent, StudentMetadata
from fgvr.models.sentences import sentences_for
from fgvr.precision import Precision, autocast, of_model

# Preprocessing of photos: the same few steps in training, validation and inference.
#
# A photo is first shrunk to `stored_side` (the size at which training stores decoded images), then cropped. Inference
# uses the same two steps as validation, on files decoded for the same `stored_side`, so both see the same pixels. Crops
# are taken before resizing, so that a photo of 1 × 50,000 pixels is never enlarged on the way.

Pixels = npt.NDArray[np.uint8]

STORED_PER_INPUT = 1.5
"""Stored shorter side / input side: random crops keep most of their detail, and a photo takes 0.35 MB at 224 px."""


@dataclass(frozen=True)
class Preprocess:
    """Sizes and normalisation of a student's input.

    Attributes:
        input_size: side of the square input, pixels.
        resize: shorter side before the centre crop of validation and inference (paper: the input size itself;
            256 for 224 on ImageNet-like photos, whose subject is in the middle).
        stored_side: upper bound for the shorter side of stored images; smaller photos are not resized.
        mean: of the RGB channels, for pixels in 0 … 1.
        std: standard deviations of the RGB channels.
    """

    input_size: int
    resize: int
    stored_side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not 1 <= self.input_size <= self.resize:
            raise ValueError(f"resize {self.resize} is smaller than the input size {self.input_size}: no crop fits")

    def shrink(self, image: Pixels) -> Pixels:
        """The image with a shorter side of at most `stored_side`: uint8 [H, W, 3], its aspect ratio kept."""
        height, width = image.shape[:2]
        factor = self.stored_side / min(height, width)
        if factor >= 1:
            return image
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        return _pixels(cv2.resize(image, size, interpolation=cv2.INTER_AREA))

    def centre_crop(self, image: Pixels) -> Pixels:
        """The middle of the image as Resize(resize) and CenterCrop(input_size) take it, uint8 [S, S, 3]."""
        height, width = image.shape[:2]
        side = max(1, round(min(height, width) * self.input_size / self.resize))
        return self.crop(image, ((height - side) // 2, (width - side) // 2, side, side))

    def crop(self, image: Pixels, box: tuple[int, int, int, int], *, flip: bool = False) -> Pixels:
        """A box (top, left, height, width) of the image, resized to the input and perhaps mirrored, uint8 [S, S, 3]."""
        top, left, height, width = box
        part = image[top : top + height, left : left + width]
        # Bilinear interpolation reads two pixels per side: shrinking by more than two would skip some.
        shrinks = min(height, width) > 2 * self.input_size
        size = (self.input_size, self.input_size)
        resized = cv2.resize(part, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return _pixels(resized[:, ::-1] if flip else resized)

    def prepare(self, image: Image.Image) -> Pixels:
        """An RGB image of any size as the student's input before normalisation, uint8 [S, S, 3]."""
        return self.prepare_pixels(np.asarray(image if image.mode == "RGB" else image.convert("RGB")))

    def prepare_pixels(self, image: Pixels) -> Pixels:
        """The same for an image as an array, uint8 [H, W, 3]."""
        return np.ascontiguousarray(self.centre_crop(self.shrink(image)))

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 [N, S, S, 3] as the float32 input [N, 3, S, S], still channels-last in memory, on the same device."""
        std, width = torch.tensor(self.std), batch.shape[2]
        # Creating them on the device would make the CPU wait for the GPU's queue. They are repeated for a whole row of
        # pixels: along only three channels a CPU processes elements one by one.
        scale = (1 / (255 * std)).repeat(width).to(batch.device, non_blocking=True)
        shift = (torch.tensor(self.mean) / std).repeat(width).to(batch.device, non_blocking=True)
        rows = (batch.flatten(2).float() * scale).sub_(shift)
        return rows.view(batch.shape).permute(0, 3, 1, 2)


def _pixels(array: object) -> Pixels:
    """Gives cv2's results a precise type."""
    return np.asarray(array, dtype=np.uint8)


# Any timm model as a student: C class outputs, Q aspect outputs, and an output per option of its choice questions.


class StudentError(UserError, ValueError):
    """The student cannot be built; the message names the config field and what to do."""


@dataclass(frozen=True)
class StudentSpec:
    """Everything needed to rebuild a student, except its weights.

    Attributes:
        backbone: timm's name of the architecture.
        labels: names of the C classes.
        questions: the Q aspect questions; empty for the base student.
        preprocess: its image preprocessing.
        backbone_args: further arguments of `timm.create_model` (drop_rate, drop_path_rate …).
        precision: precision of its activations in training and validation, also used in inference; None: not known.
        choices: the multiple-choice questions whose answers about its class it learned; their K options have the last
            outputs, which only training uses.
        metadata: what it learned from columns beside the photo; None: it sees photos alone.
    """

    backbone: str
    labels: tuple[str, ...]
    questions: tuple[str, ...]
    preprocess: Preprocess
    backbone_args: dict[str, Any] = field(default_factory=dict)
    precision: Precision | None = None
    choices: tuple[ChoiceQuestion, ...] = ()
    metadata: StudentMetadata | None = None

    @property
    def outputs(self) -> int:
        """C + Q + K, the number of outputs."""
        return len(self.labels) + len(self.questions) + sum(len(each.options) for each in self.choices)

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [N, C] and aspect logits [N, Q] of outputs [N, C + Q + K]."""
        classes, aspects = len(self.labels), len(self.questions)
        return outputs[:, :classes], outputs[:, classes : classes + aspects]

    def choice_logits(self, outputs: Tensor) -> Tensor:
        """Logits [N, K] of the options of all choice questions side by side, of outputs [N, C + Q + K]."""
        return outputs[:, len(self.labels) + len(self.questions) :]

    def predicted(self, outputs: Tensor) -> Tensor:
        """Class ids [N]: the arg max over the class outputs only (the official code takes it over all outputs)."""
        return self.split(outputs)[0].argmax(dim=1)


def check_backbone(name: str, field: str = "makd.backbone") -> None:
    """Raise StudentError, with similar names, if timm has no such architecture.

    Only names in timm's own registry pass: an `hf-hub:` name would fetch weights, which `makd.weights` names.
    """
    architecture = name.partition(".")[0]
    if timm.is_model(architecture):
        return
    known = timm.list_models()
    close = difflib.get_close_matches(architecture, known, n=4, cutoff=0.6)
    hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists all"
    raise StudentError(f"{field} {name!r}: timm has no such model; {hint}")


def timm_preprocess(
    backbone: str,
    input_size: int,
    resize: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> Preprocess:
    """The preprocessing of a student: the given sizes, mean and standard deviation, or timm's for the model."""
    check_backbone(backbone)
    facts = timm.get_pretrained_cfg(backbone.partition(".")[0])
    mean = mean or (facts.mean if facts is not None else IMAGENET_DEFAULT_MEAN)
    std = std or (facts.std if facts is not None else IMAGENET_DEFAULT_STD)
    return Preprocess(
        input_size=input_size,
        resize=resize or input_size,
        stored_side=round(STORED_PER_INPUT * (resize or input_size)),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )


def build_student(spec: StudentSpec) -> nn.Module:
    """A student with random weights: float32 [N, 3, S, S] → logits [N, C + Q + K], channels-last.

    Raises:
        StudentError: timm has no such model, or cannot build it with this input size and these arguments.
    """
    check_backbone(spec.backbone)
    if not spec.labels:
        raise StudentError("a student needs at least one class")
    outputs = spec.outputs
    arguments = dict(spec.backbone_args)
    facts = timm.get_pretrained_cfg(spec.backbone.partition(".")[0])
    if facts is not None and facts.fixed_input_size:  # vision transformers have one position embedding per patch
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
    if spec.metadata is not None:
        model = FusedStudent(model, outputs, spec.metadata).eval()
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


# A trained student as a folder: `model.json` and `model.safetensors`, the weights under timm's own names.
#
# The weights load into `timm.create_model(backbone, num_classes=C + Q + K)` without this package.

FORMAT = 1
KIND = "student"


def save_student(folder: Path, spec: StudentSpec, weights: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write a model folder.

    Args:
        folder: created if missing; its `model.json` is written last.
        spec: how to build the student.
        weights: the state dict, on any device.
        facts: further facts (training, measured quality); JSON types only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Dense copies: a state dict may hold views of one tensor or channels-last memory, which safetensors cannot store.
    save_file({name: _dense(tensor) for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
    content = {
        "backbone": spec.backbone,
        "backbone_args": spec.backbone_args,
        "preprocess": asdict(spec.preprocess),
        "labels": spec.labels,
        "questions": spec.questions,
        "choices": [each.texts for each in spec.choices],
        "precision": spec.precision,
        **({} if spec.metadata is None else {"metadata": spec.metadata.to_json()}),
        "versions": {"fgvr": fgvr.__version__, "timm": timm.__version__, "torch": version("torch")},
        "facts": facts,
    }
    write_model_file(folder, KIND, FORMAT, content)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def load_student(folder: Path, device: str | torch.device = "cpu") -> tuple[StudentSpec, nn.Module]:
    """The student in a folder, in eval mode; raises ModelFolderError if it is damaged or of another kind."""
    content = read_file_of_kind(folder, KIND, FORMAT)
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
            choices=tuple(map(ChoiceQuestion.of, content.get("choices", ()))),  # earlier versions had none
            metadata=StudentMetadata.of_json(content["metadata"]) if "metadata" in content else None,
        )
    except (KeyError, TypeError, MetadataFormatError) as error:
        raise ModelFolderError(f"{folder / MODEL_FILE} is damaged: {error!r}") from None
    model = build_student(spec)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise ModelFolderError(f"{folder / WEIGHTS_FILE} does not fit {MODEL_FILE}: {error}") from None
    return spec, model.eval().to(device)


# A trained student as an `ImageClassifier`.


class StudentClassifier(PreparedClassifier):
    """A student on a device, in the precision in which it was trained and validated (`fgvr.precision.of_model`)."""

    def __init__(
        self,
        spec: StudentSpec,
        model: nn.Module,
        device: str | torch.device = "cpu",
        begun: Precision | None = None,
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.precision = of_model(spec.precision, self.device, begun)
        self.labels = list(spec.labels)
        self.questions = list(spec.questions)
        self.columns = () if spec.metadata is None else spec.metadata.fitted.sources

    @classmethod
    def load(
        cls, folder: Path, device: str | torch.device = "cpu", begun: Precision | None = None
    ) -> StudentClassifier:
        """Load a model folder; raises ModelFolderError if it is damaged."""
        spec, model = load_student(folder, device)
        return cls(spec, model, device, begun)

    @property
    def short_side(self) -> int:
        """As in the store of training images."""
        return self.spec.preprocess.stored_side

    def decode(self, data: bytes, limits: ImageLimits) -> torch.Tensor:
        """See ImageClassifier."""
        pixels = decode_pixels(data, limits, short_side=self.short_side)
        return torch.from_numpy(self.spec.preprocess.prepare_pixels(pixels))

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """The image's centre crop, uint8 [S, S, 3]."""
        return torch.from_numpy(self.spec.preprocess.prepare(image))

    @torch.inference_mode()
    def predict(self, prepared: torch.Tensor) -> Outputs:
        """Probabilities for uint8 [N, S, S, 3]; where the student has columns, as if all were missing."""
        return self._said(in_passes(self._forward, prepared, self.device))

    @torch.inference_mode()
    def predict_with(self, prepared: torch.Tensor, texts: Texts) -> Outputs:
        """See ImageClassifier."""
        if self.spec.metadata is None or not texts:
            return self.predict(prepared)
        fitted = self.spec.metadata.fitted
        features = torch.from_numpy(fitted.encode(texts, sentences_for(fitted, texts)))
        return self._said(in_passes(self._forward, prepared, self.device, features.to(self.device)))

    def _said(self, outputs: Tensor) -> Outputs:
        classes, aspects = self.spec.split(outputs)
        return Outputs(
            scores=classes.softmax(dim=1).cpu().numpy(),
            p_yes=aspects.sigmoid().cpu().numpy() if self.questions else None,
            energy=-classes.logsumexp(dim=1).cpu().numpy(),
        )

    def _forward(self, prepared: Tensor, features: Tensor | None = None) -> Tensor:
        inputs = self.spec.preprocess.normalise(prepared.to(self.device, non_blocking=True))
        with autocast(self.device, self.precision):
            outputs: Tensor = self.model(inputs) if features is None else self.model(inputs, features)
        return outputs.float()
