"""The gradient of a step of prompt learning in three parts, so that memory depends neither on names nor on images.

Features of the names; the loss and its gradient with respect to these, a few images at a time; from there back through
the text tower, a chunk of names at a time (`PromptLearner.features`). Neither images × names nor the activations of
all names are ever held, and the gradient is that of one graph up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fgvr.clip.prompt import PromptLearner
from fgvr.training.collective import joined_rows, share, sum_over_workers


def backward_through_names(
    learner: PromptLearner,
    mine: Tensor,
    parts: Iterable[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """Set the gradient of the learner's context, the sum over all workers; returns this worker's loss, a scalar.

    Args:
        learner: the prompts, alike on all workers.
        mine: features of this worker's `share` of the names with their gradient, float32 [c, d].
        parts: which of this worker's images are compared with the names at once.
        loss: a part and the features of all names [C, d] give its term of the loss.
        rank: this worker.
        world_size: all workers.
    """
    stretch = share(len(learner), rank, world_size)
    names = joined_rows(mine, stretch.start, len(learner), world_size).clone().requires_grad_()
    total = torch.zeros((), device=names.device)
    for part in parts:
        term = loss(part, names)
        torch.autograd.backward(term)
        total += term.detach()
    gradient = torch.zeros_like(names) if names.grad is None else names.grad
    sum_over_workers(gradient, world_size)
    torch.autograd.backward(mine, gradient[stretch])
    if learner.context.grad is not None:
        sum_over_workers(learner.context.grad, world_size)
    return total
