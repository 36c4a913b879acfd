"""How many images go through a network at once where it only predicts: decided in this one place.

On a GPU as many as the caller has. On a CPU no more than keep every activation below the size from which the C library
takes memory from the system anew for each tensor and gives it back afterwards. The system fills such memory with
zeros, page by page: of EfficientNet-Lite0's time at 224 pixels that was half in passes of 64 images, and nothing in
passes of 6 (docs/scaling.md). Smaller passes also need less memory.

The number follows from the size of the images alone, not from a measurement, so that the same files give the same
numbers every time. Between passes of different sizes results differ by rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch
    from torch import Tensor

QUICK_BYTES: Final = 32 * 2**20
"""Most bytes of a tensor whose memory is reused: glibc's upper limit of its growing mmap threshold on 64-bit systems
(DEFAULT_MMAP_THRESHOLD_MAX, mallopt(3)). Other C libraries have other limits; then this is only a small pass."""
BYTES_PER_PIXEL: Final = 96
"""Bytes of the largest float32 activation per pixel of the input. It is that of the networks that people choose for
CPUs: 96 channels at half the resolution (the first expansion of EfficientNets), or 384 at a quarter (ConvNeXts, Swin).
ResNets have 64, ViTs with patches of 16 pixels 12 to 48, MobileNetV3 18."""
QUICK_PIXELS: Final = QUICK_BYTES // BYTES_PER_PIXEL
"""Pixels of all images of a pass on a CPU: 6 images of 224 × 224, 13 of 160 × 160, 85 of 64 × 64."""


CHANNELS: Final = 3


def images_per_pass(pixels: int, device: torch.device | str) -> int | None:
    """Images of so many pixels that go through a network at once on a device, at least one; None: any number."""
    import torch

    return max(1, QUICK_PIXELS // pixels) if torch.device(device).type == "cpu" else None


def in_passes(network: Callable[[Tensor], Tensor], images: Tensor, device: torch.device | str) -> Tensor:
    """`network(images)` of a network that treats each image on its own: no gradients, no batch statistics.

    Args:
        network: from images [n, …], n ≥ 1, to outputs [n, …]. What is done to whole batches before it, such as
            normalising, belongs into it, since its results are large tensors, too.
        images: [N, H, W, 3] or [N, 3, H, W] in the size of the network's input, N ≥ 1.
        device: where the network computes; the images may still be elsewhere.

    Returns:
        The outputs [N, …], in the order of the images.
    """
    import torch

    size = images_per_pass(math.prod(images.shape[1:]) // CHANNELS, device)
    if size is None or len(images) <= size:
        return network(images)
    return torch.cat([network(some) for some in images.split(size)])
