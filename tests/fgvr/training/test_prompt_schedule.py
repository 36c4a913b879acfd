import math

import numpy as np
import pytest

from fgvr.config import Near
from fgvr.training.prompt import epoch_steps, epoch_views, held_out, learning_rate


def test_rates_by_hand():
    near = Near(lr=0.002, epochs=5, warmup_epochs=1)
    expected = [1e-5, 0.002, 0.001 * (1 + math.cos(math.pi / 4)), 0.001, 0.001 * (1 + math.cos(3 * math.pi / 4))]
    assert [learning_rate(near, epoch) for epoch in range(5)] == pytest.approx(expected)


def test_the_cosine_is_that_of_torch():
    import torch

    near = Near(lr=0.1, epochs=20, warmup_epochs=0)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20)
    for epoch in range(20):
        assert learning_rate(near, epoch) == pytest.approx(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()


def test_a_warm_up_longer_than_the_training_leaves_one_epoch():
    assert learning_rate(Near(lr=0.1, epochs=1, warmup_epochs=3), 0) == 0.1


def test_an_epoch_shows_every_image_once_in_another_order():
    near, positions = Near(batch_size=4, seed=1), np.arange(0, 20, 2)
    first, again, second = (epoch_steps(near, positions, epoch) for epoch in (0, 0, 1))
    assert [len(step) for step in first] == [4, 3, 3]
    assert sorted(np.concatenate(first)) == positions.tolist()
    assert [step.tolist() for step in first] == [step.tolist() for step in again]
    assert [step.tolist() for step in first] != [step.tolist() for step in second]


def test_held_out_images_are_a_share_and_never_all():
    assert held_out(Near(validation_share=0.25, seed=3), 100).sum() == 25
    assert held_out(Near(validation_share=0.0), 10).sum() == 0
    assert held_out(Near(validation_share=0.9), 1).sum() == 0


def test_views_are_all_shown():
    views = epoch_views(Near(), 1000, 4, epoch=2)
    assert set(views) == {0, 1, 2, 3}
    assert (epoch_views(Near(), 1000, 4, epoch=2) == views).all()
    assert not epoch_views(Near(), 10, 1, epoch=0).any()
