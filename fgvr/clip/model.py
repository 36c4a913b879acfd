"""CLIP's image and text features; the frozen towers may run in bf16, features and all else are fp32."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.clip.prompt_layout import Tokenizer
from fgvr.clip.source import ClipError, ClipSource, find_clip
from fgvr.clip.text_tower import TextTower, UnsupportedTextTowerError
from fgvr.config.models import Clip
from fgvr.forward_pass import in_passes, memory_format
from fgvr.hub import PICKLED
from fgvr.precision import Precision, autocast, automatic, held


def low_precision(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast on a GPU that supports it; nothing on a CPU: many lack the instructions, and results would vary.

    For CPUs that have them, `benchmarks/speed/coop.py --precision bf16` measures the gain.
    """
    return autocast(device, automatic(device))


# CLIP's image and text features through open_clip, with the model's own preprocessing and tokenizer.

TEXTS_AT_ONCE = 256
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipModel:
    """A frozen CLIP on a device.

    Attributes:
        network: open_clip's model, in evaluation mode, without gradients for its weights.
        tokenizer: the model's own tokenizer.
        preprocess: the model's own preprocessing; a PIL image to a float32 tensor [3, H, W] on the CPU.
        device: where it runs.
        source: what it was loaded from.
        precision: precision of the towers; None: the device's default. Features are float32.
    """

    network: nn.Module
    tokenizer: Tokenizer
    preprocess: Callable[[Image.Image], Tensor]
    device: torch.device
    source: ClipSource
    precision: Precision | None = None

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, held(self.precision, self.device))

    @property
    def logit_scale(self) -> float:
        """Factor for cosine similarities before the softmax; about 100 for the public models."""
        network: Any = self.network
        return float(network.logit_scale.detach().exp())

    @property
    def image_size(self) -> int:
        """The longer side of the input in pixels: decoding an image to less would lose detail."""
        visual: Any = self.network.visual
        size = visual.image_size
        return int(max(size) if isinstance(size, tuple | list) else size)

    @property
    def short_side(self) -> int:
        """Pixels that an image's shorter side needs: twice the input, so that the model's own resizing decides.

        Files for `preprocess` must be read at this size, or their features differ.
        """
        return 2 * self.image_size

    @cached_property
    def dim(self) -> int:
        """Length of the features."""
        network: Any = self.network
        with torch.no_grad():
            return int(network.encode_text(self.tokenizer(["a"]).to(self.device)).shape[1])

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Features of preprocessed images [N, 3, H, W]: L2-normalised float32 [N, dim] on the device."""
        return in_passes(self._image_features, pixels, self.device)

    def _image_features(self, pixels: Tensor) -> Tensor:
        network: Any = self.network
        inputs = pixels.to(self.device, non_blocking=True, memory_format=memory_format(self.device))
        with self._autocast():
            features = network.encode_image(inputs)
        return F.normalize(features.float(), dim=-1)

    def encode(self, pixels: Tensor) -> npt.NDArray[np.float32]:
        """The same as an array; see `fgvr.encoders.encoder.Encoder`."""
        return np.asarray(self.encode_pixels(pixels).cpu().numpy(), dtype=np.float32)

    def encode_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Features of RGB images: L2-normalised float32 [N, dim]."""
        if not images:
            return np.zeros((0, self.dim), np.float32)
        pixels = torch.stack([self.preprocess(image) for image in images])
        return np.asarray(self.encode_pixels(pixels).cpu().numpy(), dtype=np.float32)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Features of texts: L2-normalised float32 [N, dim]. Texts that are too long are truncated, with a warning."""
        network: Any = self.network
        self._warn_of_long(texts)
        features = [torch.zeros(0, self.dim)]
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            ids = self.tokenizer(list(texts[start : start + TEXTS_AT_ONCE])).to(self.device)
            with self._autocast():
                encoded = network.encode_text(ids) if self._tower is None else self._tower.encode_ids(ids)
            features.append(F.normalize(encoded.float(), dim=-1).cpu())
        return np.asarray(torch.cat(features).numpy(), dtype=np.float32)

    @cached_property
    def _tower(self) -> TextTower | None:
        """The text tower without padding, several times faster on short texts; None for unsupported architectures."""
        try:
            return TextTower.of(self.network)
        except UnsupportedTextTowerError:
            return None

    def encode_names(self, names: Sequence[str], template: str) -> npt.NDArray[np.float32]:
        """Features of class names inserted into a template such as "a photo of a {}."; float32 [C, dim]."""
        return self.encode_texts([template.replace("{}", name) for name in names])

    def _warn_of_long(self, texts: Sequence[str]) -> None:
        length = self.tokenizer([""]).shape[1]
        long = 0
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            ids = self.tokenizer(list(texts[start : start + TEXTS_AT_ONCE]), context_length=2 * length)
            # A text that fits is followed by padding only, so all ids from `length` on are equal.
            long += int((ids[:, length:] != ids[:, -1:]).any(dim=1).sum())
        if long:
            _log.warning("%d of %d texts are too long for the text tower and were cut", long, len(texts))


def load_clip(config: Clip, device: str | torch.device = "cpu", precision: Precision | None = None) -> ClipModel:
    """Load the configured CLIP; raises ClipError if it cannot be found, fetched or used."""
    return load_source(find_clip(config), device, precision)


def load_source(
    source: ClipSource, device: str | torch.device = "cpu", precision: Precision | None = None
) -> ClipModel:
    """Load a CLIP that `find_clip` found.

    Raises:
        ClipError: its files do not form a model.
        PrecisionError: the device does not support the precision.
    """
    import open_clip
    from open_clip.transformer import QuickGELU

    device = torch.device(device)
    held(precision, device)
    files = source.in_files()
    try:
        network, preprocess = open_clip.create_model_from_pretrained(files.name, files.pretrained, device=device)
        tokenizer = open_clip.get_tokenizer(files.name)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except UnpicklingError as error:
        raise ClipError(f"clip.model: {source.name} ({source.pretrained}): {PICKLED}") from error
    except Exception as error:  # damaged or unsuitable files raise anything, even AssertionError
        raise ClipError(f"clip.model: {source.name} ({source.pretrained}) cannot be loaded: {error}") from error
    if source.quick_gelu and not any(isinstance(module, QuickGELU) for module in network.modules()):
        raise ClipError(f"clip.model: {source.name} was loaded without the QuickGELU that its weights need")
    network.eval().requires_grad_(False)
    return ClipModel(network, tokenizer, preprocess, device, source, precision)
