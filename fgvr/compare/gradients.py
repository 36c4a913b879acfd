"""Gradient activity: how strongly the loss still pulls at the early, middle and late layers of a trained network.

The paper that names this aspect of a comparison (arXiv 2404.03474) gives no formula in its abstract, and no code. Here
it is, of each weight tensor with two or more axes, |∂L/∂w| / |w|: mean absolute gradient of the cross entropy over mean
absolute weight, so that scale and number of weights cancel. Tensors are grouped in thirds in the order in which the
network defines them, and a group's value is their median. Its level follows the loss; what differs by architecture is
the ratio of early to late layers.
"""

from __future__ import annotations

import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = ("early", "middle", "late")


def gradient_activity(network: nn.Module, inputs: Tensor, classes: Tensor, outputs: int) -> dict[str, float]:
    """The activity of early, middle and late layers, in this order; leaves no gradients behind.

    Args:
        network: in eval mode, float32.
        inputs: normalised photos, float32 [N, 3, S, S].
        classes: int64 [N].
        outputs: number of class outputs, the first ones of the network's.

    Raises:
        ValueError: the network has fewer than three such tensors.
    """
    weights = [weight for weight in network.parameters() if weight.ndim > 1 and weight.requires_grad]
    if len(weights) < len(GROUPS):
        raise ValueError(f"{len(weights)} weight tensors cannot be cut into {len(GROUPS)} groups")
    loss = functional.cross_entropy(network(inputs)[:, :outputs].float(), classes)
    slopes = torch.autograd.grad(loss, weights, allow_unused=True)
    pulled = [
        0.0 if slope is None else float(slope.abs().mean() / weight.detach().abs().mean().clamp_min(1e-12))
        for weight, slope in zip(weights, slopes, strict=True)
    ]
    ends = [len(pulled) * part // len(GROUPS) for part in range(len(GROUPS) + 1)]
    return {
        name: statistics.median(pulled[start:end]) for name, start, end in zip(GROUPS, ends[:-1], ends[1:], strict=True)
    }
