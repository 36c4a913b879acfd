import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from fgvr.models.infer import load_classifier
from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess


@pytest.fixture(params=[(), ("Is it red?", "Is it round?")], ids=["base", "makd"])
def student(request, tmp_path):
    spec = StudentSpec("test_resnet", ("Rötel", "b", "c"), request.param, timm_preprocess("test_resnet", 32))
    torch.manual_seed(0)
    model = build_student(spec)
    save_student(tmp_path / "model", spec, model.state_dict(), {"epoch": 3})
    return spec, model.eval(), tmp_path / "model"


def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(5)]


def test_a_loaded_student_answers_as_the_saved_one(student):
    spec, model, folder = student
    classifier = load_classifier(folder)
    pixels = np.stack([spec.preprocess.prepare(image) for image in images()])
    with torch.no_grad():
        outputs = model(spec.preprocess.normalise(torch.from_numpy(pixels)))
    logits = outputs.double().numpy()
    shifted = np.exp(logits[:, :3] - logits[:, :3].max(1, keepdims=True))
    scores = classifier.scores(images())
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, shifted / shifted.sum(1, keepdims=True), atol=1e-6)
    p_yes = classifier.aspects(images())
    if spec.questions:
        np.testing.assert_allclose(p_yes, 1 / (1 + np.exp(-logits[:, 3:])), atol=1e-6)
    else:
        assert p_yes is None
    assert classifier.labels == ["Rötel", "b", "c"]
    assert classifier.questions == list(spec.questions)


def test_the_weights_load_into_plain_timm(student):
    spec, model, folder = student
    plain = timm.create_model("test_resnet", num_classes=3 + len(spec.questions))
    plain.load_state_dict(load_file(folder / "model.safetensors"))
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(inputs), model(inputs), atol=1e-5, rtol=1e-5)


def test_damaged_folders_say_what_is_wrong(student, tmp_path):
    _, _, folder = student
    with pytest.raises(ValueError, match=r"has no model\.json"):
        load_classifier(tmp_path / "nothing")
    content = json.loads((folder / "model.json").read_text())
    for change, message in [
        ({"kind": "oracle"}, "kind 'oracle' is unknown"),
        ({"format": 99}, "format 99"),
        ({"labels": ["a"]}, "does not fit"),
        ({"backbone": "resnet19"}, "did you mean resnet18"),
        ({"preprocess": {"mean": [0, 0, 0], "std": [1, 1, 1]}}, "is damaged"),
    ]:
        (folder / "model.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=message):
            load_classifier(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load_classifier(folder)
    (folder / "model.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit"):
        load_classifier(folder)


def test_no_images_is_an_error(student):
    with pytest.raises(ValueError, match="no images"):
        load_classifier(student[2]).scores([])


def test_a_network_whose_layers_share_weights_is_kept_whole(tmp_path):
    spec = StudentSpec("coat_lite_tiny", ("a", "b"), (), timm_preprocess("coat_lite_tiny", 32))
    model = build_student(spec).eval()
    weights = model.state_dict()
    shared = {tensor.data_ptr() for tensor in weights.values()}
    assert len(shared) < len(weights)
    save_student(tmp_path / "model", spec, weights, {})
    loaded = load_classifier(tmp_path / "model").model
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels), model(pixels))
