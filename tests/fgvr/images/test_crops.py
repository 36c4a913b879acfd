import math

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

import fgvr  # noqa: F401 - prepares torchvision beside a CPU torch
from fgvr.images.pixels import TRIES, crop_box, random_view


def gradient(width=120, height=80):
    """Red grows to the right, green downwards."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], axis=2).astype(np.uint8))


def test_views_are_crops_of_one_size_some_of_them_mirrored():
    views = [np.asarray(random_view(gradient(), 32, (0, 7, number)), np.float32) for number in range(60)]
    assert {view.shape for view in views} == {(32, 32, 3)}
    slopes = np.array([view[:, -1, 0].mean() - view[:, 0, 0].mean() for view in views])
    assert 15 < (slopes < 0).sum() < 45  # mirrored
    assert all(view[-1, :, 1].mean() > view[0, :, 1].mean() for view in views)  # never upside down
    widths = np.abs(slopes) / 255
    assert widths.min() < 0.5
    assert widths.max() > 0.7


def test_a_view_depends_on_its_stream_alone():
    first, again, other = (
        np.asarray(random_view(gradient(), 16, stream)) for stream in ((1, 2, 0), (1, 2, 0), (1, 2, 1))
    )
    assert (first == again).all()
    assert (first != other).any()


def test_crop_boxes_are_distributed_as_torchvisions():
    rng = np.random.default_rng(0)
    height, width, draws = 60, 100, 4000
    ours = np.array([crop_box(height, width, 0.08, rng.random(2 * TRIES + 2)) for _ in range(draws)])
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(32, scale=(0.08, 1))
    image = torch.zeros(3, height, width)
    theirs = [transform.make_params([image]) for _ in range(draws)]
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in theirs])
    for column, scale in enumerate((height, width, height, width)):
        # Means of 4000 draws each: their difference has a standard error of about 0.5% of the side.
        assert abs(ours[:, column].mean() - theirs[:, column].mean()) < 0.02 * scale
        assert abs(ours[:, column].std() - theirs[:, column].std()) < 0.02 * scale


def test_crop_boxes_stay_inside_and_hand_worked():
    draw = np.zeros(2 * TRIES + 2)
    draw[0], draw[1] = 0.0, 0.5  # smallest area, ratio exp(0) = 1
    draw[-2:] = 0.999
    # 25% of 20 × 20 at ratio 1 is 10 × 10; 11 places each way, the last of them is 10.
    assert crop_box(20, 20, 0.25, draw) == (10, 10, 10, 10)
    rng = np.random.default_rng(1)
    for height, width in [(1, 300), (300, 1), (1, 1), (2, 3), (50, 51)]:
        for _ in range(50):
            top, left, h, w = crop_box(height, width, 0.08, rng.random(2 * TRIES + 2))
            assert 0 <= top <= top + h <= height
            assert 0 <= left <= left + w <= width
            assert h > 0
            assert w > 0


def test_no_crop_of_an_allowed_ratio_falls_back_to_the_centre():
    draw = np.full(2 * TRIES + 2, 0.5)
    draw[: 2 * TRIES : 2] = 1.0  # the whole area, which no box of ratio 1 holds in a strip
    assert crop_box(30, 300, 0.5, draw) == (0, (300 - 40) // 2, 30, 40)  # 4/3 · 30
    assert crop_box(300, 30, 0.5, draw) == ((300 - 40) // 2, 0, 40, 30)  # 30 / (3/4)
    assert math.isclose(40 / 30, 4 / 3)
