import numpy as np
from PIL import Image

from fgvr.clip.views import random_view


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
