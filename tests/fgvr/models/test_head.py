"""Heads as models: probabilities by hand, folders, pixels against stored vectors."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from fgvr import schemas, tables
from fgvr.clip.vectors import embedding_rows
from fgvr.config import Clip, ImageLimits
from fgvr.encoders.encoder import encode_images, load_encoder
from fgvr.heads.costs import CostFile
from fgvr.heads.networks import build_network
from fgvr.hierarchy.decisions import TreeRule
from fgvr.hierarchy.kinds import Kinds
from fgvr.models.base import ModelFolderError
from fgvr.models.from_features import StoredVectorWorker
from fgvr.models.head import HeadClassifier, HeadModel, VectorClasses, load_vector_classes
from fgvr.models.infer import InferSettings, load_classifier
from fgvr.schemas import Failure, Reason
from fgvr.selection.whitening import Whitening
from fgvr.tables import Table
from tests.fgvr.heads.planted_rows import random_vectors

DEMO = Clip(model="demo")
PLAIN = Whitening(np.zeros(2), np.eye(2), np.zeros(2))


def test_prototypes_by_hand():
    directions = np.array([[1, 0], [0.6, 0.8]], np.float32)
    classes = VectorClasses.of_directions(("east", "north"), directions, PLAIN, temperature=2.0)
    expected = softmax([10 * 0.6, 10 * 1.0])  # κ = 20, T = 2
    np.testing.assert_allclose(classes.scores(np.array([[0.6, 0.8]], np.float16)), [expected], atol=1e-3)


def test_the_whitening_is_part_of_the_head():
    turned = Whitening(np.array([0.1, 0.2]), np.array([[2.0, 0.3], [0.3, 1.0]]), np.array([0.05, -0.1]))
    directions = random_vectors(3, 2)
    vectors = random_vectors(7, 2, seed=1)
    found = VectorClasses.of_directions(("a", "b", "c"), directions, turned).scores(vectors)
    np.testing.assert_allclose(found, softmax(20 * turned.apply(vectors) @ directions.T, axis=1), rtol=1e-4)
    plain = VectorClasses.of_directions(("a", "b", "c"), directions, None).scores(vectors)
    np.testing.assert_allclose(plain, softmax(20 * vectors @ directions.T, axis=1), rtol=1e-4)


def test_an_ensemble_is_the_mean_of_probabilities():
    members = tuple(build_network("linear", 2, 2, 8) for _ in range(2))
    with torch.no_grad():
        members[0].bias[0], members[1].bias[0] = 2.0, -1.0
    found = VectorClasses(("a", "b"), members, "linear", temperature=2.0).scores(np.zeros((1, 2), np.float32))
    expected = (softmax([1.0, 0.0]) + softmax([-0.5, 0.0])) / 2
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "linear", "mlp"])
def test_a_folder_gives_the_same_head(tmp_path, kind):
    torch.manual_seed(0)
    members = tuple(build_network(kind, 2, 3, 5, scale=7.0).eval() for _ in range(11))  # "1." is not "10."
    for member in members:
        for parameter in member.parameters():
            torch.nn.init.normal_(parameter)
    classes = VectorClasses(("a", "b", "ü"), members, kind, PLAIN, 1.7, hidden=5, scale=7.0)
    HeadModel(classes, None, {"method": "heads"}).save(tmp_path / "model")
    loaded = load_vector_classes(tmp_path / "model")
    vectors = random_vectors(6, 2)
    np.testing.assert_array_equal(loaded.scores(vectors), classes.scores(vectors))
    assert loaded.labels == ("a", "b", "ü")
    with pytest.raises(ModelFolderError, match="no encoder is known"):
        HeadClassifier.load(tmp_path / "model")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    uris = [str(folder / f"{n}.png") for n in range(5)]
    for uri in uris:
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(uri)
    return uris


@pytest.fixture(scope="module")
def head(tmp_path_factory, photos) -> Path:
    """Two names whose directions are photos 0 and 1."""
    vectors = encode_images(load_encoder(DEMO), [Image.open(uri).convert("RGB") for uri in photos[:2]])
    folder = tmp_path_factory.mktemp("head") / "model"
    HeadModel(VectorClasses.of_directions(("zero", "one"), vectors, None), DEMO).save(folder)
    return folder


def test_a_photo_is_classified_from_its_pixels_as_from_its_vector(head, photos):
    classifier = load_classifier(head)
    assert isinstance(classifier, HeadClassifier)
    assert classifier.labels == ["zero", "one"]
    assert classifier.questions == []
    images = [Image.open(uri).convert("RGB") for uri in photos]
    found = classifier.scores(images)
    assert found[:2].argmax(axis=1).tolist() == [0, 1]
    np.testing.assert_allclose(
        found, load_vector_classes(head).scores(encode_images(classifier.encoder, images)), rtol=1e-4
    )
    assert classifier.aspects(images) is None


def test_stored_vectors_are_used_and_other_photos_are_read(head, photos, tmp_path):
    encoder = load_encoder(DEMO)
    vectors = encode_images(encoder, [Image.open(uri).convert("RGB") for uri in photos])
    swapped = vectors[[1, 0, 2, 3, 4]]  # to see whose vector was used
    failures = [None, None, Failure(Reason.CORRUPT, "x"), None]
    tables.write_part(str(tmp_path / "e"), 0, embedding_rows(np.arange(4), swapped[:4], failures))
    Table(str(tmp_path / "e"), "embeddings", "f", 4, 1, 1, 4, 0.0, extra={}).commit()
    rows = pa.table({"image_id": pa.array([4, 0, 2, 1], pa.int64()), "uri": [photos[n] for n in (4, 0, 2, 1)]})
    worker = StoredVectorWorker(InferSettings(str(head), ImageLimits(), device="cpu", threads=1), str(tmp_path / "e"))
    found = worker.process(rows)
    assert found.schema.equals(schemas.PREDICTIONS)
    assert found["image_id"].to_pylist() == [4, 0, 2, 1]
    assert found["label"].to_pylist()[1::2] == ["one", "zero"]
    assert found["error"].null_count == 4
    pixels = load_vector_classes(head).scores(vectors)
    assert found["score"].to_pylist()[0] == pytest.approx(pixels[4].max(), rel=1e-4)
    assert found["score"].to_pylist()[2] == pytest.approx(pixels[2].max(), rel=1e-4)


def test_costs_decide_and_silence_counts_as_abstaining(head, photos, tmp_path):
    tables.write_part(str(tmp_path / "e"), 0, embedding_rows(np.arange(0), np.zeros((0, 128), np.float32), []))
    Table(str(tmp_path / "e"), "embeddings", "f", 0, 0, 1, 1, 0.0, extra={}).commit()
    rows = pa.table({"image_id": pa.array([0, 1], pa.int64()), "uri": photos[:2]})
    words = {"one": "one", "zero": "zero"}
    never_zero = CostFile({("one", "zero"): 1e9}, {}, words)
    for costs, labels, silent in (
        (None, ["zero", "one"], [False, False]),
        (never_zero, ["one", "one"], [False, False]),
        (CostFile({("one", "zero"): 1e9, ("*", "abstain"): 0.5}, {}, words), ["one", "one"], [True, False]),
    ):
        settings = InferSettings(str(head), ImageLimits(), device="cpu", threads=1, costs=costs)
        found = StoredVectorWorker(settings, str(tmp_path / "e")).process(rows)
        assert found["label"].to_pylist() == labels
        assert found["abstained"].to_pylist() == silent
        assert [top[0] for top in found["top_labels"].to_pylist()] == ["zero", "one"]  # by probability


def test_a_tree_answers_a_kind_where_the_name_is_unsure(head, photos, tmp_path):
    tables.write_part(str(tmp_path / "e"), 0, embedding_rows(np.arange(0), np.zeros((0, 128), np.float32), []))
    Table(str(tmp_path / "e"), "embeddings", "f", 0, 0, 1, 1, 0.0, extra={}).commit()
    rows = pa.table({"image_id": pa.array([0, 1], pa.int64()), "uri": photos[:2]})
    plain = StoredVectorWorker(InferSettings(str(head), ImageLimits(), device="cpu", threads=1), str(tmp_path / "e"))
    scores = plain.process(rows)["score"].to_pylist()
    sure = (1 + max(scores)) / 2
    kinds = Kinds({"zero": "number", "one": "number"}, {"number": "Number", "zero": "zero", "one": "one"})
    for rule, labels, ids, levels in (
        (TreeRule(kinds), ["zero", "one"], [0, 1], ["level 2", "level 2"]),
        (
            TreeRule(kinds, True, specific_above=sure),
            ["Number", "Number"],
            [None, None],
            ["level 1", "level 1"],
        ),
        (TreeRule(kinds, True, specific_above=0.5), ["zero", "one"], [0, 1], ["level 2", "level 2"]),
    ):
        settings = InferSettings(str(head), ImageLimits(), device="cpu", threads=1, costs=rule)
        found = StoredVectorWorker(settings, str(tmp_path / "e")).process(rows)
        assert found.schema.equals(schemas.PREDICTIONS_BY_LEVEL)
        assert found["label"].to_pylist() == labels
        assert found["label_id"].to_pylist() == ids
        assert found["level"].to_pylist() == levels
        assert found["abstained"].to_pylist() == [False, False]
        assert found["score"].to_pylist() == pytest.approx([1, 1] if ids[0] is None else scores, rel=1e-5)


@pytest.mark.parametrize("damage", ["format", "labels", "network", "weights", "members"])
def test_damaged_folders_are_told_apart(tmp_path, damage):
    folder = tmp_path / "model"
    HeadModel(VectorClasses.of_directions(("a", "b"), random_vectors(2, 3), None), None).save(folder)
    content = json.loads((folder / "model.json").read_text())
    if damage == "weights":
        (folder / "model.safetensors").write_bytes(b"no weights")
    elif damage == "labels":
        del content["labels"]
    else:
        content[damage] = {"format": 9, "network": "tree", "members": 3}[damage]
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(ModelFolderError):
        load_vector_classes(folder)
