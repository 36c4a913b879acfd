"""Edges and sizes of what is generated from."""

import numpy as np
import pytest
from PIL import Image

from fgvr.augment.edges import canny, fitted


def test_the_edges_of_a_square_are_its_four_sides() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 20:44] = 255  # rows 16 … 47, columns 20 … 43
    edges = canny(pixels)
    assert edges.shape == (64, 64, 3)
    assert set(np.unique(edges)) == {0, 255}
    rows, columns = np.nonzero(edges[:, :, 0])
    # On the outline, one pixel inside or outside of it, and nowhere else:
    outside = np.zeros((64, 64), bool)
    outside[15:49, 19:45] = True
    outside[18:46, 22:42] = False
    assert outside[rows, columns].all()
    # All of each side but its corners:
    line = edges[:, :, 0] > 0
    assert line[14:19, 22:42].any(axis=0).all()
    assert line[45:50, 22:42].any(axis=0).all()
    assert line[18:46, 18:23].any(axis=1).all()
    assert line[18:46, 41:46].any(axis=1).all()


def test_what_differs_in_colour_alone_has_an_edge() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32, 0], pixels[:, 32:, 1] = 200, 102  # of about the same grey: 0.299 · 200 = 0.587 · 102
    assert canny(pixels)[:, 30:34].any()
    assert not canny(np.full((64, 64, 3), 130, np.uint8)).any()


@pytest.mark.parametrize(
    ("photo", "square", "picture"),
    [
        ((640, 480), False, (704, 512)),  # 4:3 of 512 is 683, rounded to 11 · 64
        ((480, 640), False, (512, 704)),
        ((300, 300), False, (512, 512)),
        ((3000, 100), False, (1024, 512)),  # a strip loses its ends
        ((640, 480), True, (512, 512)),
        ((1, 1), False, (512, 512)),
    ],
)
def test_a_picture_has_the_shape_of_its_photo(photo: tuple[int, int], square: bool, picture: tuple[int, int]) -> None:
    assert fitted(Image.new("RGB", photo), 512, square=square).size == picture


def test_the_middle_of_a_long_photo_is_kept() -> None:
    pixels = np.zeros((10, 100, 3), np.uint8)
    pixels[:, 40:60] = 255  # the middle fifth; of the photo a fifth in the middle stays, whose half this is
    strip = np.asarray(fitted(Image.fromarray(pixels), 64))[:, :, 0]
    assert strip.shape == (64, 128)
    assert strip[:, 5:-5].min() > 200
