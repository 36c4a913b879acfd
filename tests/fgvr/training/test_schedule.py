import pytest
import torch

from fgvr.config import Makd
from fgvr.training.loop import learning_rate
from fgvr.training.student_data import bounded_by_steps


def test_milestones_as_pytorchs_scheduler():
    settings = Makd(lr=0.2, epochs=10, milestones=(3, 6, 8))
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, [3, 6, 8], gamma=0.1)
    for epoch in range(10):
        expected = scheduler.get_last_lr()[0]
        for step in range(4):
            assert learning_rate(settings, 4 * epoch + step, 4) == pytest.approx(expected)
        optimiser.step()
        scheduler.step()


def test_cosine_as_pytorchs_scheduler():
    settings = Makd(lr=0.1, epochs=5, schedule="cosine")
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=15)
    for step in range(15):
        assert learning_rate(settings, step, 3) == pytest.approx(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()


def test_warm_up_is_linear_and_ends_at_the_full_rate():
    settings = Makd(lr=0.4, epochs=3, warmup_epochs=1, schedule="cosine")
    rates = [learning_rate(settings, step, 4) for step in range(5)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    everything_is_warm_up = Makd(lr=0.4, epochs=1, warmup_epochs=1, schedule="cosine")
    assert learning_rate(everything_is_warm_up, 3, 4) == pytest.approx(0.4)


def test_a_bound_of_steps_leaves_as_many_whole_epochs_as_fit():
    recipe = Makd(epochs=240, batch_size=16, milestones=(150, 180, 210), warmup_epochs=8, max_steps=300_000)
    # 18,000 images are 1,125 steps an epoch, 266 epochs of which would fit: nothing changes.
    assert bounded_by_steps(recipe, 18_000) is recipe
    # 900,000 are 56,250 steps: five epochs, 5/240 of the training: 150 · 5/240 = 3.1, 3.75, 4.4, and 8 · 5/240 = 0.2.
    short = bounded_by_steps(recipe, 900_000)
    assert (short.epochs, short.milestones, short.warmup_epochs) == (5, (3, 4, 4), 0)
    assert short.lr == recipe.lr
    # 10 million are 625,000 steps an epoch: one, which is more than the bound, and no fewer.
    assert bounded_by_steps(recipe, 10_000_000).epochs == 1
    assert bounded_by_steps(recipe.model_copy(update={"max_steps": None}), 10_000_000).epochs == 240
