from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgvr.config import ImageLimits
from fgvr.models.student import Preprocess
from fgvr.training.batches import Loader, epoch_steps
from fgvr.training.image_store import StoreSettings, open_store

PREPROCESS = Preprocess(input_size=8, resize=8, stored_side=12, mean=(0, 0, 0), std=(1, 1, 1))
COUNT = 11


def loader(tmp_path: Path, **more) -> Loader:
    """Image n is a plain colour (n, n, n)."""
    uris = [str(tmp_path / f"{n}.png") for n in range(COUNT)]
    for n, uri in enumerate(uris):
        Image.new("RGB", (12, 10), (n, n, n)).save(uri)
    settings = StoreSettings(PREPROCESS, ImageLimits(), more.pop("max_bytes", 10**9))
    store = open_store(tmp_path / "cache", "v1", uris, settings)
    return Loader(store, PREPROCESS, min_crop=0.3, **more)


def test_every_image_once_an_epoch_in_batches_of_nearly_equal_size():
    steps = epoch_steps(np.arange(100, 121), batch_size=5, seed=0, epoch=0)
    assert sorted(np.concatenate(steps)) == list(range(100, 121))
    assert [len(step) for step in steps] == [5, 4, 4, 4, 4]
    assert np.concatenate(epoch_steps(np.arange(100, 121), 5, 0, 1)).tolist() != np.concatenate(steps).tolist()


def test_a_batch_holds_the_images_it_says(tmp_path):
    batches = list(loader(tmp_path).training(np.arange(COUNT), 4, seed=1, epoch=2))
    for batch in batches:
        assert batch.pixels.shape == (len(batch.positions), 8, 8, 3)
        assert (batch.pixels == torch.from_numpy(batch.positions)[:, None, None, None]).all()
        assert batch.readable.all()
    assert sorted(np.concatenate([batch.positions for batch in batches])) == list(range(COUNT))


@pytest.mark.parametrize("threads", [0, 3])
def test_workers_share_the_steps_of_one(tmp_path, threads):
    rng = np.random.default_rng(0)
    alone = loader(tmp_path)
    for n in range(COUNT):  # pictures on which another crop is another picture
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
    store = open_store(tmp_path / "cache", "v2", alone.store.uris, alone.store.settings)
    whole = list(Loader(store, PREPROCESS, 0.3).training(np.arange(COUNT), 4, 0, 0))
    shares = [
        list(
            Loader(store, PREPROCESS, 0.3, rank=rank, world_size=2, threads=threads).training(np.arange(COUNT), 4, 0, 0)
        )
        for rank in range(2)
    ]
    for step, batch in enumerate(whole):
        for rank in range(2):
            share = shares[rank][step]
            assert share.positions.tolist() == batch.positions[rank::2].tolist()
            assert share.step_positions.tolist() == batch.positions.tolist()
            assert torch.equal(share.pixels, batch.pixels[rank::2])


def test_validation_takes_all_in_order(tmp_path):
    batches = list(loader(tmp_path).validation(np.array([5, 2, 9]), 2))
    assert [batch.positions.tolist() for batch in batches] == [[5, 2], [9]]
    assert batches[1].pixels.unique().tolist() == [9]


def test_an_image_that_fails_after_all_is_marked(tmp_path):
    late = loader(tmp_path, max_bytes=0)  # nothing is stored: every image is read when its turn comes
    Path(late.store.uris[3]).unlink()
    (batch,) = late.validation(np.array([2, 3, 4]), 8)
    assert batch.readable.tolist() == [True, False, True]
    assert (batch.pixels[1] == 0).all()


def test_half_of_the_crops_are_mirrored(tmp_path):
    """Images are darker on their left; whole crops, so that nothing else tells a mirrored one."""
    uris = [str(tmp_path / f"{n}.png") for n in range(COUNT)]
    for uri in uris:
        Image.fromarray(np.repeat(np.arange(12, dtype=np.uint8)[None, :, None], 12, 0).repeat(3, 2)).save(uri)
    store = open_store(tmp_path / "cache", "v1", uris, StoreSettings(PREPROCESS, ImageLimits(), 10**9))
    batches = [
        batch
        for epoch in range(100)
        for batch in Loader(store, PREPROCESS, 0.3).training(np.arange(COUNT), COUNT, 0, epoch)
    ]
    pixels = torch.cat([batch.pixels for batch in batches]).int()
    mirrored = (pixels[:, 0, 0, 0] > pixels[:, 0, -1, 0]).float().mean()
    assert mirrored == pytest.approx(0.5, abs=0.06)  # four standard deviations of 1,100 coins
