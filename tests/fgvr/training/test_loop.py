"""The loop by hand-worked numbers, and a semi-supervised trainer: a class and a line, of public pieces only."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fgvr.errors import UserError
from fgvr.losses.kd import kd_rows
from fgvr.losses.makd import UNKNOWN_CLASS
from fgvr.schemas import Failure, Reason
from fgvr.training.batches import Batch, Loader
from fgvr.training.examples import Examples
from fgvr.training.loop import Mean, Term, Trainer, train
from fgvr.training.reporter import LocalReporter, Reporter
from fgvr.training.student import StudentTrainer
from fgvr.training.student_data import StudentJob
from fgvr.training.student_terms import StudentStep
from tests.fgvr.training.coloured_photos import job, weights
from tests.two_processes import RankReporter, two_processes


@dataclass(frozen=True)
class Numbers:
    """A step of the trainer below: the positions of its targets in `Line.targets`."""

    step_positions: npt.NDArray[np.int64]
    mine: npt.NDArray[np.int64]


@dataclass(frozen=True)
class LineRecipe:
    epochs: int = 2
    seed: int = 0
    lr: float = 0.25
    momentum: float = 0.0
    weight_decay: float = 0.0


class Line(Trainer[Numbers]):
    """Moves one weight w towards targets t: a mean of (w − t)² / 2, and twice the mean of w over the odd positions."""

    def __init__(self, recipe: LineRecipe, reporter: Reporter, targets: list[float], kept: int = 2) -> None:
        super().__init__(recipe, reporter)
        self.targets, self.kept = torch.tensor(targets), kept
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.optimiser = self.sgd([self.weight])
        self.steps = 2
        self.ended: list[int] = []
        folder = reporter.resume_folder()
        if folder is not None:
            self.epoch, self.batch, value, self.history = json.loads((folder / "line.json").read_text())
            self.weight.data.fill_(value)

    def batches(self, epoch: int) -> Iterator[Numbers]:
        for step in [np.array([0, 1]), np.array([2])][self.batch :]:
            yield Numbers(step, step[self.reporter.rank :: self.reporter.world_size])

    def losses(self, batch: Numbers) -> dict[str, Mean]:
        targets = self.targets[batch.mine]
        odd = batch.mine % 2 == 1
        return {
            "square_loss": Term(((self.weight - targets) ** 2 / 2).sum(), len(targets), len(batch.step_positions)),
            "odd_loss": Term(
                (self.weight * torch.from_numpy(odd)).sum(), int(odd.sum()), int((batch.step_positions % 2).sum()), 2.0
            ),
            "largest": Mean(targets.sum(), torch.tensor(float(len(targets)))),
        }

    def rate(self, epoch: int, batch: int) -> float:
        return self.recipe.lr

    def due(self, epoch: int, batch: int) -> tuple[bool, bool]:
        done = 2 * epoch + batch + 1
        return True, done % self.kept == 0

    def end_epoch(self, epoch: int) -> None:
        self.ended.append(epoch)

    def diverged(self, loss: float, epoch: int) -> UserError:
        return UserError(f"{loss} in {epoch}")

    def checkpoint(self, *, last: bool) -> Callable[[Path], None]:
        content = json.dumps([self.epoch, self.batch, self.weight.item(), self.history])
        return lambda folder: (folder / "line.json").write_text(content) and None


def test_named_means_rates_and_reports_by_hand(tmp_path):
    line = Line(LineRecipe(epochs=1), LocalReporter(tmp_path), [1.0, 3.0, -2.0])
    history = train(line)
    # w = 0: (1/2 + 9/2) / 2 = 2.5, odd 0, gradient −(1 + 3) / 2 + 2 = 0. Then (0 + 2)² / 2 = 2, gradient 2: w = −0.5.
    plain = [{name: value for name, value in row.items() if name != "images_per_second"} for row in history]
    assert plain == [
        {"epoch": 0.5, "loss": 2.5, "square_loss": 2.5, "odd_loss": 0, "largest": 2, "learning_rate": 0.25},
        {"epoch": 1.0, "loss": 2.0, "square_loss": 2.0, "odd_loss": 0, "largest": -2, "learning_rate": 0.25},
    ]
    assert line.weight.item() == -0.5
    assert line.ended == [0]
    assert line.reporter.history == history
    assert all(row["images_per_second"] > 0 for row in history)


def test_a_training_goes_on_in_the_middle_of_an_epoch(tmp_path):
    class Dies(LocalReporter):
        def report(self, metrics, save=None):
            super().report(metrics, save)
            if len(self.history) == 3:
                raise InterruptedError

    targets = [1.0, 3.0, -2.0]
    whole = Line(LineRecipe(), LocalReporter(tmp_path / "whole"), targets)
    train(whole)
    with pytest.raises(InterruptedError):
        train(Line(LineRecipe(), Dies(tmp_path / "parts"), targets, kept=1))
    reporter = LocalReporter(tmp_path / "parts")
    parts = Line(LineRecipe(), reporter, targets, kept=1)
    assert (parts.epoch, parts.batch) == (1, 1)
    train(parts)
    assert parts.weight.item() == whole.weight.item()
    assert [row["loss"] for row in parts.history] == [row["loss"] for row in whole.history]
    again = Line(LineRecipe(), LocalReporter(tmp_path / "parts"), targets)
    assert train(again) == parts.history  # it is at its end: only the last report is made again
    assert again.reporter.history == parts.history[-1:]


def test_a_loss_that_is_no_number_and_losses_that_change_their_names_end_it(tmp_path):
    with pytest.raises(UserError, match="nan in 0"):
        train(Line(LineRecipe(), LocalReporter(tmp_path), [float("nan"), 0.0, 0.0]))

    class Forgets(Line):
        def due(self, epoch, batch):
            return False, False

        def losses(self, batch):
            means = super().losses(batch)
            return means if self.batch == 0 else {"square_loss": means["square_loss"]}

    with pytest.raises(ValueError, match=r"\['square_loss'\], the one before \['square_loss', 'odd_loss"):
        train(Forgets(LineRecipe(), LocalReporter(tmp_path), [0.0, 0.0, 0.0]))


def test_an_epoch_that_ends_before_its_last_step_does_not_begin_for_ever(tmp_path):
    line = Line(LineRecipe(), LocalReporter(tmp_path), [0.0, 0.0, 0.0])
    line.steps = 3
    with pytest.raises(ValueError, match="epoch 1 ended after 2 of 3 steps"):
        train(line)


def test_a_term_without_a_target_is_zero_and_has_a_gradient():
    total = torch.zeros((), requires_grad=True)
    term = Term(total, 0, count=0, weight=3.0)
    term.learned().backward()
    assert (term.learned().item(), total.grad) == (0, torch.tensor(3.0))
    assert Term(torch.tensor(6.0), 2, count=4, weight=0.5).learned() == 0.75


class Consistency:
    """Both views of an image without a class should get the same classes: KL(first ‖ second), made up for this test."""

    name = "consistency_loss"

    def __init__(self, examples: Examples, weight: float) -> None:
        self.weight, self.unlabelled = weight, examples.classes == UNKNOWN_CLASS

    def __call__(self, step: StudentStep) -> Term:
        first, second = step.class_logits
        rows = kd_rows(second, first, temperature=1.0)
        mine = torch.from_numpy(self.unlabelled[step.batch.positions] & step.batch.readable)
        count = int(self.unlabelled[step.batch.step_positions].sum())
        return Term(torch.where(mine, rows, 0.0).sum(), mine.sum(), count, self.weight)


class ConsistentStudent(StudentTrainer):
    """Learns from images without a class, too."""

    views = 2
    weight = 2.0

    def loss_terms(self):
        return [*super().loss_terms(), Consistency(self.examples, self.weight)]


def train_consistent(task: StudentJob, reporter: Reporter):
    return train(ConsistentStudent(task, reporter))


def half_labelled(tmp_path: Path, **settings) -> StudentJob:
    """Half of the photos of each class have none, but for those held out."""
    task = job(tmp_path, share=0.25, **settings)
    examples = Examples.read(task.examples)
    classes = np.where(np.arange(len(examples)) % 8 < 4, examples.classes, UNKNOWN_CLASS)
    classes[examples.held_out] = examples.classes[examples.held_out]  # as `held_out` draws: only those with a class
    replace(examples, classes=classes).write(task.examples)
    return task


@dataclass
class Sees:
    """Keeps what a term was shown."""

    name: str = "seen"
    steps: list[StudentStep] = field(default_factory=list)

    def __call__(self, step: StudentStep) -> Term:
        self.steps.append(step)
        return Term(torch.zeros(()), 1, 1, 0.0)


def test_a_semi_supervised_student_is_a_class_and_a_line(tmp_path):
    task = half_labelled(tmp_path, epochs=4, lr=0.05, alpha=0.5)
    reporter = LocalReporter(tmp_path / "run")
    history = train_consistent(task, reporter)
    kept = json.loads((reporter.checkpoint / "history.json").read_text())
    assert [row["consistency_loss"] for row in kept] == [row["consistency_loss"] for row in history]
    assert reporter.history == history
    for row in history:
        assert row["consistency_loss"] > 0
        parts = row["class_loss"] + 0.5 * row["aspect_loss"] + 2 * row["consistency_loss"]
        assert row["loss"] == pytest.approx(parts, rel=1e-9)
    assert history[-1]["class_loss"] < history[0]["class_loss"]
    assert history[-1]["validation_top1"] > 0.5

    class Indifferent(ConsistentStudent):
        weight = 0.0

    plain = train(Indifferent(task, LocalReporter(tmp_path / "plain")))
    assert history[-1]["consistency_loss"] < 0.8 * plain[-1]["consistency_loss"]


def test_terms_see_every_view_and_images_without_a_class(tmp_path):
    sees = Sees()

    class Looks(StudentTrainer):
        views = 3

        def loss_terms(self):
            return [*super().loss_terms(), sees]

    task = half_labelled(tmp_path, epochs=1, lr=1e-9, alpha=0.0)
    trainer = Looks(task, LocalReporter(tmp_path / "run"))
    train(trainer)
    positions = np.concatenate([step.batch.positions for step in sees.steps])
    assert sorted(positions) == trainer.data.training.tolist()
    for step in sees.steps:
        assert len(step.pixels) == len(step.class_logits) == 3
        assert not torch.equal(step.pixels[0], step.pixels[1])
        assert not torch.equal(step.pixels[1], step.pixels[2])
        assert step.classes.tolist() == trainer.examples.classes[step.batch.positions].tolist()
        assert (step.classes == UNKNOWN_CLASS).any()
        # The logits of a view are those of its pixels: another view's would differ.
        for pixels, logits in zip(step.pixels, step.class_logits, strict=True):
            torch.testing.assert_close(trainer._forward(trainer.student, pixels)[:, :4], logits, atol=1e-4, rtol=1e-4)


def test_the_first_view_is_the_same_however_many_there_are(tmp_path):
    task = job(tmp_path, epochs=1)
    trainer = StudentTrainer(task, LocalReporter(tmp_path / "run"))
    one = trainer.data.loader
    three = replace(one, views=3)

    def views(loader: Loader, rank: int = 0, world_size: int = 1) -> list[Batch]:
        loader = replace(loader, rank=rank, world_size=world_size)
        return list(loader.training(trainer.data.training, 10, seed=3, epoch=2))

    for alone, among in zip(views(one), views(three), strict=True):
        assert torch.equal(alone.pixels, among.views[0])
        assert (len(alone.views), len(among.views)) == (1, 3)
    for whole, first, second in zip(views(three), views(three, 0, 2), views(three, 1, 2), strict=True):
        for number in range(3):
            assert torch.equal(whole.views[number][::2], first.views[number])
            assert torch.equal(whole.views[number][1::2], second.views[number])


def test_an_unreadable_image_has_no_view(tmp_path):
    task = job(tmp_path, cache_gb=1e-9)
    trainer = ConsistentStudent(task, LocalReporter(tmp_path / "run"))
    Path(trainer.examples.uris[5]).unlink()
    for batch in trainer.batches(0):
        lost = batch.positions == 5
        assert batch.readable.tolist() == (~lost).tolist()
        for view in batch.views:
            assert not view[lost].any()
            assert view[~lost].flatten(1).any(dim=1).all()
        if lost.any():
            assert batch.failures == {5: Failure(Reason.NOT_FOUND, batch.failures[5].detail)}


def _one_of_two(rank: int, task: StudentJob, folder: Path) -> None:
    train_consistent(task, RankReporter(folder / f"rank{rank}", rank))


@pytest.mark.slow
def test_two_workers_learn_from_views_as_one_does(tmp_path):
    # 49 images in batches of at most 10: shares of other sizes, with other numbers of images without a class.
    task = half_labelled(tmp_path, count=49, epochs=2, batch_size=10)
    with two_processes(tmp_path, _one_of_two, task, tmp_path):
        one = LocalReporter(tmp_path / "one")
        history = train_consistent(task, one)
    two = LocalReporter(tmp_path / "rank0")
    kept = json.loads((two.checkpoint / "history.json").read_text())
    for a, b in zip(history, kept, strict=True):
        assert a["consistency_loss"] == pytest.approx(b["consistency_loss"], rel=1e-3)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, atol=2e-5, rtol=1e-3)
