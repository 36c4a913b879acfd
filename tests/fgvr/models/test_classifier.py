import json

import numpy as np
import pytest
import torch
from PIL import Image

from fgvr.clip.model import load_clip
from fgvr.config import Clip
from fgvr.models.base import ModelFolderError
from fgvr.models.infer import load_classifier
from fgvr.models.near import ClassFeatures, NearClassifier, NearModel, ZeroShotClassifier, load_classes


@pytest.fixture(scope="module")
def clip_model(clip_folder):
    return load_clip(Clip(model=str(clip_folder)))


def pictures(count):
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(count)]


def test_scores_by_hand():
    # cosines (1, 0) and (0.6, 0.8) with scale ln 3 / 0.4: softmax of (ln 3 · 2.5, 0) and a ratio of 3^−0.5
    classes = ClassFeatures(("a", "b"), np.eye(2, dtype=np.float32), float(np.log(3)) * 2.5)
    scores = classes.scores(np.array([[1.0, 0.0], [0.6, 0.8]]))
    expected = [3**2.5 / (1 + 3**2.5), 1 / (1 + 3**0.5)]
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-6)


def test_zero_shot_is_cosine_times_scale(clip_model, names):
    classifier = ZeroShotClassifier.of(clip_model, names, "a photo of a {}.")
    images = pictures(3)
    cosines = clip_model.encode_images(images) @ clip_model.encode_names(names, "a photo of a {}.").T
    logits = np.exp(float(clip_model.network.logit_scale)) * cosines
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.scores(images), expected, rtol=1e-4)
    np.testing.assert_allclose(classifier.scores_from_features(clip_model.encode_images(images)), expected, rtol=1e-4)
    assert classifier.aspects(images) is None
    assert classifier.labels == names


def test_a_model_folder_stands_alone(clip_model, clip_folder, names, tmp_path):
    classes = ClassFeatures(tuple(names), clip_model.encode_names(names, "{}"), clip_model.logit_scale)
    model = NearModel(classes, torch.randn(4, 32), clip_model.source, {"loss": "proden"})
    model.save(tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "model").rename(tmp_path / "elsewhere" / "model")
    loaded = load_classifier(moved)
    assert isinstance(loaded, NearClassifier)
    assert loaded.clip.source.folder == moved / "clip"
    assert loaded.labels == names
    expected = ZeroShotClassifier(clip_model, classes).scores(pictures(4))
    np.testing.assert_allclose(loaded.scores(pictures(4)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.json", '{"kind": "near", "format": 99}', "format 99"),
        ("model.json", '{"kind": "near", "format": 1, "labels": []}', "logit_scale is missing"),
        ("model.safetensors", "no", "does not fit"),
    ],
)
def test_damage_is_named(clip_model, names, tmp_path, file, content, message):
    classes = ClassFeatures(tuple(names), clip_model.encode_names(names, "{}"), 1.0)
    NearModel(classes, torch.zeros(1, 32), clip_model.source).save(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ModelFolderError, match=message):
        load_classes(tmp_path)


def test_labels_and_features_must_have_one_number(clip_model, names, tmp_path):
    classes = ClassFeatures(tuple(names), clip_model.encode_names(names, "{}"), 1.0)
    NearModel(classes, torch.zeros(1, 32), clip_model.source).save(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(content | {"labels": names[:2]}))
    with pytest.raises(ModelFolderError, match="5 classes for 2 labels"):
        load_classes(tmp_path)
