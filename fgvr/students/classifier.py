"""A trained student as an `ImageClassifier`."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import nn

from fgvr.config.data import ImageLimits
from fgvr.images import decode_pixels
from fgvr.models.base import Outputs, PreparedClassifier
from fgvr.precision import Precision, autocast, of_model
from fgvr.students.architecture import StudentSpec
from fgvr.students.folder import load_student


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

    @classmethod
    def load(
        cls, folder: Path, device: str | torch.device = "cpu", begun: Precision | None = None
    ) -> StudentClassifier:
        """From a model folder; raises ModelFolderError where it is damaged."""
        spec, model = load_student(folder, device)
        return cls(spec, model, device, begun)

    @property
    def short_side(self) -> int:
        """As the store of training images reads."""
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
        """Probabilities for uint8 [N, S, S, 3]."""
        inputs = self.spec.preprocess.normalise(prepared.to(self.device, non_blocking=True))
        with autocast(self.device, self.precision):
            outputs = self.model(inputs)
        classes, aspects = self.spec.split(outputs.float())
        return Outputs(
            scores=classes.softmax(dim=1).cpu().numpy(),
            p_yes=aspects.sigmoid().cpu().numpy() if self.questions else None,
        )
