import pytest
import torch

from fgvr.config import Makd
from fgvr.training.schedule import learning_rate


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
