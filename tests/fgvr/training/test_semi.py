"""Semi-supervised training: what a step learns, the teacher, resumption, several workers, and that it helps."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fgvr.config import ConfigError, Makd, build
from fgvr.losses.pseudo_labels import NEVER
from fgvr.training.checkpoint import read_history
from fgvr.training.examples import Examples
from fgvr.training.loop import train
from fgvr.training.reporter import LocalReporter
from fgvr.training.semi import SemiTrainer, endless, taught_of, train_semi
from fgvr.training.student import StudentTrainer
from fgvr.training.student_data import StudentJob, StudentTrainingError
from tests.dying_reporter import DiesAfter, Killed
from tests.fgvr.training.coloured_photos import job, weights
from tests.two_processes import RankReporter, two_processes


def partly(tmp_path: Path, known: int = 12, **settings: Any) -> StudentJob:
    """The job with classes for the first images alone."""
    semi = {"ratio": 2, "threshold": 0.5} | settings.pop("semi", {})
    task = job(tmp_path, trainer="semi", semi=semi, **settings)
    examples = Examples.read(task.examples)
    classes = np.where(np.arange(len(examples)) < known, examples.classes, -1)
    held = np.asarray(examples.held_out) & (classes != -1)
    replace(examples, classes=classes, held_out=held).write(str(tmp_path / "partly"))
    return replace(task, examples=str(tmp_path / "partly"))


def test_every_step_has_both_kinds_and_every_photo_comes() -> None:
    assert [taught_of(size, 5) for size in (16, 12, 6, 3, 2)] == [3, 2, 1, 1, 1]
    assert taught_of(4, 0.1) == 3  # never all of them
    order = endless(np.arange(5), 12, (0, 1))
    assert sorted(order[:5].tolist()) == sorted(order[5:10].tolist()) == [0, 1, 2, 3, 4]
    assert not np.array_equal(order, endless(np.arange(5), 12, (0, 2)))


def test_an_epoch_has_the_steps_of_plain_training(tmp_path: Path) -> None:
    task = partly(tmp_path, questions=(), alpha=0)
    trainer = SemiTrainer(task, LocalReporter(tmp_path / "run"))
    steps = trainer.epoch_steps(0)
    assert sum(len(step) for step in steps) == len(trainer.data.training) == 48
    for step in steps:
        count = taught_of(len(step), 2)
        assert (step[:count] < 12).all()
        assert (step[count:] >= 12).all()
    assert len(set(np.concatenate([step[taught_of(len(step), 2) :] for step in steps]))) == 30  # 5 of each 8


def test_out_of_reach_it_learns_what_plain_training_learns_from_the_same_photos(tmp_path: Path) -> None:
    task = partly(tmp_path, semi={"threshold": 1.5}, backbone="test_byobnet", epochs=2)
    semi = SemiTrainer(task, LocalReporter(tmp_path / "semi"))

    class Same(StudentTrainer):
        """Plain training with the steps' photos that have targets, cut as in the whole step."""

        views = 2

        def epoch_steps(self, epoch: int) -> Any:
            return semi.epoch_steps(epoch)

        def _step(self, batch: Any) -> Any:
            count = taught_of(len(batch.positions), 2)
            part = replace(batch, views=(batch.views[0][:count],), positions=batch.positions[:count])
            return super()._step(replace(part, step_positions=part.positions))

    plain = Same(replace(task, settings=task.settings.model_copy(update={"trainer": "plain"})), LocalReporter(tmp_path))
    assert [row["class_loss"] for row in train(semi)] == [row["class_loss"] for row in train(plain)]
    for name, value in semi.student.state_dict().items():
        assert torch.equal(value, plain.student.state_dict()[name])
    assert all(row["pseudo_confident"] == row["pseudo_loss"] == 0 for row in semi.history)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_teacher_is_the_moving_average(tmp_path: Path, precision: str) -> None:
    # At 16 pixels a network of stride 32 has maps smaller than its stride, which bf16 computes apart.
    task = partly(tmp_path, backbone="test_byobnet", epochs=1, ema=40.0, precision=precision, lr=0.1)
    trainer = SemiTrainer(task, LocalReporter(tmp_path / "run"))
    train(trainer)
    assert trainer.average is not None
    again = trainer.built().eval()
    again.load_state_dict(trainer.average.weights)
    images = trainer.data.loader.store[3]
    pixels = torch.from_numpy(np.ascontiguousarray(trainer.job.spec.preprocess.centre_crop(images)))[None]
    with torch.no_grad():
        found, expected = (trainer._forward(each, pixels) for each in (trainer.teacher, again))
        student = trainer._forward(trainer.student.eval(), pixels)
    assert torch.equal(found, expected)
    assert not torch.equal(found, student)
    assert not trainer.teacher.training


def test_photos_without_a_class_teach_their_aspects(tmp_path: Path) -> None:
    trainer = SemiTrainer(partly(tmp_path), LocalReporter(tmp_path / "run"))
    assert sorted(trainer.untaught.tolist()) == list(range(12, 48))
    answered = [n for n in range(48) if n < 12 or n % 5]  # every fifth has no answers
    assert sorted(trainer.taught.tolist()) == answered


@pytest.mark.slow
def test_it_learns_more_than_the_labelled_photos_alone(tmp_path: Path) -> None:
    values = {"count": 160, "known": 8, "questions": (), "alpha": 0, "epochs": 20, "batch_size": 16}
    task = partly(tmp_path, **values, semi={"ratio": 3, "threshold": 0.6, "weight": 1})
    without = replace(task, settings=Makd(**task.settings.model_dump() | {"semi": {"ratio": 3, "weight": 0}}))
    scores = []
    for name, each in (("semi", task), ("alone", without)):
        trainer = SemiTrainer(each, LocalReporter(tmp_path / name))
        history = train(trainer)
        truth = np.arange(160) % 4
        right = 0
        for position in range(8, 160):
            crop = np.ascontiguousarray(trainer.job.spec.preprocess.centre_crop(trainer.data.loader.store[position]))
            with torch.no_grad():
                logits = trainer._forward(trainer.teacher, torch.from_numpy(crop)[None])
            right += int(logits[0, :4].argmax()) == truth[position]
        scores.append(right / 152)
        assert history[-1]["pseudo_confident"] > 0.3
    assert scores[0] > scores[1] - 0.02  # it must not harm; how much it helps is a benchmark's matter
    assert scores[0] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("dies_after", [1, 3])
def test_resumed_training_is_bit_equal(tmp_path: Path, dies_after: int) -> None:
    task = partly(tmp_path, share=0.25, known=40, semi={"per_class": True, "threshold": 0.3}, backbone="test_byobnet")
    whole, parts = LocalReporter(tmp_path / "whole"), LocalReporter(tmp_path / "parts")
    train_semi(task, whole)

    with pytest.raises(Killed):
        train_semi(task, DiesAfter(tmp_path / "parts", dies_after))
    torch.manual_seed(99)
    train_semi(task, parts)
    for name in ("best", "last"):
        a, b = (each.checkpoint / name / "model.safetensors" for each in (whole, parts))
        assert a.read_bytes() == b.read_bytes()
    kept = [[row | {"images_per_second": 0} for row in read_history(each.checkpoint)] for each in (whole, parts)]
    assert kept[0] == kept[1]


def _train_as_one_of_two(rank: int, task: StudentJob, folder: Path) -> None:
    logging.disable()
    train_semi(task, RankReporter(folder / f"rank{rank}", rank))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    # Without blending: pairs are those of each worker's share. Shares differ in size.
    semi = {"mixup": False, "per_class": True, "threshold": 0.3}
    task = partly(tmp_path, count=49, backbone="test_vit", batch_size=10, semi=semi)
    with two_processes(tmp_path, _train_as_one_of_two, task, tmp_path):
        train_semi(task, LocalReporter(tmp_path / "one"))
    one, two = LocalReporter(tmp_path / "one"), LocalReporter(tmp_path / "rank0")
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, atol=1e-4, rtol=1e-2)
    for a, b in zip(read_history(one.checkpoint), read_history(two.checkpoint), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["pseudo_confident"] == pytest.approx(b["pseudo_confident"])


def test_thresholds_follow_what_was_reached(tmp_path: Path) -> None:
    task = partly(tmp_path, semi={"per_class": True, "threshold": 0.8}, questions=(), alpha=0)
    trainer = SemiTrainer(task, LocalReporter(tmp_path / "run"))
    assert trainer._thresholds(0).tolist() == pytest.approx([0.8] * 4)  # nothing is known yet
    trainer.last_confident[12:30], trainer.last_confident[30:39] = 1, 2  # 18, 9, and 9 of 36 never
    assert (trainer.last_confident == NEVER).sum() == 12 + 9
    assert trainer._thresholds(1).tolist() == pytest.approx([0, 0.8, 0.8 / 3, 0])


@pytest.mark.parametrize(
    ("known", "message"),
    [(0, "no training image has a class that is trusted"), (48, "every training image has a class")],
)
def test_photos_of_one_kind_alone_are_refused(tmp_path: Path, known: int, message: str) -> None:
    with pytest.raises(StudentTrainingError, match=message):
        SemiTrainer(partly(tmp_path, known=known, alpha=0), LocalReporter(tmp_path / "run"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mixup": 0.2}, r"mixup with trainer = semi, .* set mixup to 0"),
        ({"class_loss": "mixture"}, r"class_loss with trainer = semi, .* set class_loss to ce"),
        ({"distillation": {"kind": "kd", "teacher": "x"}}, r"distillation\.kind with trainer = semi"),
        ({"semi": {"threshold": 0}}, r"threshold"),
    ],
)
def test_what_cannot_go_together_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"makd": {"trainer": "semi"} | given})


def test_settings_that_decide_nothing_do_not_count() -> None:
    assert Makd(semi={"weight": 2}).deciding() == Makd().deciding()
    assert Makd(trainer="semi").deciding() != Makd().deciding()
    assert Makd(trainer="semi", semi={"weight": 2}).deciding() != Makd(trainer="semi").deciding()
