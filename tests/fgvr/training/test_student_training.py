"""A student's training: what it learns, what must not change it, and its teachers."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgvr.losses.kd import kd_loss
from fgvr.losses.makd import makd_loss
from fgvr.models.infer import load_classifier
from fgvr.training.checkpoint import read_history
from fgvr.training.examples import Examples
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import StudentTrainer, train_student
from fgvr.training.student_data import StudentJob
from fgvr.training.teacher import open_teacher, put_scores
from tests.dying_reporter import DiesAfter, Killed
from tests.fgvr.training.coloured_photos import TRUTH, job, photos, taught, weights
from tests.two_processes import RankReporter, two_processes


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_vit", "test_byobnet"])
def test_learns_classes_and_aspects(tmp_path, backbone):
    reporter = LocalReporter(tmp_path / "run")
    train_student(job(tmp_path, 64, backbone=backbone, epochs=8, lr=0.05), reporter)
    uris, classes = photos(tmp_path / "fresh", 40, seed=1)
    images = [Image.open(uri) for uri in uris]
    student = load_classifier(reporter.checkpoint / "last")
    assert (student.scores(images).argmax(1) == classes).mean() >= 0.95
    p_yes = student.aspects(images)
    assert p_yes is not None
    assert ((p_yes > 0.5) == (TRUTH[classes] > 0.5)).mean() >= 0.95
    assert reporter.history[-1]["loss"] < reporter.history[0]["loss"] / 2


@pytest.mark.slow
def test_resumed_training_is_bit_equal(tmp_path):
    whole, parts = LocalReporter(tmp_path / "whole"), LocalReporter(tmp_path / "parts")
    task = job(tmp_path, share=0.25, backbone="test_byobnet", backbone_args={"drop_rate": 0.2})
    # The warm-up ends after the resumption: the weight must go on where it was.
    task = taught(task, tmp_path, kind="dkd", warmup_epochs=4)
    train_student(task, whole)

    with pytest.raises(Killed):
        train_student(task, DiesAfter(tmp_path / "parts", 2))
    torch.manual_seed(99)  # nothing may depend on the state that the dead process left
    train_student(task, parts)
    assert [epoch["epoch"] for epoch in parts.history] == [3, 4]
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())
    whole_history, parts_history = read_history(whole.checkpoint), read_history(parts.checkpoint)
    assert [e | {"images_per_second": 0} for e in whole_history] == [
        e | {"images_per_second": 0} for e in parts_history
    ]
    for name in ("best", "last"):
        a, b = (reporter.checkpoint / name / "model.safetensors" for reporter in (whole, parts))
        assert a.read_bytes() == b.read_bytes()


def test_training_that_was_finished_only_reports_again(tmp_path):
    task = job(tmp_path, epochs=1)
    first, again = LocalReporter(tmp_path / "run"), LocalReporter(tmp_path / "run")
    train_student(task, first)
    before = weights(first)
    train_student(task, again)
    assert again.history == first.history
    assert all(torch.equal(value, weights(again)[name]) for name, value in before.items())


def test_best_is_the_last_of_the_best_on_validation(tmp_path):
    reporter = LocalReporter(tmp_path / "run")
    train_student(job(tmp_path, share=0.25), reporter)
    history = read_history(reporter.checkpoint)
    best = max(history, key=lambda epoch: (epoch["validation_top1"], epoch["epoch"]))
    student = load_classifier(reporter.checkpoint / "best")
    examples = Examples.read(str(tmp_path / "examples.parquet"))
    held = np.flatnonzero(examples.held_out)
    scores = student.scores([Image.open(examples.uris[n]) for n in held])
    assert (scores.argmax(1) == examples.classes[held]).mean() == pytest.approx(best["validation_top1"])


def test_without_validation_there_is_no_best(tmp_path):
    reporter = LocalReporter(tmp_path / "run")
    train_student(job(tmp_path, epochs=1), reporter)
    assert sorted(path.name for path in reporter.checkpoint.iterdir() if path.is_dir()) == ["last"]
    assert "validation_top1" not in reporter.history[0]


def test_checkpoints_as_often_as_asked_and_at_the_end(tmp_path):
    saved = []

    class Notes(LocalReporter):
        def report(self, metrics, save=None):
            super().report(metrics, save)
            saved.append(save is not None)

    train_student(job(tmp_path, epochs=5, checkpoint_epochs=2), Notes(tmp_path / "run"))
    assert saved == [False, True, False, True, True]


@pytest.mark.slow
def test_the_base_student_ignores_the_aspects(tmp_path):
    task = job(tmp_path, epochs=2, questions=())
    train_student(task, LocalReporter(tmp_path / "base"))
    examples = Examples.read(task.examples)
    replace(examples, p_yes=1 - examples.p_yes).write(task.examples)
    train_student(task, LocalReporter(tmp_path / "other"))
    first, second = (weights(LocalReporter(tmp_path / name)) for name in ("base", "other"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert load_classifier(tmp_path / "base/checkpoint/last").aspects([Image.new("RGB", (16, 16))]) is None


@pytest.mark.slow
def test_another_seed_is_another_student(tmp_path):
    train_student(job(tmp_path / "a", epochs=1, seed=0), LocalReporter(tmp_path / "run0"))
    train_student(job(tmp_path / "b", epochs=1, seed=1), LocalReporter(tmp_path / "run1"))
    first, second = (weights(LocalReporter(tmp_path / name)) for name in ("run0", "run1"))
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("change", [{"precision": "bf16"}, pytest.param({"compile": True}, marks=pytest.mark.slow)])
def test_low_precision_and_compilation_train_the_same_student(tmp_path, monkeypatch, change):
    """Not to the bit, and the weights keep timm's names: a folder loads whatever it was trained with."""
    # Traced, with the backward graph, as always; without a minute of C++ compiler for kernels that are PyTorch's.
    compiled, with_torch = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: compiled.append(m) or with_torch(m, backend="aot_eager"))
    losses = []
    for number, more in enumerate(({"precision": "fp32"}, change)):
        reporter = LocalReporter(tmp_path / str(number))
        train_student(job(tmp_path / f"data{number}", epochs=1, backbone="test_resnet", lr=1e-3, **more), reporter)
        losses.append([reporter.history[0][name] for name in ("class_loss", "aspect_loss")])
        load_classifier(reporter.checkpoint / "last")
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert (losses[1] != losses[0]) or compiled  # bf16 rounds to 8 bits
    assert len(compiled) == ("compile" in change)


def _train_as_one_of_two(rank: int, tasks: dict[str, StudentJob], folder: Path) -> None:
    logging.disable()
    for name, task in tasks.items():
        train_student(task, RankReporter(folder / f"{name}-rank{rank}", rank))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    # Layer normalisation only: batch statistics would be each process's own. 49 images: batches of unequal shares.
    plain = job(tmp_path, count=49, share=0.2, epochs=2, backbone="test_vit", batch_size=10)
    # A teacher that knows some images only, so that the shares of a step have other numbers of them.
    recipe = plain.settings.model_copy(update={"aspect_loss": "softmax_kl"})
    followed = taught(replace(plain, settings=recipe), tmp_path, standardise=True)
    scores = np.random.default_rng(0).normal(size=(49, 4)).astype(np.float32)
    scores[::3] = np.nan
    put_scores(str(tmp_path / "teacher"), [scores], *scores.shape)
    tasks = {"plain": plain, "followed": followed}
    with two_processes(tmp_path, _train_as_one_of_two, tasks, tmp_path):
        for name, task in tasks.items():
            train_student(task, LocalReporter(tmp_path / name))
    for name in tasks:
        one, two = LocalReporter(tmp_path / name), LocalReporter(tmp_path / f"{name}-rank0")
        for weight, value in weights(one).items():
            torch.testing.assert_close(weights(two)[weight], value, atol=2e-5, rtol=1e-3)
        for a, b in zip(read_history(one.checkpoint), read_history(two.checkpoint), strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
            assert a["validation_top1"] == b["validation_top1"]
            assert a.keys() == b.keys()
            assert ("distillation_loss" in a) == (name == "followed")
            if name == "followed":
                assert a["distillation_loss"] == pytest.approx(b["distillation_loss"], rel=1e-4)


def test_a_student_follows_its_teacher_where_classes_say_nothing(tmp_path):
    # The teacher names the classes in a rotated order; the class targets weigh nothing.
    task = taught(job(tmp_path, 48, epochs=12, lr=0.05), tmp_path, class_weight=0, temperature=1, weight=1)
    truth = Examples.read(task.examples).classes
    scores = np.eye(4, dtype=np.float32)[(truth + 1) % 4] * 8
    put_scores(task.teacher, [scores], *scores.shape)
    reporter = LocalReporter(tmp_path / "run")
    train_student(task, reporter)
    uris, classes = photos(tmp_path / "fresh", 40, seed=1)
    student = load_classifier(reporter.checkpoint / "last")
    scores = student.scores([Image.open(uri) for uri in uris])
    assert (scores.argmax(1) == (classes + 1) % 4).mean() >= 0.95
    p_yes = student.aspects([Image.open(uri) for uri in uris])
    assert p_yes is not None
    assert ((p_yes > 0.5) == (TRUTH[classes] > 0.5)).mean() >= 0.9  # aspects are learned beside it
    assert reporter.history[-1]["distillation_loss"] < reporter.history[0]["distillation_loss"] / 2


def test_the_reported_loss_is_the_weighted_sum_of_its_parts(tmp_path):
    task = taught(job(tmp_path, epochs=2, alpha=3), tmp_path, class_weight=0.5, weight=0.8, warmup_epochs=2)
    reporter = LocalReporter(tmp_path / "run")
    train_student(task, reporter)
    for epoch, weight in zip(read_history(reporter.checkpoint), (0.4, 0.8), strict=True):
        parts = 0.5 * epoch["class_loss"] + 3 * epoch["aspect_loss"] + weight * epoch["distillation_loss"]
        assert epoch["loss"] == pytest.approx(parts, rel=1e-9)
        assert epoch["distillation_loss"] > 0


def test_a_teacher_does_not_change_what_is_drawn_at_random(tmp_path):
    # Of a weight near nothing, it leaves the same student as no teacher.
    plain = job(tmp_path, epochs=1)
    with_teacher = taught(plain, tmp_path, class_weight=1, weight=1e-12)
    for name, task in (("plain", plain), ("taught", with_teacher)):
        train_student(task, LocalReporter(tmp_path / name))
    first, second = (weights(LocalReporter(tmp_path / name)) for name in ("plain", "taught"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=1e-5)


def test_what_is_learned_are_the_published_losses(tmp_path):
    """Of one worker's step the terms are `makd_loss` and `kd_loss` of the same outputs, lost images aside."""
    task = taught(job(tmp_path, alpha=3, aspect_loss="bce"), tmp_path, class_weight=1, weight=0.7, temperature=2)
    trainer = StudentTrainer(task, LocalReporter(tmp_path / "run"))
    batch = next(iter(trainer.batches(0)))
    step = trainer._step(batch)
    outputs = torch.cat([step.class_logits[0], step.aspect_logits[0]], dim=1)
    terms = {term.name: term(step) for term in trainer.terms}
    makd = terms["class_loss"].learned() + terms["aspect_loss"].learned()
    assert makd.item() == pytest.approx(
        makd_loss(outputs, step.classes, step.p_yes, 3, ~step.p_yes.isnan()).item(), rel=1e-6
    )
    teacher = open_teacher(task.teacher, task.spec.labels, len(trainer.examples), trainer.device)
    expected = 0.7 * kd_loss(step.class_logits[0], teacher.logits(step.pixels[0], batch.positions), 2)
    assert terms["distillation_loss"].learned().item() == pytest.approx(expected.item(), rel=1e-6)
    assert list(terms) == ["class_loss", "aspect_loss", "distillation_loss"]
