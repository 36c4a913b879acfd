"""Generated pictures in place of photos: how often, whose, and the same for any number of workers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgvr.config import ImageLimits
from fgvr.models.student import Preprocess
from fgvr.training.batches import Loader
from fgvr.training.image_store import StoreSettings, open_store
from fgvr.training.mixing import Mixing
from fgvr.training.swaps import NO_PICTURE, Pictures, Swaps

PREPROCESS = Preprocess(input_size=8, resize=8, stored_side=12, mean=(0, 0, 0), std=(1, 1, 1))


def swaps(sources: list[int], alpha: float) -> Swaps:
    numbers = np.array(sources, np.int64)
    return Swaps(Pictures(numbers, [f"/{n}" for n in range(len(numbers))], alpha, "v"), {})  # type: ignore[arg-type]


def test_of_10_000_draws_four_in_ten_are_pictures_and_of_each_photo_at_most_two() -> None:
    made = swaps([n for n in range(100) for _ in range(2)], 0.4)
    found = [made.draw(np.arange(100), np.random.default_rng((0, 0, step, 0, 3))) for step in range(100)]
    picked = np.stack(found)
    assert picked.size == 10_000
    assert abs(int((picked != NO_PICTURE).sum()) - 4_000) <= 150  # three standard deviations of 49
    for photo in range(100):
        of_photo = set(picked[:, photo].tolist()) - {NO_PICTURE}
        assert of_photo == {2 * photo, 2 * photo + 1}
    first, second = ((picked % 2 == half) & (picked != NO_PICTURE) for half in (0, 1))
    assert abs(int(first.sum()) - int(second.sum())) < 5 * np.sqrt(4_000)


def test_only_photos_with_pictures_are_replaced() -> None:
    made = swaps([2, 2, 2, 7], 1.0)
    found = made.draw(np.arange(10), np.random.default_rng(0)).tolist()
    assert [place for place, picture in enumerate(found) if picture != NO_PICTURE] == [2, 7]
    assert found[2] in {0, 1, 2}
    assert found[7] == 3
    assert (swaps([2, 7], 0.0).draw(np.arange(10), np.random.default_rng(0)) == NO_PICTURE).all()
    assert (swaps([], 1.0).draw(np.arange(10), np.random.default_rng(0)) == NO_PICTURE).all()
    assert made.draw(np.zeros(0, np.int64), np.random.default_rng(0)).tolist() == []


def test_other_pictures_change_nothing_for_a_photo() -> None:
    few, many = swaps([4, 4], 0.5), swaps([1, 1, 4, 4, 6], 0.5)
    for step in range(50):
        one = few.draw(np.array([6, 4, 1]), np.random.default_rng(step))[1]
        other = many.draw(np.array([6, 4, 1]), np.random.default_rng(step))[1]
        assert (one == NO_PICTURE) == (other == NO_PICTURE)
        assert one == NO_PICTURE or other == one + 2


def test_pictures_are_written_and_read(tmp_path: Path) -> None:
    Pictures(np.array([1, 1, 5]), ["/a", "/b", "/ü"], 0.25, "v.1").write(str(tmp_path / "p"))
    read = Pictures.read(str(tmp_path / "p"))
    assert (read.sources.tolist(), list(read.uris), read.alpha, read.identity) == (
        [1, 1, 5],
        ["/a", "/b", "/ü"],
        0.25,
        "v.1",
    )


def images(folder: Path, levels: list[int]) -> list[str]:
    folder.mkdir()
    for place, level in enumerate(levels):
        Image.new("RGB", (12, 12), (level, level, level)).save(folder / f"{place}.png")
    return [str(folder / f"{place}.png") for place in range(len(levels))]


@pytest.fixture
def loaders(tmp_path: Path):
    """Photo n is n, its picture is 100 + n; photos 0 … 5 have one."""
    settings = StoreSettings(PREPROCESS, ImageLimits(), 10**9)
    photos = open_store(tmp_path / "cache", "v", images(tmp_path / "a", list(range(12))), settings)
    uris = images(tmp_path / "b", [100 + n for n in range(6)])
    pictures = Pictures(np.arange(6), uris, 0.5, "w")
    shown = Swaps(pictures, open_store(tmp_path / "cache", "w", uris, settings))

    def made(**more) -> Loader:
        return Loader(photos, PREPROCESS, 0.3, **{"swaps": shown, **more})

    return made


def test_a_batch_shows_pictures_in_place_of_photos_and_validation_does_not(loaders) -> None:
    seen = set()
    for epoch in range(6):
        for batch in loaders().training(np.arange(12), 4, 0, epoch):
            for position, level in zip(batch.positions.tolist(), batch.pixels[:, 0, 0, 0].tolist(), strict=True):
                assert level in ({position, 100 + position} if position < 6 else {position})
                seen.add(level)
    assert seen == {*range(12), *range(100, 106)}
    for batch in loaders().validation(np.arange(12), 5):
        assert batch.pixels[:, 0, 0, 0].tolist() == batch.positions.tolist()


def test_workers_share_the_steps_of_one_and_a_resumed_epoch_is_the_same(loaders) -> None:
    whole = list(loaders().training(np.arange(12), 4, 0, 3))
    again = list(loaders(threads=2).training(np.arange(12), 4, 0, 3))
    shares = [list(loaders(rank=rank, world_size=2).training(np.arange(12), 4, 0, 3)) for rank in (0, 1)]
    assert any((batch.pixels >= 100).any() for batch in whole)
    for step, batch in enumerate(whole):
        assert torch.equal(batch.pixels, again[step].pixels)
        for rank in (0, 1):
            assert torch.equal(batch.pixels[rank::2], shares[rank][step].pixels)


def test_without_pictures_the_crops_are_those_of_before(loaders, tmp_path: Path) -> None:
    plain = list(loaders(swaps=None).training(np.arange(12), 4, 0, 0))
    shown = list(loaders().training(np.arange(12), 4, 0, 0))
    for one, other in zip(plain, shown, strict=True):
        assert one.positions.tolist() == other.positions.tolist()
        photo = other.pixels[:, 0, 0, 0] < 100
        assert torch.equal(one.pixels[photo], other.pixels[photo])


def test_pictures_are_mixed_like_photos_and_by_any_number_of_workers_alike(loaders) -> None:
    mixing = Mixing(mixup=0.0, cutmix=1.0)
    whole = list(loaders(mixing=mixing).training(np.arange(12), 4, 0, 3))
    shares = [list(loaders(mixing=mixing, rank=rank, world_size=2).training(np.arange(12), 4, 0, 3)) for rank in (0, 1)]
    levels = set()
    for step, batch in enumerate(whole):
        for pixels, own, partner in zip(batch.pixels, batch.positions.tolist(), batch.partners.tolist(), strict=True):
            seen = set(pixels.unique().tolist())
            assert seen <= {own, own + 100, partner, partner + 100}
            levels |= seen
        for rank in (0, 1):
            assert torch.equal(batch.pixels[rank::2], shares[rank][step].pixels)
    assert max(levels) >= 100
