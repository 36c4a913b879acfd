"""RandAugment: timm's operations with arguments of its own scale, by draws that a resumed run makes again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp, rand_augment_choices

from fgvr.training.rand_augment import OPERATIONS, RandAugment
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import StudentTrainer
from tests.fgvr.training.coloured_photos import job


def crop(height: int = 20, width: int = 20) -> np.ndarray:
    ramp = np.linspace(0, 1, height)[:, None, None] * np.array([250, 120, 30])
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    return (ramp + noise).clip(0, 255).astype(np.uint8)


def draws(*rows: tuple[float, float, float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def test_the_operations_are_timms_in_its_order() -> None:
    assert list(OPERATIONS) == rand_augment_choices("", increasing=True)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [0, 3, 9, 10])
@pytest.mark.parametrize("positive", [True, False])
def test_each_operation_is_timms(name: str, magnitude: float, positive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.4 if positive else 0.6)
    hparams = {"img_mean": (9, 99, 199), "interpolation": Image.Resampling.BILINEAR}
    # timm asks for no bits at all at 10, which Pillow refuses.
    most = min(magnitude, 9) if name == "PosterizeIncreasing" else magnitude
    theirs = AugmentOp(name, prob=1, magnitude=most, hparams=hparams)(Image.fromarray(crop()))
    number = list(OPERATIONS).index(name)
    draw = draws(((number + 0.5) / len(OPERATIONS), 0.1, 0.4 if positive else 0.6))
    mine = RandAugment(1, magnitude, (9, 99, 199))(crop(), draw)
    np.testing.assert_array_equal(mine, np.asarray(theirs))


def test_half_of_the_drawn_operations_are_applied_one_after_another() -> None:
    augment, invert = RandAugment(3, 9), 2.5 / len(OPERATIONS)
    np.testing.assert_array_equal(augment(crop(), draws((invert, 0.51, 0), (invert, 0.9, 0))), crop())
    np.testing.assert_array_equal(augment(crop(), draws((invert, 0.49, 0))), 255 - crop())
    np.testing.assert_array_equal(augment(crop(), draws((invert, 0.2, 0), (invert, 0.2, 0))), crop())
    assert augment(crop(), draws((1.0, 0.1, 0.1))).shape == (20, 20, 3)  # the end of the range is the last operation


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (2, 50)])
def test_views_of_tiny_images_are_images(height: int, width: int) -> None:
    augment = RandAugment(2, 10)
    for number in range(len(OPERATIONS)):
        place = (number + 0.5) / len(OPERATIONS)
        result = augment(crop(height, width), draws((place, 0.1, 0.3), (place, 0.1, 0.7)))
        assert (result.shape, result.dtype) == ((height, width, 3), np.uint8)


def test_strong_views_of_photos_of_eight_pixels(tmp_path: Path) -> None:
    task = job(tmp_path, randaugment=2)
    for uri in (tmp_path / "photos").iterdir():
        Image.open(uri).resize((8, 8)).save(uri)
    trainer = StudentTrainer(task, LocalReporter(tmp_path / "run"))
    for batch in trainer.batches(0):
        assert batch.pixels.shape[1:] == (16, 16, 3)
        assert bool(torch.isfinite(trainer.losses(batch)["class_loss"].total))


def test_views_depend_on_seed_epoch_and_image_alone(tmp_path: Path) -> None:
    task = job(tmp_path, randaugment=2, randaugment_magnitude=10)
    trainer = StudentTrainer(task, LocalReporter(tmp_path / "run"))
    loader, positions = trainer.data.loader, trainer.data.training

    def seen(seed: int, epoch: int, **more) -> list[torch.Tensor]:
        return [batch.pixels for batch in replace(loader, **more).training(positions, 8, seed, epoch)]

    np.random.seed(5)  # noqa: NPY002 - nothing may be drawn from the global generators
    first = seen(0, 1)
    np.random.seed(6)  # noqa: NPY002
    assert all(torch.equal(one, other) for one, other in zip(first, seen(0, 1), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(first, seen(0, 1, threads=3, views=2), strict=True))
    for other in (seen(0, 2), seen(1, 1), seen(0, 1, augment=None)):
        assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    assert loader.augment is not None
    assert loader.augment.fill == tuple(round(255 * mean) for mean in task.spec.preprocess.mean)
    # Crops and flips are those of a student without it: where nothing is applied, the pixels are the same.
    still = seen(0, 1, augment=RandAugment(0, 9))
    assert all(torch.equal(one, other) for one, other in zip(still, seen(0, 1, augment=None), strict=True))
