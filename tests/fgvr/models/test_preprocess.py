import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from fgvr.models.student import Preprocess

PLAIN = Preprocess(input_size=4, resize=4, stored_side=8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, on which all correct ways to resize agree."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def test_centre_crop_takes_the_middle_of_the_longer_side():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = np.arange(4)[None, :, None]  # the middle square: columns 0, 1, 2, 3
    assert (PLAIN.centre_crop(image)[..., 0] == np.arange(4)).all()


def test_centre_crop_agrees_with_torchvisions_resize_and_centre_crop():
    preprocess = Preprocess(input_size=56, resize=64, stored_side=96, mean=(0, 0, 0), std=(1, 1, 1))
    image = photo(96, 144)
    reference = v2.Compose([v2.Resize(64, antialias=True), v2.CenterCrop(56)])(Image.fromarray(image))
    difference = np.abs(preprocess.centre_crop(image).astype(int) - np.asarray(reference).astype(int))
    assert difference.mean() < 1
    assert difference.max() <= 6


@pytest.mark.parametrize("side", [70, 130])  # of the crop: resized to 56 with two pixels a side, or all of them
@pytest.mark.parametrize("flip", [False, True])
def test_random_crops_have_the_pixels_of_torchvisions(side, flip):
    preprocess = Preprocess(input_size=56, resize=56, stored_side=160, mean=(0, 0, 0), std=(1, 1, 1))
    image = photo(160, 220)
    box = (9, 31, side, side * 4 // 3)  # top, left, height, width
    reference = functional.resized_crop(Image.fromarray(image), *box, [56, 56], antialias=True)
    reference = functional.horizontal_flip(reference) if flip else reference
    difference = np.abs(preprocess.crop(image, box, flip=flip).astype(int) - np.asarray(reference).astype(int))
    assert difference.mean() < 1
    assert difference.max() <= 6


def test_shrink_keeps_the_shape_and_never_enlarges():
    assert PLAIN.shrink(photo(32, 64)).shape == (8, 16, 3)
    assert PLAIN.shrink(photo(7, 64)).shape == (7, 64, 3)
    blocks = np.repeat(np.repeat(photo(8, 8), 2, 0), 2, 1)
    assert (PLAIN.shrink(blocks) == photo(8, 8)).all()  # the mean of 2 × 2 equal pixels


@pytest.mark.parametrize("size", [(1, 50_000), (50_000, 1), (1, 1), (3, 2)])
def test_extreme_shapes_become_an_input(size):
    image = Image.new("RGB", (size[1], size[0]), (10, 20, 30))
    prepared = PLAIN.prepare(image)
    assert prepared.shape == (4, 4, 3)
    assert (prepared == (10, 20, 30)).all()


def test_flip_mirrors():
    image = photo(4, 4)
    assert (PLAIN.crop(image, (0, 0, 4, 4), flip=True) == image[:, ::-1]).all()


def test_shrinking_crops_do_not_skip_pixels():
    # Columns of 0 and 255: a crop shrunk 16 times is their mean, not one of them.
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, ::2] = 255
    assert (np.abs(PLAIN.crop(image, (0, 0, 64, 64)).astype(int) - 127.5) < 1).all()


def test_normalise_hand_worked_and_channels_last():
    batch = torch.tensor([255, 0, 51], dtype=torch.uint8).expand(2, 4, 4, 3).contiguous()
    inputs = PLAIN.normalise(batch)
    assert inputs.shape == (2, 3, 4, 4)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    # (1 − 0.5) / 0.5 = 1; (0 − 0.25) / 0.25 = −1; (0.2 − 0) / 1 = 0.2
    assert torch.allclose(inputs[0, :, 0, 0], torch.tensor([1.0, -1.0, 0.2]))


def test_resize_below_the_input_is_refused():
    with pytest.raises(ValueError, match="resize 3 is smaller"):
        Preprocess(input_size=4, resize=3, stored_side=8, mean=(0, 0, 0), std=(1, 1, 1))
