"""How many images go through a network at once where it only predicts, and what memory that takes: decided here.

On a GPU as many as the caller has. On a CPU so many that the memory of their activations is used again. The C library
takes memory for larger tensors from the system and gives it back as soon as they are freed, and the system fills what
it gives with zeros, page by page: of EfficientNet-Lite0's time at 224 pixels that was half in passes of 64 images, and
nothing in passes of 6 (docs/benchmarks.md). Smaller passes also need less memory; up to `KEPT_BYTES` of what was freed
stays with the process.

The number follows from the size of the images alone, not from a measurement, so that the same files give the same
numbers every time. Between passes of different sizes results differ by rounding only.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch
    from torch import Tensor

QUICK_BYTES: Final = 32 * 2**20
"""Most bytes of a tensor whose memory is used again: the most to which glibc raises its limit by itself
(DEFAULT_MMAP_THRESHOLD_MAX on 64-bit systems, mallopt(3)). With other C libraries it is only a size of passes."""
KEPT_BYTES: Final = 8 * QUICK_BYTES
"""Free memory that the process keeps: all activations that live at once, with room. By itself glibc keeps twice the
largest block that it has freed so far, which is too little for the two or three largest activations together."""
BYTES_PER_PIXEL: Final = 96
"""Bytes of the largest float32 activation per pixel of the input. It is that of the networks that people choose for
CPUs: 96 channels at half the resolution (the first expansion of EfficientNets), or 384 at a quarter (ConvNeXts, Swin).
ResNets have 64, ViTs with patches of 16 pixels 12 to 48, MobileNetV3-Small 18."""
QUICK_PIXELS: Final = QUICK_BYTES // BYTES_PER_PIXEL
"""Pixels of all images of a pass on a CPU: 6 images of 224 × 224, 13 of 160 × 160, 85 of 64 × 64."""

CHANNELS: Final = 3
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3) (malloc.h)."""


def images_per_pass(pixels: int, device: torch.device | str) -> int | None:
    """Images of so many pixels that go through a network at once on a device, at least one; None: any number."""
    import torch

    return max(1, QUICK_PIXELS // pixels) if torch.device(device).type == "cpu" else None


def memory_format(device: torch.device | str) -> torch.memory_format:
    """The memory format of a network's inputs: channels-last on a CPU, where convolutions are faster then.

    On a GPU it is left as it is, since there it was not measured.
    """
    import torch

    return torch.channels_last if torch.device(device).type == "cpu" else torch.preserve_format


def in_passes(network: Callable[..., Tensor], images: Tensor, device: torch.device | str, *beside: Tensor) -> Tensor:
    """`network(images, *beside)` of a network that treats each image on its own: no gradients, no batch statistics.

    Args:
        network: from images [n, …], n ≥ 1, to outputs [n, …]. What is done to whole batches before it, such as
            normalising, belongs into it, since its results are large tensors, too.
        images: [N, H, W, 3] or [N, 3, H, W] in the size of the network's input, N ≥ 1.
        device: where the network computes; the images may still be elsewhere.
        beside: what else the network sees of each image, each [N, …].

    Returns:
        The outputs [N, …], in the order of the images.
    """
    import torch

    if torch.device(device).type == "cpu":
        _keep_memory()
    size = images_per_pass(math.prod(images.shape[1:]) // CHANNELS, device)
    if size is None or len(images) <= size:
        return network(images, *beside)
    parts = zip(*(torch.split(each, size) for each in (images, *beside)), strict=True)
    return torch.cat([network(*some) for some in parts])


@cache
def _keep_memory() -> None:
    """Let glibc keep the memory of freed activations, once per process; other C libraries are left as they are."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl and Windows have no such function
        return
    mallopt(M_MMAP_THRESHOLD, QUICK_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
