"""Non-maximum suppression and RoIAlign for when torchvision's compiled library does not match this torch.

See `fgvr.torchvision_cpu`: beside a CPU torch there may be no library. Then torchvision's `nms` refuses to work, and
its `roi_align` compiles itself at the first call and again for other shapes. Both are written here with torch's own
operators and give the same results.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def provide_operators() -> bool:
    """Replace both in torchvision for its detection models; does nothing if its library matches.

    Returns whether they were replaced.
    """
    import torchvision.ops

    if torchvision.extension._has_ops():
        return False
    sys.modules["torchvision.ops.boxes"].nms = nms  # type: ignore[attr-defined]  # what its models call
    sys.modules["torchvision.ops.poolers"].roi_align = roi_align  # type: ignore[attr-defined]
    return True


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression: a box is dropped if a better, kept box overlaps it by more than the threshold.

    Among equal scores the earlier box comes first. Boxes without area overlap nothing and are kept.

    Args:
        boxes: float [N, 4] (x1, y1, x2, y2).
        scores: float [N].
        iou_threshold: intersection over union.

    Returns:
        int64 [K], indices of the kept boxes, by descending score.
    """
    from torchvision.ops import box_iou

    order = scores.argsort(descending=True, stable=True)
    overlapping = (box_iou(boxes[order], boxes[order]) > iou_threshold).cpu().numpy()
    kept = np.ones(len(order), dtype=bool)
    for row in range(len(order)):
        if kept[row]:
            kept[row + 1 :] &= ~overlapping[row, row + 1 :]
    return order[torch.from_numpy(kept).to(order.device)]


def roi_align(  # noqa: PLR0917 - torchvision calls it by position
    input: Tensor,  # noqa: A002 - named as torchvision names it
    boxes: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Features in boxes by bilinear interpolation (Mask R-CNN), differentiable in `input`.

    The sampling points of all boxes of an image are handled by a single call of `grid_sample`.

    Args:
        input: float [N, C, H, W].
        boxes: float [K, 5] (image, x1, y1, x2, y2), inside their images.
        output_size: number of bins, (height, width).
        spatial_scale: feature cells per pixel.
        sampling_ratio: sampling points along each side of a bin, over which the mean is taken; required.
        aligned: whether box coordinates are shifted by half a cell.

    Returns:
        float [K, C, *output_size].

    Raises:
        ValueError: the number of sampling points is not given.
    """
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio: an adaptive number of sampling points is not supported here")
    count, channels, height, width = input.shape
    corners = boxes[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    sizes = corners[:, 2:] - corners[:, :2]
    sizes = sizes if aligned else sizes.clamp(min=1)
    x, y = (
        corners[:, side, None] + sizes[:, side, None] * _middles(bins * sampling_ratio, boxes)
        for side, bins in ((0, output_size[1]), (1, output_size[0]))
    )
    points = torch.stack(  # in −1 … 1 from the first to the last cell, as grid_sample needs
        [
            (2 * x / max(width - 1, 1) - 1)[:, None, :].expand(-1, y.shape[1], -1),
            (2 * y / max(height - 1, 1) - 1)[:, :, None].expand(-1, -1, x.shape[1]),
        ],
        dim=-1,
    )
    pooled = input.new_zeros((len(boxes), channels, *output_size))
    for number in range(count):
        rows = torch.where(boxes[:, 0] == number)[0]
        if not len(rows):
            continue
        grid = points[rows].reshape(1, -1, x.shape[1], 2)
        sampled = functional.grid_sample(input[number, None], grid, padding_mode="border", align_corners=True)
        bins = functional.avg_pool2d(sampled, sampling_ratio)
        pooled[rows] = bins.reshape(channels, len(rows), *output_size).transpose(0, 1)
    return pooled


def _middles(count: int, like: Tensor) -> Tensor:
    """The midpoints of `count` equal intervals of 0 … 1."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count
