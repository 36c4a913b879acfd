"""Models as ONNX files and timm folders, loaded by onnxruntime and timm, beside the classifier itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch

from fgvr.config.data import ImageLimits
from fgvr.config.metadata import Metadata
from fgvr.demo.paths import CLIP_PATH
from fgvr.export.onnx_model import export_onnx
from fgvr.export.places import Destination, ExportError
from fgvr.export.timm_model import export_timm
from fgvr.heads.beside import Beside
from fgvr.heads.networks import Kind, build_network
from fgvr.heads.training import HeadRecipe
from fgvr.metadata.fitted import fit
from fgvr.models.base import ModelFolderError
from fgvr.models.head import HeadModel, VectorClasses, load_vector_classes
from fgvr.models.learned_head import learn_heads, sets_of_labels
from fgvr.models.student import StudentClassifier, StudentSpec, build_student, save_student, timm_preprocess
from fgvr.selection.whitening import fit_whitening

LABELS = ("Finch", "finch", 'a "b"\nc', "鳥", "")
QUESTIONS = ("Is it red?", "Is it <small>?")


def student(folder: Path, backbone: str, questions: tuple[str, ...] = QUESTIONS, **arguments: Any) -> StudentClassifier:
    """A student with random weights, whose logits have a standard deviation of 2 on noise."""
    torch.manual_seed(0)
    spec = StudentSpec(backbone, LABELS, questions, timm_preprocess(backbone, 64, 72), arguments)
    model = build_student(spec)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("weight") and value.shape[0] == spec.outputs:
                value.normal_()
        spread = model(torch.randn(8, 3, 64, 64)).std()
        for name, value in model.named_parameters():
            if name.endswith("weight") and value.shape[0] == spec.outputs:
                value.mul_(2 / spread)
    save_student(folder, spec, model.state_dict(), {})
    return StudentClassifier.load(folder)


def photos(count: int) -> list[bytes]:
    """Files of photos of different shapes."""
    import io

    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (6, 5, 3), dtype=np.uint8))
        data = io.BytesIO()
        small.resize((90 + 31 * number, 140 - 9 * number)).save(data, "JPEG")
        files.append(data.getvalue())
    return files


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_byobnet", "test_vit"])
def test_onnxruntime_gives_a_student_s_probabilities(tmp_path: Path, backbone: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    classifier = student(tmp_path / "model", backbone)
    facts = export_onnx(tmp_path / "model", Destination(str(tmp_path / "out"), "onnx"))
    assert facts["largest_difference"] <= 1e-3
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        prepared = torch.stack([classifier.decode(data, ImageLimits()) for data in photos(count)])
        wanted = classifier.predict(prepared)
        found, p_yes = session.run(None, {"images": prepared.permute(0, 3, 1, 2).numpy()})
        assert found.shape == (count, len(LABELS))
        assert np.abs(found - wanted.scores).max() <= 1e-3
        assert np.abs(p_yes - wanted.p_yes).max() <= 1e-3
        assert wanted.scores.max() > 0.4  # not all alike, so that the comparison can fail
    onnx.checker.check_model(onnx.load(tmp_path / "out" / "model.onnx"), full_check=True)
    said = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(said["labels"])) == LABELS
    assert tuple(json.loads(said["questions"])) == QUESTIONS
    sizes = json.loads(said["preprocessing"])
    assert (sizes["input_size"], sizes["resize"], sizes["stored_side"]) == (64, 72, 108)
    assert (tmp_path / "out" / "labels.txt").read_text().count("\n") == len(LABELS)


def test_a_head_that_sees_metadata_says_so_and_predicts_as_without_it(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    random = np.random.default_rng(0)
    labels = np.arange(200) % 4
    vectors = np.eye(8, dtype=np.float32)[labels // 2] + random.normal(0, 0.05, (200, 8)).astype(np.float32)
    texts = {"kind": pa.array([("odd", "even")[label % 2] for label in labels])}
    columns = Metadata(columns={"kind": "category"})
    fitted, _ = fit(texts, columns)
    beside = Beside(fitted, fitted.encode(texts), columns)
    sets, recipe = sets_of_labels(labels), HeadRecipe(kind="linear", loss="ce")
    learned = learn_heads(vectors, labels, sets, list("abcd"), None, recipe=recipe, beside=beside)
    HeadModel(learned.classes, None).save(tmp_path / "model")
    facts = export_onnx(tmp_path / "model", Destination(str(tmp_path / "out"), "onnx"))
    assert facts["metadata_columns"] == ["kind"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["metadata_columns"]) == ["kind"]
    (found,) = session.run(None, {"vectors": vectors})
    classes = load_vector_classes(tmp_path / "model")
    assert np.abs(found - classes.scores(vectors)).max() <= 1e-3
    assert np.abs(found - classes.scores_with(vectors, texts)).max() > 0.1  # the columns would have mattered


@pytest.mark.parametrize("kind", ["cosine", "linear", "mlp"])
@pytest.mark.parametrize("whitened", [False, True])
def test_onnxruntime_gives_a_head_s_probabilities(tmp_path: Path, kind: Kind, whitened: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 12)).astype(np.float32) + 1
    members = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = build_network(kind, 12, len(LABELS), 8)
        for value in network.parameters():
            torch.nn.init.normal_(value)
        members.append(network.eval())
    whitening = fit_whitening(vectors) if whitened else None
    classes = VectorClasses(LABELS, tuple(members), kind, whitening, 1.7, hidden=8)
    HeadModel(classes, None).save(tmp_path / "model")
    export_onnx(tmp_path / "model", Destination(str(tmp_path / "out"), "onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    vectors[3] = 0
    vectors[4] *= 50
    (found,) = session.run(None, {"vectors": vectors})
    wanted = load_vector_classes(tmp_path / "model").scores(vectors)
    assert np.abs(found - wanted).max() <= 1e-3
    assert wanted.max() > 0.5


@pytest.mark.parametrize("backbone", ["test_byobnet", "test_vit", "test_convnext", "resnet18"])
def test_timm_loads_a_student_and_gives_its_logits(tmp_path: Path, backbone: str) -> None:
    classifier = student(tmp_path / "model", backbone)
    export_timm(tmp_path / "model", Destination(str(tmp_path / "out"), "timm"))
    found = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    prepared = torch.stack([classifier.decode(data, ImageLimits()) for data in photos(5)])
    inputs = classifier.spec.preprocess.normalise(prepared)
    with torch.inference_mode():
        wanted = classifier.spec.split(classifier.model(inputs))[0]
        assert torch.allclose(found(inputs), wanted, atol=1e-4)
    assert tuple(found.pretrained_cfg["label_names"]) == LABELS
    data = timm.data.resolve_model_data_config(found)
    sizes = classifier.spec.preprocess
    assert (list(data["input_size"]), tuple(data["mean"]), tuple(data["std"])) == ([3, 64, 64], sizes.mean, sizes.std)
    assert data["crop_pct"] == pytest.approx(64 / 72)


def test_what_has_no_such_form_says_so(tmp_path: Path) -> None:
    classes = VectorClasses(LABELS, (build_network("linear", 4, len(LABELS), 8),), "linear")
    HeadModel(classes, None).save(tmp_path / "head")
    with pytest.raises(ExportError, match="no network of timm"):
        export_timm(tmp_path / "head", Destination(str(tmp_path / "out"), "timm"))
    student(tmp_path / "own", "fgvr_t2t_vit_7")
    with pytest.raises(ExportError, match="which is fgvr's own"):
        export_timm(tmp_path / "own", Destination(str(tmp_path / "out"), "timm"))
    with pytest.raises(ModelFolderError, match="not a trained model"):
        export_onnx(CLIP_PATH, Destination(str(tmp_path / "out"), "onnx"))
    assert not (tmp_path / "out").exists()
