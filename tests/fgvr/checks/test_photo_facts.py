"""Numbers about single photos, worked by hand or by SciPy, and what survives when a photo is stored anew."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scipy.ndimage import laplace

from fgvr import schemas
from fgvr.checks.copies import agree
from fgvr.checks.photo_facts import CheckWorker, look, photo_facts, sharpness, shrunk
from fgvr.config.data import ImageLimits

LIMITS = ImageLimits()


def encoded(image: Image.Image, kind: str = "JPEG", **how: object) -> bytes:
    """An image as a file."""
    sink = io.BytesIO()
    image.save(sink, kind, **how)
    return sink.getvalue()


def scene(seed: int, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """A smooth random picture: low frequencies of all directions."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def bits(one: int, other: int) -> int:
    return ((one ^ other) & (2**64 - 1)).bit_count()


def test_brightness_contrast_and_size_by_hand() -> None:
    half = np.zeros((100, 200, 3), np.uint8)
    half[:, 100:] = 200
    facts = photo_facts(encoded(Image.fromarray(half), "PNG"), LIMITS)
    assert (facts.width, facts.height) == (200, 100)
    assert facts.brightness == pytest.approx(100)
    assert facts.contrast == pytest.approx(100)


def test_sharpness_is_scipys_laplacian() -> None:
    luma = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    # SciPy's border rule `mirror` is OpenCV's default, which does not repeat the outermost pixel.
    assert sharpness(luma) == pytest.approx(laplace(luma.astype(float), mode="mirror").var())
    assert sharpness(np.full((40, 60), 77, np.uint8)) == 0


def test_blurring_lowers_sharpness_whatever_the_size() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    sharp = photo_facts(encoded(noise, "PNG"), LIMITS).sharpness
    soft = photo_facts(encoded(noise.resize((32, 32)).resize((256, 256)), "PNG"), LIMITS).sharpness
    assert soft < 0.05 * sharp
    assert shrunk(np.zeros((1000, 2000), np.uint8)).shape == (256, 512)


@pytest.mark.parametrize("seed", range(10))
def test_the_look_survives_size_compression_and_light(seed: int) -> None:
    photo = scene(seed)
    own = photo_facts(encoded(photo, quality=95), LIMITS)
    for other in (
        encoded(photo.resize((320, 240)), quality=80),
        encoded(photo, quality=40),
        encoded(photo, "PNG"),
        encoded(photo.point(lambda value: min(255, value + 20))),
        encoded(photo, "WEBP", quality=70),
    ):
        facts = photo_facts(other, LIMITS)
        assert facts.digest != own.digest
        assert bits(facts.look, own.look) <= 4
        both = [np.frombuffer(each.colours, np.uint8)[None] for each in (facts, own)]
        assert agree(both[0], both[1]).all()
    assert bits(photo_facts(encoded(scene(seed + 100)), LIMITS).look, own.look) > 10


def test_a_turned_photo_has_its_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = photo_facts(encoded(scene(0), exif=exif), LIMITS)
    assert (facts.width, facts.height) == (480, 640)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (1, 1), "red"),
        scene(0).convert("CMYK"),
        scene(0).convert("L"),
        scene(0).convert("RGBA"),
        Image.fromarray(np.full((30, 40), 40_000, np.uint16)),
        Image.new("P", (20, 20)),
    ],
    ids=["1x1", "CMYK", "grey", "transparent", "16 bit", "palette"],
)
def test_every_kind_of_picture_has_finite_numbers(image: Image.Image) -> None:
    facts = photo_facts(encoded(image, "TIFF"), LIMITS)
    assert np.isfinite([facts.brightness, facts.contrast, facts.sharpness]).all()


def test_an_animation_and_a_damaged_file(tmp_path) -> None:
    frames = [scene(n, (64, 64)) for n in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "b.jpg").write_bytes(encoded(scene(0))[:2000])
    (tmp_path / "c.jpg").write_bytes(b"no image")
    rows = pa.table(
        {"image_id": [4, 7, 9, 11], "uri": [str(tmp_path / name) for name in ("a.gif", "b.jpg", "c.jpg", "d")]}
    )
    found = CheckWorker(LIMITS, threads=2).process(rows)
    assert found.schema == schemas.PHOTO_CHECKS
    assert found["image_id"].to_pylist() == [4, 7, 9, 11]
    assert found["width"].to_pylist() == [64, None, None, None]
    reasons = [None if row is None else row["reason"] for row in found["unreadable"].to_pylist()]
    assert reasons == [None, "corrupt", "not_an_image", "not_found"]


def test_looks_of_plain_surfaces_say_nothing_and_are_numbers() -> None:
    assert isinstance(look(np.full((50, 50), 9, np.uint8)), int)
