"""Classifiers from CLIP features: images against the features of class names, with learned or plain prompts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import fgvr
from fgvr.arrays import Floats
from fgvr.clip.model import ClipModel, load_clip, load_source
from fgvr.clip.source import ClipSource, find_clip
from fgvr.config.model_names import LOCAL
from fgvr.config.models import Clip
from fgvr.models.base import (
    MODEL_FILE,
    WEIGHTS_FILE,
    ModelFolderError,
    Outputs,
    PreparedClassifier,
    read_file_of_kind,
    write_model_file,
)
from fgvr.precision import Precision

FORMAT = 1
KIND = "near"
CLIP_FOLDER = "clip"


@dataclass(frozen=True)
class ClassFeatures:
    """The text side of a classifier: all that is needed if image features are cached.

    Attributes:
        labels: names of the C classes, by label id.
        features: float32 [C, d], L2-normalised (those of fgvr.baselines.finer_findr only nearly so).
        logit_scale: logit scale of the CLIP that they belong to.
    """

    labels: tuple[str, ...]
    features: Floats
    logit_scale: float

    def scores(self, image_features: npt.NDArray[Any]) -> Floats:
        """Softmax probabilities float32 [N, C] of L2-normalised image features [N, d] of any float type."""
        images = torch.from_numpy(np.asarray(image_features, dtype=np.float32))
        logits = self.logit_scale * images @ torch.from_numpy(self.features).T
        return np.asarray(logits.softmax(dim=1).numpy(), dtype=np.float32)


class ClipClassifier(PreparedClassifier):
    """CLIP's image tower and the features of class names."""

    def __init__(self, clip: ClipModel, classes: ClassFeatures) -> None:
        self.clip, self.classes = clip, classes
        self.labels = list(classes.labels)
        self.questions: list[str] = []

    @property
    def short_side(self) -> int:
        """As in the embed stage."""
        return self.clip.short_side

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """The image as CLIP's input, float32 [3, H, W]."""
        return self.clip.preprocess(image)

    def predict(self, prepared: torch.Tensor) -> Outputs:
        """Probabilities for float32 [N, 3, H, W]."""
        return Outputs(self.scores_from_features(self.clip.encode_pixels(prepared).cpu().numpy()))

    def scores_from_features(self, image_features: npt.NDArray[Any]) -> Floats:
        """Probabilities float32 [N, C] from precomputed image features, L2-normalised [N, d]."""
        return self.classes.scores(image_features)


class ZeroShotClassifier(ClipClassifier):
    """CLIP with the plain class names in a template; nothing is learned."""

    @classmethod
    def of(cls, clip: ClipModel, labels: Sequence[str], template: str) -> ZeroShotClassifier:
        """Names are inserted into the template, e.g. "a photo of a {}."; `clip` may be on any device."""
        return cls(clip, zero_shot_classes(clip, labels, template))


def zero_shot_classes(clip: ClipModel, labels: Sequence[str], template: str) -> ClassFeatures:
    """The features of plain names inserted into a template."""
    return ClassFeatures(tuple(labels), clip.encode_names(labels, template), clip.logit_scale)


class NearClassifier(ClipClassifier):
    """CLIP with prompts learned from candidate sets."""

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu", begun: Precision | None = None) -> NearClassifier:
        """Load a model folder.

        Raises:
            ModelFolderError: the folder is damaged or of another kind.
            ClipError: the CLIP that it refers to cannot be had.
        """
        content = read_near_file(folder)
        reference = content["clip"]
        # CLIP's towers never run in bf16 on a CPU, whatever it supports.
        precision = None if begun is None or torch.device(device).type == "cpu" else begun
        if reference["bundled"]:
            clip = load_clip(Clip(model=f"{LOCAL}{folder / CLIP_FOLDER}"), device, precision)
        else:
            commit = reference.get("identity", {}).get("commit")  # a hub name may refer to a newer commit now
            named = Clip(model=reference["name"], pretrained=reference["pretrained"], revision=commit)
            clip = load_source(find_clip(named), device, precision)
        return cls(clip, load_classes(folder))


@dataclass(frozen=True)
class NearModel:
    """The content of a NeaR model folder.

    Attributes:
        classes: features of the learned prompts.
        context: the learned vectors, float32 [M, width] or [C, M, width].
        clip: the CLIP for which they were learned.
        facts: further facts (recipe, losses); JSON types only.
    """

    classes: ClassFeatures
    context: torch.Tensor
    clip: ClipSource
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the folder, `model.json` last.

        A CLIP that came from a folder is copied into it: that folder may be gone when the model is used.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.clip.folder is not None:
            shutil.copytree(self.clip.folder, folder / CLIP_FOLDER, dirs_exist_ok=True)
        tensors = {
            "class_features": torch.from_numpy(self.classes.features).contiguous(),
            "context": self.context.detach().float().cpu().contiguous(),
        }
        save_file(tensors, folder / WEIGHTS_FILE)
        bundled = self.clip.folder is not None
        content = {
            "labels": self.classes.labels,
            "questions": [],
            "logit_scale": self.classes.logit_scale,
            "clip": {
                "bundled": bundled,
                "name": None if bundled else self.clip.name,
                "pretrained": self.clip.origin or self.clip.pretrained,
                "identity": self.clip.identity(),
            },
            "versions": {"fgvr": fgvr.__version__, "torch": str(torch.__version__)},
            "facts": self.facts,
        }
        write_model_file(folder, KIND, FORMAT, content)


def read_near_file(folder: Path) -> dict[str, Any]:
    """The `model.json` of a NeaR model; raises ModelFolderError if it is damaged or of another kind."""
    return read_file_of_kind(folder, KIND, FORMAT, ("labels", "logit_scale", "clip"))


def load_classes(folder: Path) -> ClassFeatures:
    """The text side of a NeaR model, without its CLIP; raises ModelFolderError if it is damaged."""
    content = read_near_file(folder)
    try:
        features = load_file(folder / WEIGHTS_FILE)["class_features"].numpy()
    except (SafetensorError, FileNotFoundError, KeyError) as error:
        raise ModelFolderError(f"{folder / WEIGHTS_FILE} does not fit {MODEL_FILE}: {error!r}") from None
    if len(features) != len(content["labels"]):
        raise ModelFolderError(f"{folder / WEIGHTS_FILE}: {len(features)} classes for {len(content['labels'])} labels")
    return ClassFeatures(tuple(content["labels"]), features, float(content["logit_scale"]))
