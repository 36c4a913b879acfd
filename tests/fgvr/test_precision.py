"""In which precision networks compute, with stand-ins for what torch says of cards and CPUs."""

import json

import pytest
import torch

from fgvr import precision
from fgvr.clip.model import low_precision
from fgvr.models.infer import load_classifier
from fgvr.models.student import StudentSpec, build_student, load_student, save_student, timm_preprocess
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import train_student
from tests.fgvr.training.coloured_photos import job


@pytest.fixture
def card(monkeypatch):
    """Lets torch say of its card that it has bf16, or only emulates it as a T4 or V100 does."""

    def set_to(*, bf16: bool) -> None:
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bf16
        )

    return set_to


def cpu(monkeypatch, *instructions: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_card_takes_bf16_where_it_has_it(card, device):
    card(bf16=True)
    assert precision.automatic(device) == precision.of_training("auto", device) == "bf16"
    assert precision.of_model(None, device) == precision.of_model("bf16", device) == "bf16"
    assert precision.of_model("fp32", device) == "fp32"  # as it was trained and validated
    card(bf16=False)
    assert precision.automatic(device) == precision.of_training("auto", device) == "fp32"
    assert precision.of_model(None, device) == precision.of_model("bf16", device) == "fp32"
    with pytest.raises(precision.PrecisionError, match=r"makd\.precision = bf16: the GPU has no bf16"):
        precision.of_training("bf16", device)


def test_clip_follows_the_card(card):
    for has in (True, False):
        card(bf16=has)
        context = low_precision(torch.device("cuda"))
        assert isinstance(context, torch.autocast) == has
    assert not isinstance(low_precision(torch.device("cpu")), torch.autocast)


def test_a_cpu_computes_in_fp32_unless_it_was_asked(monkeypatch):
    for instructions in ((), ("avx512_bf16",)):
        cpu(monkeypatch, *instructions)
        assert precision.automatic("cpu") == precision.of_training("auto", "cpu") == precision.of_model(None, "cpu")
        assert precision.automatic("cpu") == "fp32"
        assert precision.of_training("bf16", "cpu") == "bf16"
    assert precision.of_model("bf16", "cpu") == "bf16"
    cpu(monkeypatch)
    assert precision.of_model("bf16", "cpu") == "fp32"


@pytest.mark.parametrize("asked", ["bf16", "auto"])
def test_a_student_is_deployed_in_the_precision_of_its_validation(tmp_path, monkeypatch, asked):
    cpu(monkeypatch, "avx512_bf16")
    reporter = LocalReporter(tmp_path / "run")
    train_student(job(tmp_path, 16, epochs=1, share=0.25, precision=asked), reporter)
    for folder in ("last", "best"):
        classifier = load_classifier(reporter.checkpoint / folder)
        assert classifier.precision == classifier.spec.precision == ("bf16" if asked == "bf16" else "fp32")
        made = []
        last = [module for module in classifier.model.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.register_forward_hook(lambda *args, made=made: made.append(args[-1].dtype))
        classifier.predict(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))
        assert made == [torch.bfloat16 if asked == "bf16" else torch.float32]


def test_a_folder_of_before_computes_as_before(tmp_path):
    spec = StudentSpec("test_vit", ("a", "b"), (), timm_preprocess("test_vit", 16))
    save_student(tmp_path, spec, build_student(spec).state_dict(), {})
    content = json.loads((tmp_path / "model.json").read_text())
    del content["precision"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    assert load_student(tmp_path)[0].precision is None
    assert load_classifier(tmp_path).precision == "fp32"
    (tmp_path / "model.json").write_text(json.dumps(content | {"precision": "fp8"}))
    with pytest.raises(ValueError, match="precision 'fp8' is unknown"):
        load_student(tmp_path)
