from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from fgvr import schemas
from fgvr.config import ImageLimits
from fgvr.models.base import Outputs
from fgvr.models.infer import InferSettings, InferWorker, load_classifier, prediction_rows
from fgvr.models.student import StudentSpec, build_student, load_student, save_student, timm_preprocess

LABELS = ("a", "b", "c", "d", "e", "f", "g")


@pytest.fixture
def model(tmp_path) -> Path:
    spec = StudentSpec("test_byobnet", LABELS, ("Is it red?",), timm_preprocess("test_byobnet", 32))
    torch.manual_seed(0)
    save_student(tmp_path / "model", spec, build_student(spec).state_dict(), {})
    return tmp_path / "model"


def samples(folder: Path, count: int) -> pa.Table:
    """Random photos with ids from 100; the third is missing, the fifth is no image."""
    rng = np.random.default_rng(0)
    uris = [str(folder / f"{n}.png") for n in range(count)]
    for uri in uris:
        Image.fromarray(rng.integers(0, 256, (40, 33, 3), dtype=np.uint8)).save(uri)
    Path(uris[2]).unlink()
    Path(uris[4]).write_text("<html>")
    return pa.table({"image_id": pa.array(range(100, 100 + count), pa.int64()), "uri": uris})


@pytest.mark.parametrize("threads", [0, 3])
def test_each_image_has_a_row_with_the_models_answer_or_a_reason(tmp_path, model, threads):
    rows = samples(tmp_path, 9)
    settings = InferSettings(
        str(model), ImageLimits(), abstain_below=0.2, batch_images=4, device="cpu", threads=threads
    )
    predicted = InferWorker(settings).process(rows)
    assert predicted.schema.equals(schemas.PREDICTIONS)
    assert sorted(predicted["image_id"].to_pylist()) == list(range(100, 109))
    by_id = {row["image_id"]: row for row in predicted.to_pylist()}
    assert by_id[102]["error"]["reason"] == "not_found"
    assert by_id[104]["error"]["reason"] == "not_an_image"
    assert by_id[104]["label"] is None
    classifier = load_classifier(model)
    for image_id, uri in zip(rows["image_id"].to_pylist(), rows["uri"].to_pylist(), strict=True):
        if image_id in (102, 104):
            continue
        scores = classifier.scores([Image.open(uri)])[0]
        row = by_id[image_id]
        assert row["error"] is None
        assert row["label"] == LABELS[int(scores.argmax())]
        assert row["label_id"] == int(scores.argmax())
        assert row["score"] == pytest.approx(scores.max(), abs=1e-5)
        assert row["top_scores"] == pytest.approx(sorted(scores, reverse=True)[:5], abs=1e-5)
        assert row["abstained"] is bool(scores.max() < 0.2)
        assert row["p_yes"] == pytest.approx(classifier.aspects([Image.open(uri)])[0], abs=1e-5)


def test_a_part_of_unreadable_images_alone(tmp_path, model):
    rows = pa.table({"image_id": [7], "uri": [str(tmp_path / "nothing.jpg")]})
    predicted = InferWorker(InferSettings(str(model), ImageLimits(), device="cpu")).process(rows)
    assert predicted["error"].to_pylist()[0]["reason"] == "not_found"
    empty = InferWorker(InferSettings(str(model), ImageLimits(), device="cpu")).process(rows.slice(0, 0))
    assert empty.num_rows == 0


def test_rows_hand_worked():
    outputs = Outputs(np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], dtype=np.float32))
    first, second = prediction_rows([3, 4], outputs, ["x", "y", "z"], abstain_below=0.45)
    assert (first["label"], first["label_id"], first["abstained"]) == ("y", 1, False)
    assert first["top_labels"] == ["y", "z", "x"]  # fewer classes than five
    assert (second["label"], second["abstained"]) == ("x", True)  # of equals the lower id, as arg max
    assert second["p_yes"] is None


@pytest.mark.parametrize("labels", [3, 5, 6, 2000])
def test_the_best_five_are_the_first_of_a_stable_sort(labels):
    scores = np.random.default_rng(labels).integers(0, 40, (50, labels)).astype(np.float32) / 40  # many are equal
    scores[7] = 0.0  # underflow: all equal
    scores[8, ::2] = np.nan
    scores[9] = np.nan
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    names = [str(label) for label in range(labels)]
    rows = prediction_rows(range(50), Outputs(scores), names, abstain_below=0.0)
    assert [row["top_labels"] for row in rows] == [[names[label] for label in row] for row in expected]
    assert [row["label_id"] for row in rows] == expected[:, 0].tolist()


def test_the_energy_is_that_of_the_logits(tmp_path, model):
    uri = str(tmp_path / "grey.png")
    Image.new("RGB", (50, 40), (90, 120, 30)).save(uri)
    rows = pa.table({"image_id": [7, 8], "uri": [uri, str(tmp_path / "nothing.jpg")]})
    with_energy = InferWorker(InferSettings(str(model), ImageLimits(), device="cpu", energy=True)).process(rows)
    assert with_energy.column_names[-1] == "energy"
    spec, network = load_student(model, "cpu")
    classifier = load_classifier(model)
    inputs = spec.preprocess.normalise(classifier.read(uri, ImageLimits())[None])
    with torch.inference_mode():
        classes, _ = spec.split(network(inputs).float())
    expected = -float(classes.exp().sum().log())
    assert with_energy.sort_by("image_id")["energy"].to_pylist() == [pytest.approx(expected, abs=1e-4), None]
    plain = InferWorker(InferSettings(str(model), ImageLimits(), device="cpu")).process(rows)
    assert "energy" not in plain.column_names
