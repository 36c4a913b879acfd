"""The way to any trained model: a folder in, the classifier of its kind out."""

from __future__ import annotations

from pathlib import Path

import torch

from fgvr.models.base import MODEL_FILE, ImageClassifier, ModelFolderError, read_model_file
from fgvr.precision import Precision


def load_classifier(
    folder: Path, device: str | torch.device = "cpu", begun: Precision | None = None
) -> ImageClassifier:
    """The model in a local folder, ready on `device` (for URLs see `fgvr.storage.fetch_folder`).

    Args:
        folder: of the model.
        device: where it computes.
        begun: what the devices of the table's workers can (`fgvr.precision.held`); None: there is no table.

    Raises:
        ModelFolderError: no model is there, its files are damaged, or its kind is unknown.
        PrecisionError: the table was begun in a precision that this device does not have.
    """
    kind = read_model_file(folder)["kind"]
    if kind == "student":
        from fgvr.students.classifier import StudentClassifier

        return StudentClassifier.load(folder, device, begun)
    if kind == "near":
        from fgvr.clip.classifier import NearClassifier

        return NearClassifier.load(folder, device, begun)
    raise ModelFolderError(f"{folder / MODEL_FILE}: kind {kind!r} is unknown; there are: near, student")
