"""An exponential moving average of a student's weights, whose memory is stated in images.

With a half-life of H images a step of b images is forgotten by 2^(−b/H), so that the same H means the same at every
batch size. The average begins with the first step's weights and weighs all steps so far as an endless run would
(the correction of Adam, Kingma and Ba 2015, section 3): random or pretrained weights from before the first step have no
part in it, and a half-life longer than the run gives the plain mean of the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


class MovingAverage:
    """The average of everything in a model's state, batch-norm statistics included (as timm's `ModelEmaV3`)."""

    def __init__(self, model: nn.Module, half_life: float) -> None:
        """`half_life`: images after which a step's weights count half."""
        self.half_life = half_life
        self.images = 0.0
        self.weights: Weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def share(self, images: int) -> float:
        """The share of the newest weights in the average, after a step of so many images: 1 for the first step."""
        # expm1, since with long half-lives both differ from 0 by less than a float32 holds.
        rate = math.log(2) / self.half_life
        return math.expm1(-rate * images) / math.expm1(-rate * (self.images + images))

    @torch.no_grad()
    def update(self, model: nn.Module, images: int) -> None:
        """Take in the weights after a step of `images` images, over all workers."""
        share = self.share(images)
        self.images += images
        means, news = list[Tensor](), list[Tensor]()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                means.append(self.weights[name])
                news.append(value)
            else:
                self.weights[name].copy_(value)  # counters
        torch._foreach_lerp_(means, news, share)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Within the block, the model has the average's weights; afterwards its own again, to the bit."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def restore(self, weights: Weights, images: float) -> None:
        """Continue an average that was saved after so many images."""
        self.images = images
        for name, value in weights.items():
            self.weights[name].copy_(value)
