"""Pooled features of a timm model: its own preprocessing, its weights without the classifier, unit length.

Of a distilled encoder these are its vectors in the space of its teacher.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.arrays import Floats
from fgvr.encoders import weight_file
from fgvr.encoders.distilled import DistilledEncoder, DistilledFolderError, load_head
from fgvr.encoders.timm_source import TimmError, TimmSource
from fgvr.forward_pass import in_passes, memory_format
from fgvr.precision import Precision, autocast, held

_log = logging.getLogger(__name__)
SHOWN = 3
"""How many names of tensors a message lists."""


@dataclass(frozen=True)
class TimmModel:
    """A frozen timm encoder on a device; implements `fgvr.encoders.encoder.Encoder`.

    Attributes:
        network: the model without its classifier, in evaluation mode, without gradients; with the head that maps into
            its teacher's space where it was distilled (`fgvr.encoders.distilled`).
        preprocess: timm's evaluation preprocessing for it; an RGB image to a float32 tensor [3, H, W] on the CPU.
        image_size: the longer side of the input, pixels.
        short_side: pixels that an image's shorter side needs before `preprocess`.
        dim: length of the features.
        device: where it runs.
        precision: precision of the network; None: the device's default. Features are float32.
    """

    network: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    image_size: int
    short_side: int
    dim: int
    device: torch.device
    precision: Precision | None = None

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Floats:
        """Features of preprocessed images [N, 3, H, W]: L2-normalised float32 [N, dim]."""
        features = in_passes(self._forward, pixels, self.device)
        return np.asarray(features.cpu().numpy(), dtype=np.float32)

    def _forward(self, pixels: Tensor) -> Tensor:
        inputs = pixels.to(self.device, non_blocking=True, memory_format=memory_format(self.device))
        with autocast(self.device, held(self.precision, self.device)):
            features = self.network(inputs)
        return F.normalize(features.float(), dim=-1)


def load_timm(source: TimmSource, device: str | torch.device = "cpu", precision: Precision | None = None) -> TimmModel:
    """Load an encoder that `find_timm` found.

    Raises:
        TimmError: its weights are not those of the architecture, or it gives no pooled features.
        PrecisionError: the device does not support the precision.
    """
    device = torch.device(device)
    held(precision, device)
    source = source.in_files()
    network = _weighted(source).eval().requires_grad_(False).to(device)
    facts = resolve_model_data_config(network)
    _, height, width = facts["input_size"]
    size = max(height, width)
    with torch.no_grad():
        features = network(torch.zeros(1, *facts["input_size"], device=device))
    if features.ndim != 2:
        raise TimmError(
            f"embed.vectors.model: {source.name} gives features of shape {list(features.shape[1:])} per photo, and a "
            "vector is needed"
        )
    dim = int(features.shape[1])
    head = _head(source, dim)
    if head is not None:
        network = DistilledEncoder(network, head).eval().requires_grad_(False).to(device)
        dim = int(network(torch.zeros(1, *facts["input_size"], device=device)).shape[1])
    # As for CLIP: twice what preprocessing scales to, so that its own resizing decides, not the JPEG decoder's.
    short_side = 2 * math.ceil(size / float(facts["crop_pct"]))
    preprocess = cast("Callable[[Image.Image], Tensor]", create_transform(**facts, is_training=False))
    return TimmModel(network, preprocess, size, short_side, dim, device, precision)


def _head(source: TimmSource, features: int) -> nn.Module | None:
    """The head of a distilled encoder's folder, which maps features into its teacher's space; None without one."""
    if source.folder is None:
        return None
    try:
        return load_head(source.folder, features)
    except DistilledFolderError as error:
        raise TimmError(f"embed.vectors.model: {error}") from error


def _weighted(source: TimmSource) -> nn.Module:
    """The network without its classifier, with the weights of the file."""
    if source.weights is None:
        raise TimmError(f"embed.vectors.model: {source.name} has no weights")
    tensors = read_tensors(source.weights)
    network = _built(source, 0)
    own = network.state_dict()
    if own.keys() <= tensors.keys() and all(own[name].shape == tensors[name].shape for name in own):
        _check_rest(source, network, tensors.keys() - own.keys())
        network.load_state_dict({name: tensors[name] for name in own})
        return network
    # Ports of a model to another library often keep the order of its layers and rename all of them.
    whole = _built(source, None)
    if (ordered := by_order(whole.state_dict(), tensors)) is not None:
        whole.load_state_dict(ordered)
        cast("Any", whole).reset_classifier(0)
        _log.warning(
            "%s: its %d tensors have other names than timm's; they were taken in their order, in which all kinds and "
            "shapes agree with %s",
            source.weights.name,
            len(tensors),
            source.architecture,
        )
        return whole
    raise TimmError(_unlike(source, own, tensors))


def _built(source: TimmSource, classes: int | None) -> nn.Module:
    """The architecture with random weights and so many classes; None: as many as its weights have."""
    arguments = {**source.model_args, **({} if classes is None else {"num_classes": classes})}
    overlay = {key: value for key, value in source.data.items() if classes is None or key != "num_classes"}
    try:
        made = timm.create_model(
            source.architecture, pretrained=False, pretrained_cfg_overlay=overlay or None, **arguments
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise TimmError(f"embed.vectors.model: timm cannot build {source.architecture}: {error}") from error
    return cast("nn.Module", made)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights by name (`fgvr.encoders.weight_file`); raises TimmError for what holds none."""
    try:
        return weight_file.read_tensors(file)
    except weight_file.WeightFileError as error:
        raise TimmError(f"embed.vectors.weights: {error}") from error


def by_order(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors under the names of `own`, if one by one they are of the same kind (weight, running_mean …) and shape.

    None if any differs: then the order proves nothing. The kind, the last part of a name, counts since the parameters
    of a normalisation layer all have one shape.
    """
    if len(own) != len(tensors):
        return None
    pairs = list(zip(own.items(), tensors.items(), strict=True))
    for (name, mine), (other, theirs) in pairs:
        if name.rpartition(".")[2] != other.rpartition(".")[2] or mine.shape != theirs.shape:
            return None
    return {name: theirs for (name, _), (_, theirs) in pairs}


def _check_rest(source: TimmSource, network: nn.Module, rest: set[str]) -> None:
    """Raise TimmError if the file has more layers than the architecture, besides a classifier."""
    facts: Any = network
    heads = facts.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    others = sorted(name for name in rest if not name.startswith(tuple(f"{head}." for head in heads)))
    if others:
        raise TimmError(
            f"embed.vectors.weights: {source.weights} has {len(others)} tensors that {source.architecture} does not "
            f"have ({', '.join(others[:SHOWN])} …): weights of another architecture?"
        )


def _unlike(source: TimmSource, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Why the file's tensors are not the architecture's."""
    what = f"embed.vectors.weights: {source.weights} is not of {source.architecture}: "
    if missing := sorted(own.keys() - tensors.keys()):
        return f"{what}it lacks {len(missing)} of {len(own)} tensors ({', '.join(missing[:SHOWN])} …)"
    name = next(name for name in own if own[name].shape != tensors[name].shape)
    return f"{what}{name} has shape {list(tensors[name].shape)} for {list(own[name].shape)}"
