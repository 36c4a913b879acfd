"""The code of a logged MLflow model: MLflow runs this file when the model is loaded, instead of unpickling anything.

It may import fgvr only, which travels with the model; see cluster/pyfunc.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from fgvr.classifier import ImageClassifier, load_classifier
from fgvr.config import ImageLimits
from fgvr.images import ImageError

BATCH = 64


class ClassifierModel(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Image bytes in, label and score out, for every kind of model that `load_classifier` knows."""

    classifier: ImageClassifier

    def load_context(self, context: PythonModelContext) -> None:
        """Build the model from the folder that was logged, on a GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.classifier = load_classifier(Path(context.artifacts["model"]), device)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Classify images.

        Args:
            context: MLflow's.
            model_input: column `image`, the bytes of image files.
            params: none are known.

        Returns:
            Columns `label` and `score` (softmax probability); for an image that cannot be decoded None and nan.
        """
        files = list(model_input["image"])
        parts = [self._classify(files[start : start + BATCH]) for start in range(0, len(files), BATCH)]
        labels = [label for part in parts for label, _ in part]
        scores = np.array([score for part in parts for _, score in part], dtype=np.float32)
        return pd.DataFrame({"label": pd.Series(labels, dtype=object), "score": scores})

    def _classify(self, files: list[bytes]) -> list[tuple[str | None, float]]:
        answers: list[tuple[str | None, float]] = [(None, float("nan"))] * len(files)
        prepared: dict[int, torch.Tensor] = {}
        for row, data in enumerate(files):
            try:
                prepared[row] = self.classifier.decode(data, ImageLimits())
            except ImageError:
                continue
        if prepared:
            scores = self.classifier.predict(torch.stack(list(prepared.values()))).scores
            for row, row_scores in zip(prepared, scores, strict=True):
                best = int(row_scores.argmax())
                answers[row] = (self.classifier.labels[best], float(row_scores[best]))
        return answers


set_model(ClassifierModel())
