"""Options of a student together: pretrained start, frozen epochs, moving average, mixing; resumed, on two workers."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.config import ConfigError, Makd, build
from fgvr.losses.makd import class_sum
from fgvr.models.infer import load_classifier
from fgvr.models.start_match import classifier_names, start_of
from fgvr.models.start_weights import find_start
from fgvr.models.student import StudentSpec, build_student, timm_preprocess
from fgvr.training.checkpoint import read_history
from fgvr.training.examples import Examples
from fgvr.training.loop import train
from fgvr.training.optimisers import freeze_batch_statistics, has_batch_norm
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import StudentTrainer, train_student
from fgvr.training.student_data import StudentJob, bounded_by_steps
from tests.dying_reporter import DiesAfter, Killed
from tests.fgvr.training.coloured_photos import job, taught, weights
from tests.two_processes import RankReporter, two_processes

EVERYTHING = {
    "optimizer": "adamw",
    "lr": 0.003,
    "weight_decay": 0.05,
    "layer_decay": 0.7,
    "freeze_epochs": 2,
    "ema": 60,
    "label_smoothing": 0.1,
    "mixup": 0.3,
    "cutmix": 1.0,
    "randaugment": 1,
}


def started(task: StudentJob, folder: Path, **options: Any) -> StudentJob:
    """The job from weights of another seed, which lie in a file as `start_of` gives them."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(77)
    made = build_student(task.spec).state_dict()
    save_file({name: value.contiguous() for name, value in made.items()}, folder / "w.safetensors")
    start = start_of(find_start(str(folder / "w.safetensors"), task.spec.backbone), task.spec)
    save_file(start.tensors, folder / "start.safetensors")
    recipe = Makd.model_validate(task.settings.model_dump() | {"weights": str(folder / "w.safetensors"), **options})
    return replace(task, settings=recipe, start=str(folder / "start.safetensors"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def test_it_starts_from_the_weights_with_a_classifier_of_its_own_seed(tmp_path: Path) -> None:
    plain = job(tmp_path, backbone="test_byobnet")
    task = started(plain, tmp_path / "start")
    scratch, begun = (StudentTrainer(each, LocalReporter(tmp_path / "run")).student for each in (plain, task))
    given, heads = load_file(tmp_path / "start" / "w.safetensors"), classifier_names(scratch)
    for name, value in begun.state_dict().items():
        assert torch.equal(value, scratch.state_dict()[name] if name in heads else given[name])


@pytest.mark.parametrize("backbone", ["test_byobnet", "test_vit"])
def test_frozen_epochs_change_the_classifier_alone(tmp_path: Path, backbone: str) -> None:
    task = started(job(tmp_path, backbone=backbone, epochs=2, alpha=1.0), tmp_path / "start", freeze_epochs=5)
    given, heads = load_file(tmp_path / "start" / "w.safetensors"), classifier_names(build_student(task.spec))
    train_student(task, LocalReporter(tmp_path / "probe"))
    probed = weights(LocalReporter(tmp_path / "probe"))
    # Statistics and counters of batch normalisation included.
    assert {name for name, value in probed.items() if not torch.equal(value, given[name])} == heads
    half = replace(task, settings=task.settings.model_copy(update={"freeze_epochs": 1}))
    reporter = LocalReporter(tmp_path / "half")
    train_student(half, reporter)
    assert sum(not torch.equal(value, given[name]) for name, value in weights(reporter).items()) > len(heads) + 10


@pytest.mark.parametrize("freeze", [0, 1])
def test_frozen_batch_statistics_are_those_of_the_weights(tmp_path: Path, freeze: int) -> None:
    plain = job(tmp_path, backbone="test_byobnet", epochs=2, share=0.25)
    task = started(plain, tmp_path / "start", batch_norm="frozen", freeze_epochs=freeze)
    given = load_file(tmp_path / "start" / "w.safetensors")
    reporter = LocalReporter(tmp_path / "run")
    trainer = StudentTrainer(task, reporter)
    begun = build_student(task.spec).eval()
    begun.load_state_dict(trainer.student.state_dict())
    batch = next(iter(trainer.batches(freeze)))  # the first epoch in which all weights learn
    logits, _ = task.spec.split(begun(task.spec.preprocess.normalise(batch.pixels)))
    expected = torch.nn.functional.cross_entropy(logits, trainer._targets(batch)[0], reduction="sum")
    torch.testing.assert_close(trainer.losses(batch)["class_loss"].total, expected, rtol=1e-4, atol=1e-4)
    train(StudentTrainer(task, reporter))
    learned = weights(reporter)
    kept = {name for name in given if "running" in name or "num_batches" in name}
    assert kept
    assert all(torch.equal(learned[name], given[name]) for name in kept)
    assert all(not torch.equal(learned[name], given[name]) for name in given if name not in kept and "bn" in name)


def test_frozen_batch_statistics_leave_dropout_on() -> None:
    spec = StudentSpec("test_byobnet", ("a",), (), timm_preprocess("test_byobnet", 32))
    model = build_student(replace(spec, backbone_args={"drop_rate": 0.5})).train()
    assert has_batch_norm(model)
    freeze_batch_statistics(model)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)
    assert all(module.training for module in model.modules() if module not in norms)
    assert not has_batch_norm(build_student(replace(spec, backbone="test_vit")))


def test_the_average_is_what_is_validated_and_saved(tmp_path: Path) -> None:
    task = job(tmp_path, share=0.25, backbone="test_byobnet", epochs=3, lr=0.1, ema=30)
    path: list[tuple[int, dict[str, torch.Tensor]]] = []

    class Notes(StudentTrainer):
        def learn(self, batch):
            means = super().learn(batch)
            own = {name: value.detach().clone() for name, value in self.student.state_dict().items()}
            path.append((len(batch.step_positions), own))
            return means

    reporter = LocalReporter(tmp_path / "run")
    trainer = Notes(task, reporter)
    history = train(trainer)
    # Worked anew in float64: a step of b images is forgotten by 2^(−b/30), and shares sum to one.
    shares, left = [], 1.0
    for images, _ in reversed(path):
        rate = 2 ** (-images / 30)
        shares.append(left * (1 - rate))
        left *= rate
    shares = [share / sum(shares) for share in reversed(shares)]
    last = weights_of(reporter.checkpoint / "last")
    for name, value in last.items():
        if value.is_floating_point():
            mean = sum(share * own[name].double() for share, (_, own) in zip(shares, path, strict=True))
            torch.testing.assert_close(value.double(), mean, atol=1e-5, rtol=1e-4)
    assert not torch.equal(last["stem.conv.weight"], trainer.student.state_dict()["stem.conv.weight"])
    examples = Examples.read(task.examples)
    held = np.flatnonzero(examples.held_out)
    for name, row in (("last", history[-1]), ("best", max(history, key=lambda r: (r["validation_top1"], r["epoch"])))):
        scores = load_classifier(reporter.checkpoint / name).scores([Image.open(examples.uris[n]) for n in held])
        assert (scores.argmax(1) == examples.classes[held]).mean() == pytest.approx(row["validation_top1"])


def test_an_average_does_not_change_what_is_learned(tmp_path: Path) -> None:
    plain = job(tmp_path, epochs=2, backbone="test_byobnet", share=0.25)
    averaged = replace(plain, settings=plain.settings.model_copy(update={"ema": 20.0}))
    one, two = (StudentTrainer(task, LocalReporter(tmp_path / str(n))) for n, task in enumerate((plain, averaged)))
    assert [row["class_loss"] for row in train(one)] == [row["class_loss"] for row in train(two)]
    for name, value in one.student.state_dict().items():
        assert torch.equal(value, two.student.state_dict()[name])


@pytest.mark.slow
@pytest.mark.parametrize(("dies_after", "teacher"), [(1, False), (2, False), (3, True)])
def test_resumed_training_is_bit_equal(tmp_path: Path, dies_after: int, teacher: bool) -> None:
    plain = job(tmp_path, share=0.25, backbone="test_byobnet", backbone_args={"drop_rate": 0.2})
    task = started(taught(plain, tmp_path, class_weight=0.5) if teacher else plain, tmp_path / "start", **EVERYTHING)
    whole, parts = LocalReporter(tmp_path / "whole"), LocalReporter(tmp_path / "parts")
    train_student(task, whole)

    with pytest.raises(Killed):
        train_student(task, DiesAfter(tmp_path / "parts", dies_after))
    Path(task.start or "").unlink()  # a resumed run does not need it
    torch.manual_seed(99)
    train_student(task, parts)
    assert [row["epoch"] for row in parts.history] == list(range(dies_after + 1, 5))
    for name in ("best", "last"):
        a, b = (reporter.checkpoint / name / "model.safetensors" for reporter in (whole, parts))
        assert a.read_bytes() == b.read_bytes()
    kept = [[row | {"images_per_second": 0} for row in read_history(each.checkpoint)] for each in (whole, parts)]
    assert kept[0] == kept[1]
    assert kept[0][-1]["class_loss"] < kept[0][0]["class_loss"]


def _train_as_one_of_two(rank: int, task: StudentJob, folder: Path) -> None:
    logging.disable()
    train_student(task, RankReporter(folder / f"rank{rank}", rank))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    # Layer normalisation only. 49 images in batches of at most 10: shares of other sizes, pairs across both.
    plain = job(tmp_path, count=49, share=0.2, epochs=4, backbone="test_vit", batch_size=10)
    task = started(plain, tmp_path / "start", **EVERYTHING)
    with two_processes(tmp_path, _train_as_one_of_two, task, tmp_path):
        train_student(task, LocalReporter(tmp_path / "one"))
    one, two = LocalReporter(tmp_path / "one"), LocalReporter(tmp_path / "rank0")
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, atol=1e-4, rtol=1e-2)
    for a, b in zip(read_history(one.checkpoint), read_history(two.checkpoint), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["train_top1"] == b["train_top1"]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_frozen_epochs_of_a_compiled_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    with_torch = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: with_torch(m, backend="aot_eager"))
    plain = job(tmp_path, epochs=2, backbone="test_resnet", compile=compiled)
    task = started(plain, tmp_path / "start", freeze_epochs=1)
    given = load_file(tmp_path / "start" / "w.safetensors")
    reporter = LocalReporter(tmp_path / "run")
    train_student(task, reporter)
    assert not torch.equal(weights(reporter)["conv1.0.weight"], given["conv1.0.weight"])


def test_label_smoothing_is_torchs() -> None:
    logits, classes = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, -1, 4, 2, -1])
    total, seen = class_sum(logits, classes, 0.3)
    known = classes >= 0
    expected = F.cross_entropy(logits[known], classes[known], label_smoothing=0.3, reduction="sum")
    assert (total.item(), seen.item()) == (pytest.approx(expected.item(), rel=1e-6), 4)
    # By hand: (1 − ε) of the class and ε of the mean over all classes.
    logs = -logits[known].log_softmax(1)
    rows = 0.7 * logs[torch.arange(4), classes[known]] + 0.3 * logs.mean(1)
    assert total.item() == pytest.approx(rows.sum().item(), rel=1e-6)


def test_a_limit_of_steps_shortens_the_frozen_epochs_with_all_others() -> None:
    settings = Makd(weights="w.pth", epochs=40, freeze_epochs=10, max_steps=80, batch_size=16)
    assert bounded_by_steps(settings, 64).freeze_epochs == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"freeze_epochs": 2}, r"freeze_epochs = 2 without weights: a frozen backbone .* set freeze_epochs to 0"),
        ({"mixup": 0.2, "class_loss": "mixture"}, r"mixup with class_loss = mixture.*set mixup to 0"),
        ({"cutmix": 1, "class_loss": "mixture"}, r"cutmix with class_loss = mixture"),
        ({"label_smoothing": 0.1, "class_loss": "mixture"}, r"label_smoothing with class_loss = mixture"),
        ({"cutmix": 1, "distillation": {"kind": "dkd", "teacher": "x"}}, r"cutmix with distillation\.kind = dkd"),
        ({"mixup": 1, "distillation": {"kind": "kd", "teacher": "mllm"}}, r"mixup with distillation\.teacher = mllm"),
        ({"optimizer": "adam"}, r"makd\.optimizer"),
        ({"layer_decay": 0}, r"makd\.layer_decay"),
        ({"layer_decay": 1.1}, r"makd\.layer_decay"),
        ({"ema": 0}, r"makd\.ema"),
        ({"ema": "nan"}, r"makd\.ema"),
        ({"batch_norm": "frozen"}, r"batch_norm = frozen without weights: .* or set batch_norm to batch"),
        ({"label_smoothing": 1}, r"makd\.label_smoothing"),
        ({"randaugment_magnitude": 11}, r"makd\.randaugment_magnitude"),
        ({"mixup": -0.1}, r"makd\.mixup"),
        ({"weights": ""}, r"makd\.weights = .*is empty; write null for none"),
    ],
)
def test_options_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"makd": given})


def test_options_count_only_where_they_are_used() -> None:
    plain = Makd().deciding()
    assert plain.keys().isdisjoint(
        {"weights", "optimizer", "layer_decay", "freeze_epochs", "ema", "label_smoothing", "mixup", "cutmix"}
        | {"randaugment", "randaugment_magnitude", "batch_norm"}
    )
    assert Makd(randaugment_magnitude=3).deciding() == plain
    assert Makd(randaugment=2).deciding() == plain | {"randaugment": 2, "randaugment_magnitude": 9}
    assert Makd(optimizer="adamw").deciding() == {
        name: value for name, value in plain.items() if name != "momentum"
    } | {"optimizer": "adamw"}
