"""The code of a logged MLflow model: MLflow runs this file when it loads the model, so nothing is unpickled.

It may import only fgvr, which is logged with the model; see cluster/pyfunc.py.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from fgvr.config import ImageLimits
from fgvr.images.given import WANTED, GivenTypeError, given_image
from fgvr.images.read import ImageError
from fgvr.metadata.stored import as_text
from fgvr.models.base import ImageClassifier
from fgvr.models.infer import load_classifier
from fgvr.schemas import Reason

log = logging.getLogger(__name__)

BATCH = 64
COLUMN = "image"
LIMITS = ImageLimits()
PATHS_VARIABLE = "FGVR_MODEL_READS_PATHS"
"""1: read files and addresses that text names, even for clients of a server; 0: never."""
_SERVERS = frozenset({"uvicorn", "gunicorn", "hypercorn", "waitress", "mlserver"})


class InputError(MlflowException, TypeError):  # type: ignore[misc]  # mlflow has no types
    """The input of `predict` holds no images; a scoring server answers with status 400."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)  # type: ignore[call-arg]


class ClassifierModel(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Images in, label and score out, for every kind of model that `load_classifier` knows."""

    classifier: ImageClassifier
    said = False
    """Whether somebody has been told which columns are missing."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the model from the logged folder, on a GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.classifier = load_classifier(Path(context.artifacts["model"]), device)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,  # or as documented below: MLflow makes a schema or a warning of other hints
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Classify images.

        An image is anything that `fgvr.images.given.given_image` reads. Text names a file or an address only where no
        server runs in this process, or where FGVR_MODEL_READS_PATHS is 1: a client must not choose what a server reads.

        Args:
            context: MLflow's context.
            model_input: one image, or many: a list, an array, a Series, a data frame or dict with them under `image`
                (or under its only name), or a list of such dicts. Columns of metadata that the model sees stand beside
                `image` under their names; what is not given counts as missing.
            params: no parameters are supported.

        Returns:
            A data frame with one row per image and the index of `model_input`: `label`; `score`, its softmax
            probability; `error`, None or the reason for a missing label (then label is None and score nan; null in a
            server, since JSON has no nan).

        Raises:
            InputError: the input, or one of its images, has an unsupported type.
        """
        images, index = _rows(model_input)
        texts = _texts(model_input, self.classifier.columns, len(images))
        self._say_what_is_missing(texts, len(images))
        answers = [
            answer
            for start in range(0, len(images), BATCH)
            for answer in self._classify(images[start : start + BATCH], start, texts)
        ]
        labels, scores, errors = zip(*answers, strict=True) if answers else ((), (), ())
        if _in_a_server():
            scored = pd.Series(
                [None if error else score for score, error in zip(scores, errors, strict=True)], dtype=object
            )
        else:
            scored = pd.Series(scores, dtype=np.float32)
        columns = {"label": pd.Series(labels, dtype=object), "score": scored, "error": pd.Series(errors, dtype=object)}
        result = pd.DataFrame(columns)
        return result if index is None else result.set_axis(index, axis=0)

    def _say_what_is_missing(self, texts: Mapping[str, pa.Array], count: int) -> None:
        """Once per process, since a server is asked again and again."""
        lacking = {name: column.null_count for name, column in texts.items() if column.null_count}
        if lacking and count and not self.said:
            self.said = True
            each = ", ".join(f"{name} in {number} of {count}" for name, number in lacking.items())
            log.warning("the model sees columns of metadata that are missing (%s): it does without there", each)

    def _classify(
        self, images: Sequence[object], start: int, texts: Mapping[str, pa.Array]
    ) -> list[tuple[str | None, float, str | None]]:
        """Label, score and error per image; `start`: row number of the first image; `texts`: of all images."""
        answers: list[tuple[str | None, float, str | None]] = [(None, float("nan"), None)] * len(images)
        prepared: dict[int, torch.Tensor] = {}
        for row, value in enumerate(images):
            try:
                prepared[row] = self._prepared(value)
            except ImageError as error:
                answers[row] = (None, float("nan"), f"{error.reason}: {error.failure.as_row()['detail']}")
            except GivenTypeError as error:
                raise InputError(f"row {start + row}: {error}") from None
        if prepared:
            stacked, places = torch.stack(list(prepared.values())), pa.array([start + row for row in prepared])
            mine = {name: column.take(places) for name, column in texts.items()}
            scores = self.classifier.predict_with(stacked, mine).scores
            for row, row_scores in zip(prepared, scores, strict=True):
                best = int(row_scores.argmax())
                answers[row] = (self.classifier.labels[best], float(row_scores[best]), None)
        return answers

    def _prepared(self, value: object) -> torch.Tensor:
        """One given image, prepared for the classifier; raises ImageError and GivenTypeError."""
        if _is_missing(value):
            raise ImageError(Reason.NO_INPUT, "no image was given")
        image = given_image(value, LIMITS, read_paths=_reads_paths())
        return self.classifier.decode(image, LIMITS) if isinstance(image, bytes) else self.classifier.prepare(image)


def _rows(given: object) -> tuple[list[Any], pd.Index | None]:
    """The images, and the index if the input is a pandas object."""
    if isinstance(given, pd.DataFrame):
        return list(given.iloc[:, _column(list(given.columns))]), given.index
    if isinstance(given, pd.Series):
        return list(given), given.index
    if isinstance(given, Mapping) and not isinstance(given.get("b64"), str):
        names = list(given)
        return _rows(given[names[_column(names)]])
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "OSU":
            raise InputError(f"an array of {given.dtype} does not say which channel is red; an image must be {WANTED}")
        given = given.ravel().tolist()
    images = given if isinstance(given, list | tuple) else [given]
    return [_image_of(item) for item in images], None


def _texts(given: object, columns: Sequence[str], count: int) -> dict[str, pa.Array]:
    """The columns of metadata that a model sees, as texts; null where nothing is given."""
    found = {}
    for name in columns:
        values: list[object] = [None] * count
        if isinstance(given, pd.DataFrame | Mapping) and name in given:
            values = list(given[name])  # type: ignore[call-overload,unused-ignore]
        elif isinstance(given, list | tuple):
            values = [item.get(name) if isinstance(item, Mapping) else None for item in given]
        if len(values) != count:
            raise InputError(f"column {name!r} has {len(values)} values for {count} images")
        found[name] = pa.array([_text(value) for value in values], pa.string())
    return found


def _text(value: Any) -> str | None:
    """A value as the samples table has it."""
    if _is_missing(value):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | float):
        return as_text(value)
    return str(value)  # dates, decimals


def _image_of(item: Any) -> Any:
    """An image without the wrapping by MLflow's parser or a record."""
    if isinstance(item, np.ndarray) and item.ndim == 0:
        item = item.item()
    return item[COLUMN] if isinstance(item, dict) and COLUMN in item else item


def _column(names: list[Any]) -> int:
    """The position of the column with the images."""
    if names.count(COLUMN) == 1:
        return names.index(COLUMN)
    if len(names) == 1:
        return 0
    raise InputError(f"one column must be called {COLUMN!r} and hold {WANTED} per row; there are {names}")


def _is_missing(value: object) -> bool:
    """Whether a value is None, nan, NA, NaT, or empty text or bytes."""
    if isinstance(value, str | bytes | bytearray):
        return not value or value.isspace()
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _in_a_server() -> bool:
    """Whether this process serves clients: MLflow's server sets a variable; others are known by loaded modules."""
    serving = os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "").lower() in {"1", "true"}
    return serving or not _SERVERS.isdisjoint(sys.modules)


def _reads_paths() -> bool:
    allowed = os.environ.get(PATHS_VARIABLE, "")
    return allowed == "1" or (allowed != "0" and not _in_a_server())


set_model(ClassifierModel())
