"""The interface of every trained model, whatever its kind: from images to class probabilities.

A model is a folder with `model.json` (its `kind`, its labels and all that is needed to rebuild it) and
`model.safetensors`. Loading a model never runs code from the folder.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from PIL import Image

from fgvr.arrays import Floats
from fgvr.config.data import ImageLimits
from fgvr.errors import UserError
from fgvr.images.read import decode_image, read_image_bytes

if TYPE_CHECKING:
    import torch

MODEL_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
Texts = Mapping[str, "pa.Array | pa.ChunkedArray"]
"""Columns of metadata by name: a text or null per image. Columns that a model knows and that are not here are missing
for all images."""


class ModelFolderError(UserError, ValueError):
    """The folder holds no trained model, or a damaged one."""


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for N images: softmax probabilities [N, C] and, if it has aspect outputs, p(yes) [N, Q].

    `energy`: −log Σ exp of the class logits, float32 [N]; None for models whose probabilities are not of one softmax.
    """

    scores: Floats
    p_yes: Floats | None = None
    energy: Floats | None = None


class ImageClassifier(Protocol):
    """A trained model on a device.

    `prepare` is separate from `predict` so that threads can run it while images are read: a decoded photo may have a
    hundred megapixels, while the result of `prepare` has a small, fixed size.
    """

    @property
    def labels(self) -> list[str]:
        """Names of the C classes, by label id."""
        ...

    @property
    def questions(self) -> list[str]:
        """The Q aspect questions; empty for a model without aspect outputs."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of metadata that it sees beside the photo, where they are given; mostly none."""
        ...

    @property
    def short_side(self) -> int:
        """Pixels that the shorter side of an image needs at least before `prepare`; the same as in training."""
        ...

    def read(self, uri: str, limits: ImageLimits) -> torch.Tensor:
        """The image at a URI, read as in training and validation, and prepared; raises ImageError."""
        ...

    def decode(self, data: bytes, limits: ImageLimits) -> torch.Tensor:
        """The same for the bytes of an image file."""
        ...

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """One RGB image as the model's input, on the CPU and without a batch axis."""
        ...

    def predict(self, prepared: torch.Tensor) -> Outputs:
        """The model's outputs for a stacked batch of prepared images [N, …], without any metadata."""
        ...

    def predict_with(self, prepared: torch.Tensor, texts: Texts) -> Outputs:
        """The same with the images' metadata, of which it takes its `columns`."""
        ...

    def scores(self, images: Sequence[Image.Image]) -> Floats:
        """Softmax probabilities of the classes, float32 [N, C]."""
        ...

    def aspects(self, images: Sequence[Image.Image]) -> Floats | None:
        """p(yes) of the aspect questions, float32 [N, Q]; None for a model without aspect outputs."""
        ...


class PreparedClassifier:
    """Implements `read`, `decode`, `scores` and `aspects` for classes that provide the rest; inherit from it.

    Files must be read only here: a JPEG decoded at another fraction of its size has other pixels.
    """

    columns: tuple[str, ...] = ()

    @property
    def short_side(self) -> int:
        """See ImageClassifier."""
        raise NotImplementedError

    def read(self, uri: str, limits: ImageLimits) -> torch.Tensor:
        """See ImageClassifier."""
        return self.decode(read_image_bytes(uri, limits), limits)

    def decode(self, data: bytes, limits: ImageLimits) -> torch.Tensor:
        """See ImageClassifier."""
        return self.prepare(decode_image(data, limits, short_side=self.short_side))

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """See ImageClassifier."""
        raise NotImplementedError

    def predict(self, prepared: torch.Tensor) -> Outputs:
        """See ImageClassifier."""
        raise NotImplementedError

    def predict_with(self, prepared: torch.Tensor, texts: Texts) -> Outputs:
        """See ImageClassifier; a model without columns sees the photos alone."""
        return self.predict(prepared)

    def scores(self, images: Sequence[Image.Image]) -> Floats:
        """See ImageClassifier."""
        return self._outputs(images).scores

    def aspects(self, images: Sequence[Image.Image]) -> Floats | None:
        """See ImageClassifier."""
        return self._outputs(images).p_yes

    def _outputs(self, images: Sequence[Image.Image]) -> Outputs:
        if not images:
            raise ValueError("no images were given")
        import torch  # here, since whoever only looks at a model's folder reads this module, too

        return self.predict(torch.stack([self.prepare(image) for image in images]))


def read_model_file(folder: Path) -> dict[str, Any]:
    """The content of a model folder's `model.json`; raises ModelFolderError if the folder holds no model."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ModelFolderError(f"{folder} is not a trained model: it has no {MODEL_FILE}")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelFolderError(f"{path} is damaged: {error}") from None
    if not isinstance(facts, dict) or "kind" not in facts:
        raise ModelFolderError(f"{path} does not say which kind of model it is")
    return facts


def read_file_of_kind(folder: Path, kind: str, form: int, needed: Collection[str] = ()) -> dict[str, Any]:
    """The content of `model.json` of a model of one kind, written in one format, with the facts that are needed.

    Raises:
        ModelFolderError: the folder holds no model, or one of another kind or format, or a fact is missing.
    """
    content, path = read_model_file(folder), folder / MODEL_FILE
    if content["kind"] != kind or content.get("format") != form:
        raise ModelFolderError(
            f"{path}: kind {content['kind']!r}, format {content.get('format')}; expected {kind} of format {form}"
        )
    missing = [name for name in needed if name not in content]
    if missing:
        raise ModelFolderError(f"{path} is damaged: {missing[0]} is missing")
    return content


def write_model_file(folder: Path, kind: str, form: int, content: dict[str, Any]) -> None:
    """Write `model.json`, JSON types only, with the kind and the format: the last file of a model's folder."""
    text = json.dumps({"format": form, "kind": kind, **content}, indent=1, ensure_ascii=False)
    (folder / MODEL_FILE).write_text(text, encoding="utf-8")
