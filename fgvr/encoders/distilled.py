"""The head of a distilled encoder, which turns a backbone's features into another encoder's vectors, and its files.

They lie beside the backbone in a folder that timm itself reads: `head.safetensors`, and `model.json`, which describes
it and is written last. `fgvr.models.distilled` writes the whole folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fgvr.errors import UserError

KIND: Final = "encoder"
FORMAT: Final = 1
HEAD_FILE: Final = "head.safetensors"
FACTS_FILE: Final = "model.json"
"""The name that `fgvr.models.base` gives to the description of every trained model, in the same form."""


class DistilledFolderError(UserError, ValueError):
    """A folder's head is damaged, or does not belong to the backbone beside it."""


class DistilledEncoder(nn.Module):
    """A backbone without a classifier, and layer normalisation and a linear layer behind it (Proteus).

    Attributes:
        backbone: timm's model: float32 [N, 3, S, S] → features [N, f].
        head: features [N, f] → vectors in the teacher's space [N, d], of any length.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors [N, d] of normalised images [N, 3, S, S]."""
        return cast("Tensor", self.head(self.backbone(pixels)))


def new_head(features: int, dim: int) -> nn.Module:
    """A head with random weights: layer normalisation, then a linear layer, on the last axis."""
    return nn.Sequential(nn.LayerNorm(features), nn.Linear(features, dim))


def save_head(folder: Path, head: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write the head's files beside a backbone.

    Args:
        folder: of the backbone.
        head: the state dict of a `new_head`, on the CPU.
        content: what else `model.json` says; JSON types only.
    """
    save_file(dict(head), folder / HEAD_FILE)
    dim, features = _widths(head)
    facts = {"format": FORMAT, "kind": KIND, "dim": dim, "features": features, **content}
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def load_head(folder: Path, features: int) -> nn.Module | None:
    """The head in an encoder's folder, in evaluation mode; None for a folder without one, as timm itself saves it.

    Args:
        folder: as `fgvr.models.distilled.save_distilled` writes it.
        features: number of features that the folder's backbone gives.

    Raises:
        DistilledFolderError: the folder is damaged or of another kind, or its files are of different widths.
    """
    if not (folder / FACTS_FILE).exists():
        return None
    dim, expected = _stated(folder / FACTS_FILE)
    file = folder / HEAD_FILE
    try:
        weights = load_file(file)
        widths = _widths(weights)
        head = new_head(widths[1], widths[0])
        head.load_state_dict(weights)
    except (SafetensorError, FileNotFoundError, KeyError, ValueError, RuntimeError) as error:
        raise DistilledFolderError(f"{file} is not the head of an encoder: {error}") from None
    if widths != (dim, expected):
        raise DistilledFolderError(
            f"{folder / FACTS_FILE} says a head from {expected} features to {dim} numbers, and {HEAD_FILE} has "
            f"{widths[1]} and {widths[0]}: files of two encoders"
        )
    if expected != features:
        raise DistilledFolderError(
            f"{file} is for {expected} features, and the backbone beside it gives {features}: files of two encoders"
        )
    return head.eval()


def _widths(head: Mapping[str, Tensor]) -> tuple[int, int]:
    """Width of a head's vectors, and of the features that it takes."""
    dim, features = head["1.weight"].shape
    return int(dim), int(features)


def _stated(file: Path) -> tuple[int, int]:
    """The widths that `model.json` states: of the vectors, and of the features."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        if (facts["kind"], facts["format"]) != (KIND, FORMAT):
            raise DistilledFolderError(
                f"{file}: kind {facts['kind']!r}, format {facts['format']}; expected {KIND} of format {FORMAT}"
            )
        return int(facts["dim"]), int(facts["features"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DistilledFolderError):
            raise
        raise DistilledFolderError(f"{file} is damaged: {error!r}") from None
