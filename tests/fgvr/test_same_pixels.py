"""Whatever looks at a photo sees the same pixels: validation, infer, the MLflow model, the embed stage."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cluster.pyfunc_model import ClassifierModel
from fgvr import storage
from fgvr.clip.model import load_clip
from fgvr.clip.source import find_clip
from fgvr.config import Clip, ImageLimits
from fgvr.encoders.embed_worker import EmbedWorker
from fgvr.images.read import ImageError, decode_image, decode_pixels, read_image, read_image_bytes
from fgvr.models.infer import InferSettings, InferWorker, load_classifier
from fgvr.models.near import NearModel, zero_shot_classes
from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess
from fgvr.training.image_store import StoreSettings, open_store

LIMITS = ImageLimits()


def detailed(width: int, height: int) -> Image.Image:
    """Stripes that grow finer to one side and noise: decoded at another scale they have other pixels."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = 0.5 + 0.5 * np.sin(2 * np.pi * 60 * np.stack([x * x, y * y, x * y], axis=2))
    noise = np.random.default_rng(width).random((height, width, 3))
    return Image.fromarray(((0.7 * waves + 0.3 * noise) * 255).astype(np.uint8))


def rotated(value: int) -> dict[str, object]:
    exif = Image.Exif()
    exif[0x0112] = value
    return {"exif": exif}


PHOTOS = {  # size, mode, options of `save`
    "large.jpg": ((3000, 2000), "RGB", {"quality": 90}),
    "middle.jpg": ((900, 700), "RGB", {"quality": 85}),
    "just-above-twice.jpg": ((199, 193), "RGB", {}),
    "just-below-twice.jpg": ((191, 191), "RGB", {}),
    "wide.jpg": ((2400, 130), "RGB", {}),
    "tall.jpg": ((333, 1999), "RGB", {"subsampling": 0}),
    "turned.jpg": ((1600, 1201), "RGB", rotated(6)),
    "mirrored.jpg": ((1201, 900), "RGB", rotated(2)),
    "grey.jpg": ((1000, 800), "L", {}),
    "cmyk.jpg": ((800, 600), "CMYK", {}),
    "progressive.jpg": ((1280, 960), "RGB", {"progressive": True}),
    "photo.png": ((700, 500), "RGB", {}),
    "transparent.png": ((700, 500), "RGBA", {}),
    "small.jpg": ((50, 40), "RGB", {}),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    for name, (size, mode, options) in PHOTOS.items():
        detailed(*size).convert(mode).save(folder / name, **options)
    return [str(folder / name) for name in PHOTOS]


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    spec = StudentSpec("test_byobnet", ("a", "b", "c"), (), timm_preprocess("test_byobnet", 64))
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("student")
    save_student(folder, spec, build_student(spec).state_dict(), {})
    return folder


@pytest.fixture(scope="module")
def near(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("near")
    classes = zero_shot_classes(load_clip(Clip()), ["Crested Azure Finch", "Masked Olive Wren"], "{}")
    NearModel(classes, torch.zeros(1, 1), find_clip(Clip())).save(folder)
    return folder


def watched(classifier) -> list[torch.Tensor]:
    """What the classifier's network is given from now on."""
    seen: list[torch.Tensor] = []
    predict = classifier.predict
    classifier.predict = lambda batch: seen.append(batch) or predict(batch)
    return seen


def infers(model: Path, uris: list[str], limits: ImageLimits = LIMITS) -> torch.Tensor:
    worker = InferWorker(InferSettings(str(model), limits, device="cpu", threads=2))
    seen = watched(worker.classifier)
    rows = worker.process(pa.table({"image_id": range(len(uris)), "uri": uris}))
    assert rows["error"].null_count == len(uris)
    return torch.cat(seen)


def serves(model: Path, uris: list[str]) -> torch.Tensor:
    served = ClassifierModel()
    served.classifier = load_classifier(model)
    seen = watched(served.classifier)
    served.predict(None, pd.DataFrame({"image": [Path(uri).read_bytes() for uri in uris]}))
    return torch.cat(seen)


def validates(model: Path, uris: list[str], cache, limits: ImageLimits = LIMITS) -> torch.Tensor:
    preprocess = load_classifier(model).spec.preprocess
    store = open_store(cache, "v1", uris, StoreSettings(preprocess, limits, max_bytes=2**30))
    crops = [preprocess.centre_crop(store[place]) for place in range(len(uris))]
    return torch.from_numpy(np.stack(crops))


def embeds(uris: list[str]) -> torch.Tensor:
    worker = EmbedWorker(encoder=Clip(), limits=LIMITS, batch_images=4, device="cpu")
    return torch.cat([worker._prepare((0, uri)) for uri in uris])


def test_a_student_sees_in_infer_and_behind_mlflow_what_it_saw_in_validation(photos, student, tmp_path):
    expected = validates(student, photos, tmp_path)
    for name, ours, served, known in zip(
        PHOTOS, infers(student, photos), serves(student, photos), expected, strict=True
    ):
        assert torch.equal(ours, known), name
        assert torch.equal(served, known), name


def test_the_bottom_that_is_cut_off_changes_nothing_in_this(photos, student, tmp_path):
    limits = ImageLimits(cut_bottom=7)
    assert torch.equal(infers(student, photos, limits), validates(student, photos, tmp_path, limits))


def test_clip_sees_in_infer_and_behind_mlflow_what_the_embed_stage_saw(photos, near):
    expected = embeds(photos)
    for name, ours, served, known in zip(PHOTOS, infers(near, photos), serves(near, photos), expected, strict=True):
        assert torch.equal(ours, known), name
        assert torch.equal(served, known), name


def test_the_sizes_that_classifiers_ask_for(student, near):
    assert load_classifier(student).short_side == 96  # what training keeps of photos for an input of 64
    assert load_classifier(near).short_side == 128  # twice the input of the demo's CLIP


@pytest.mark.parametrize("short_side", [None, 96, 336])
def test_pixels_without_a_pillow_image_are_those_of_one(photos, short_side):
    for uri in photos:
        data = Path(uri).read_bytes()
        image = decode_image(data, LIMITS, short_side=short_side)
        np.testing.assert_array_equal(decode_pixels(data, LIMITS, short_side=short_side), np.asarray(image))
        np.testing.assert_array_equal(np.asarray(read_image(uri, LIMITS, short_side=short_side)), np.asarray(image))
        assert image.mode == "RGB"


def test_a_file_that_grows_while_it_is_read_is_read_up_to_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "growing.jpg"
    path.write_bytes(b"x" * 100)
    grown = path.stat()

    class Growing(type(path)):
        def stat(self, **_):
            return type("Facts", (), {"st_size": 10, "st_mode": grown.st_mode})

    monkeypatch.setattr(storage, "local_path", Growing)
    assert read_image_bytes(str(path), ImageLimits(max_bytes=100)) == b"x" * 100
    with pytest.raises(ImageError, match="more than 50 bytes"):
        read_image_bytes(str(path), ImageLimits(max_bytes=50))
