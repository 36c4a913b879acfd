"""The moving average of a student's weights: by images, against timm's, and before any step."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from torch import nn

from fgvr.training.averaging import MovingAverage


def moved(model: nn.Module, step: int) -> None:
    """Other weights and statistics, and a counter that counts."""
    random = torch.Generator().manual_seed(step)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=random))
        else:
            value.fill_(step)


class One(nn.Module):
    """A model of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def after(values: list[float], images: int, half_life: float) -> float:
    model = One()
    average = MovingAverage(model, half_life)
    for value in values:
        model.weight.data.fill_(value)
        average.update(model, images)
    return average.weights["weight"].item()


def test_worked_by_hand() -> None:
    assert after([], 4, 8) == 0  # before the first step: the weights that it starts with
    assert after([3], 4, 8) == 3  # the first step counts whole
    # Two steps of half a half-life: weights 2^(−1/2) and 1, divided by their sum.
    assert after([1, 0], 4, 8) == pytest.approx(2**-0.5 / (1 + 2**-0.5), rel=1e-6)
    assert after([1, 0, 0], 8, 8) == pytest.approx(0.25 / 1.75, rel=1e-6)


def test_a_half_life_longer_than_the_run_is_its_mean() -> None:
    assert after([1, 2, 3, 4], 16, 1e9) == pytest.approx(2.5, rel=1e-5)


def test_what_is_forgotten_does_not_depend_on_the_batch_size() -> None:
    # The weight's path in images: 0 up to the middle, then 1.
    small = after([0.0] * 64 + [1.0] * 64, 4, 100)
    large = after([0.0] * 8 + [1.0] * 8, 32, 100)
    assert small == pytest.approx(large, rel=1e-5)


def test_it_becomes_timms_average_with_that_decay() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    average = MovingAverage(model, half_life=40)
    for step in range(60):
        moved(model, step)
        average.update(model, 20)
    reference = ModelEmaV3(model, decay=2 ** (-20 / 40))
    reference.module.load_state_dict(average.weights)
    for step in range(60, 63):
        moved(model, step)
        average.update(model, 20)
        reference.update(model)
    for name, value in reference.module.state_dict().items():
        torch.testing.assert_close(average.weights[name], value, atol=1e-6, rtol=1e-5)
    assert average.weights["bn1.num_batches_tracked"] == 62  # a counter is copied


def test_each_update_is_timms_with_the_share_of_the_step() -> None:
    model = timm.create_model("test_byobnet", num_classes=3)
    average, reference = MovingAverage(model, 1000), ModelEmaV3(model)
    for step, images in enumerate((16, 16, 15, 16)):
        moved(model, step)
        reference.decay = 1 - average.share(images)
        average.update(model, images)
        reference.update(model)
    assert average.images == 63
    for name, value in reference.module.state_dict().items():
        torch.testing.assert_close(average.weights[name], value, atol=1e-6, rtol=1e-5)


def test_the_model_has_its_own_weights_again_to_the_bit() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    average = MovingAverage(model, 10)
    moved(model, 1)
    average.update(model, 4)
    moved(model, 2)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with average.in_place_of(model):
        assert all(torch.equal(value, average.weights[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
