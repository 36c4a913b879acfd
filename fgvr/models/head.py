"""Heads as trained models: the encoder that made the vectors, its whitening, and a classifier of vectors on top.

A photo is classified from its pixels, and an image whose vector is stored from that vector. Prototypes are a head, too:
a cosine head whose directions were not trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fgvr
from fgvr.arrays import Floats
from fgvr.encoders.encoder import Encoder, EncoderConfig, load_encoder, save_encoder, saved_encoder
from fgvr.heads.beside import joined
from fgvr.heads.networks import SCALE, CosineHead, Kind, build_network
from fgvr.metadata.fitted import FittedMetadata, MetadataFormatError
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
from fgvr.models.sentences import sentences_for
from fgvr.precision import Precision
from fgvr.selection.whitening import Whitening

FORMAT = 1
KIND = "head"
_WHITENING = ("mean", "matrix", "shift")


@dataclass(frozen=True)
class VectorClasses:
    """A head without its encoder: all that is needed where vectors are stored.

    Attributes:
        labels: names of the C classes, by label id.
        members: networks in eval mode; several are an ensemble, whose probabilities are averaged.
        kind: their kind.
        whitening: the map from the encoder's vectors to those that the networks see; None: they see them as they are.
        temperature: logits are divided by it.
        hidden: width of the hidden layer of MLPs.
        scale: factor of cosines.
        metadata: columns that the networks see beside the vector; None: vectors alone.
    """

    labels: tuple[str, ...]
    members: tuple[nn.Module, ...]
    kind: Kind = "cosine"
    whitening: Whitening | None = None
    temperature: float = 1.0
    hidden: int = 512
    scale: float = SCALE
    metadata: FittedMetadata | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """See ImageClassifier."""
        return () if self.metadata is None else self.metadata.sources

    @classmethod
    def of_directions(
        cls, labels: tuple[str, ...], directions: Floats, whitening: Whitening | None, temperature: float = 1.0
    ) -> VectorClasses:
        """A head that compares vectors with given directions, float32 [C, d], such as prototypes."""
        network = CosineHead(directions.shape[1], len(directions))
        with torch.no_grad():
            network.weight.copy_(torch.from_numpy(directions))
        return cls(labels, (network.eval(),), whitening=whitening, temperature=temperature)

    def scores_with(self, vectors: npt.NDArray[Any], texts: Texts) -> Floats:
        """The same as `scores` with the images' metadata, of which it takes its `columns`."""
        fitted = self.metadata
        if fitted is None or not texts:
            return self.scores(vectors)
        return self.scores(vectors, fitted.encode(texts, sentences_for(fitted, texts)))

    @torch.inference_mode()
    def scores(self, vectors: npt.NDArray[Any], features: Floats | None = None) -> Floats:
        """Softmax probabilities float32 [N, C] of the encoder's vectors [N, d], of any float type.

        `features`: of the metadata, float32 [N, D]; None: all columns are missing.
        """
        seen = np.asarray(vectors, np.float32) if self.whitening is None else self.whitening.apply(vectors)
        if self.metadata is not None:
            seen = joined(seen, self.metadata.none(len(seen)) if features is None else features)
        inputs = torch.from_numpy(seen)
        total = torch.zeros(len(inputs), len(self.labels))
        for member in self.members:
            total += (member(inputs) / self.temperature).softmax(dim=1)
        return np.asarray((total / len(self.members)).numpy(), np.float32)


@dataclass(frozen=True)
class HeadModel:
    """The content of a head's folder.

    Attributes:
        classes: the head.
        encoder: the encoder of its vectors; None: they came from a file, so that only images with stored vectors can be
            classified.
        facts: further facts (method, recipe, quality); JSON types only.
    """

    classes: VectorClasses
    encoder: EncoderConfig | None
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the folder, `model.json` last; the encoder's files are copied into it where they came from a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        classes = self.classes
        tensors = {
            f"{number}.{name}": value.detach().cpu().contiguous()
            for number, member in enumerate(classes.members)
            for name, value in member.state_dict().items()
        }
        if classes.whitening is not None:
            tensors |= {f"whitening.{name}": torch.tensor(getattr(classes.whitening, name)) for name in _WHITENING}
        save_file(tensors, folder / WEIGHTS_FILE)
        content: dict[str, Any] = {
            "labels": classes.labels,
            "questions": [],
            "network": classes.kind,
            "members": len(classes.members),
            "hidden": classes.hidden,
            "scale": classes.scale,
            "temperature": classes.temperature,
            "whitened": classes.whitening is not None,
            **({} if classes.metadata is None else {"metadata": classes.metadata.to_json()}),
            "encoder": None if self.encoder is None else save_encoder(self.encoder, folder),
            "versions": {"fgvr": fgvr.__version__, "torch": str(torch.__version__)},
            "facts": self.facts,
        }
        write_model_file(folder, KIND, FORMAT, content)


class HeadClassifier(PreparedClassifier):
    """An encoder on a device, and the head, which computes on the CPU."""

    def __init__(self, encoder: Encoder, classes: VectorClasses) -> None:
        self.encoder, self.classes = encoder, classes
        self.labels = list(classes.labels)
        self.questions: list[str] = []
        self.columns = classes.columns

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu", begun: Precision | None = None) -> HeadClassifier:
        """Load a model folder.

        Raises:
            ModelFolderError: it is damaged, of another kind, or its vectors came from a file, which no photo does.
            ClipError, TimmError: the encoder that it names cannot be had.
        """
        reference = read_head_file(folder)["encoder"]
        if reference is None:
            raise ModelFolderError(
                f"{folder}: its vectors came from a file, so that no encoder is known; it can only classify images "
                "whose vectors are stored, in its own run (infer.trained)"
            )
        # Encoders never run in bf16 on a CPU, whatever it supports.
        precision = None if begun is None or torch.device(device).type == "cpu" else begun
        return cls(load_encoder(saved_encoder(reference, folder), device, precision), load_vector_classes(folder))

    @property
    def short_side(self) -> int:
        """As in the embed stage."""
        return self.encoder.short_side

    def prepare(self, image: Image.Image) -> Tensor:
        """The image as the encoder's input, float32 [3, H, W]."""
        prepared: Tensor = self.encoder.preprocess(image)
        return prepared

    def predict(self, prepared: Tensor) -> Outputs:
        """Probabilities for float32 [N, 3, H, W]."""
        return Outputs(self.classes.scores(self.encoder.encode(prepared)))

    def predict_with(self, prepared: Tensor, texts: Texts) -> Outputs:
        """See ImageClassifier."""
        return Outputs(self.classes.scores_with(self.encoder.encode(prepared), texts))


def read_head_file(folder: Path) -> dict[str, Any]:
    """The `model.json` of a head; raises ModelFolderError if it is damaged or of another kind."""
    needed = ("labels", "network", "members", "hidden", "scale", "temperature", "whitened", "encoder")
    content = read_file_of_kind(folder, KIND, FORMAT, needed)
    if content["network"] not in get_args(Kind):
        raise ModelFolderError(f"{folder / MODEL_FILE}: network {content['network']!r} is unknown")
    return content


def load_vector_classes(folder: Path) -> VectorClasses:
    """The head in a model folder, without its encoder; raises ModelFolderError if it is damaged."""
    content = read_head_file(folder)
    labels, kind, hidden = tuple(content["labels"]), content["network"], content["hidden"]
    try:
        metadata = FittedMetadata.of_json(content["metadata"]) if "metadata" in content else None
    except MetadataFormatError as error:
        raise ModelFolderError(f"{folder / MODEL_FILE} is damaged: {error}") from None
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
        members = []
        for number in range(content["members"]):
            state = {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{number}.")}
            dim = (state["hidden.weight"] if kind == "mlp" else state["weight"]).shape[1]
            network = build_network(kind, dim, len(labels), hidden, content["scale"])
            network.load_state_dict(state)
            members.append(network.eval())
        stored = [tensors[f"whitening.{name}"].numpy() for name in _WHITENING] if content["whitened"] else None
    except (SafetensorError, FileNotFoundError, KeyError, RuntimeError) as error:
        raise ModelFolderError(f"{folder / WEIGHTS_FILE} does not fit {MODEL_FILE}: {error}") from None
    whitening = None if stored is None else Whitening(*stored)
    return VectorClasses(
        *(labels, tuple(members), kind, whitening, content["temperature"]),
        hidden=hidden,
        scale=content["scale"],
        metadata=metadata,
    )
