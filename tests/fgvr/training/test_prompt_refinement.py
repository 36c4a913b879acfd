"""POP, RECORDS and the mixture in NeaR's training: as written out, after a resumption, and on two workers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fgvr.config import Near
from fgvr.losses.mixture import clean_probability
from fgvr.training.prompt import train_near
from fgvr.training.prompt_data import NearJob, read_weights
from fgvr.training.reporter import LocalReporter
from tests.fgvr.training.near_discovery import Proden, naive_training, run, state
from tests.two_processes import RankReporter, two_processes

pytestmark = pytest.mark.usefixtures("one_thread")

LOSSES = {
    "pop": {"loss": "pop", "refine_after": 5, "pop_threshold": 0.2, "pop_growth": 0.5},
    "records": {"loss": "records", "records_momentum": 0.8},
    "mixture": {"loss": "mixture", "refine_after": 3},
}


class Pop(Proden):
    """Sets that shrink: the mean weight of five epochs against the largest."""

    def __init__(self):
        self.record, self.threshold = {}, 0.2

    def after(self, epoch, before, again):
        weights = super().after(epoch, before, again)
        self.record[epoch % 5] = weights
        if epoch >= 5 and epoch % 5 == 0:
            mean = torch.stack(list(self.record.values())).mean(dim=0)
            gone = self.mask & (mean / mean.amax(dim=1, keepdim=True) < self.threshold)
            self.mask &= ~gone
            weights = mean * self.mask / (mean * self.mask).sum(dim=1, keepdim=True)
            if gone.sum() < 1e-4 * gone.numel():
                self.threshold *= 1.5
        return weights


class Records(Proden):
    """Weights without the class prior of the followed mean feature."""

    def __init__(self):
        self.mean = 0.0

    def before_step(self, images, names, scale):
        self.mean = 0.8 * self.mean + 0.2 * images.mean(dim=0)
        self.prior = (scale * self.mean @ names.T).softmax(dim=0)

    def after(self, epoch, before, again):
        return super().after(epoch, before - torch.log(self.prior + 1e-9), again)


class Mixture(Proden):
    """Own labels, and from the third epoch on each as far as its loss says it is clean."""

    def __init__(self, own):
        self.own = torch.from_numpy(own).long()

    def start(self, weights):
        self.label = torch.nn.functional.one_hot(self.own, weights.shape[1]).float()
        self.weights = self.label
        return self.label

    def after(self, epoch, before, again):
        if epoch + 1 >= 3:
            logits = again()
            losses = torch.nn.functional.cross_entropy(logits, self.own, reduction="none").numpy()
            clean = torch.from_numpy(clean_probability(losses, np.ones(len(losses), bool)))[:, None]
            self.weights = clean * self.label + (1 - clean) * super().after(epoch, logits, again)
        return self.weights


def test_full_batch_training_is_the_method_written_out(discovery, tmp_path):
    rules = {"pop": Pop(), "records": Records(), "mixture": Mixture(discovery.own)}
    for name, recipe in LOSSES.items():
        job = discovery.job(batch_size=1000, epochs=12, **recipe)
        reporter = run(job, tmp_path / name)
        context, losses = naive_training(discovery, job.settings, rules[name])
        found = [metrics["loss"] for metrics in reporter.history]
        assert found[:11] == pytest.approx(losses[:11], rel=1e-3), name
        assert (state(reporter)["context"] - context).norm() < 5e-3 * context.norm(), name
    assert rules["pop"].threshold == pytest.approx(state(LocalReporter(tmp_path / "pop"))["refinement"]["threshold"])


def test_pop_takes_wrong_candidates_out_for_good(discovery, tmp_path):
    reporter = run(discovery.job(batch_size=1000, epochs=31, **LOSSES["pop"]), tmp_path / "run")
    removed = [metrics["removed_candidates"] for metrics in reporter.history]
    assert removed == sorted(removed)
    kept = state(reporter)["refinement"]["kept"].numpy() > 0
    ids = discovery.sets.label_ids
    assert removed[-1] == ((ids >= 0) & ~kept).sum() > 20
    assert kept.any(axis=1).all()
    weights = read_weights(reporter.checkpoint)
    assert (weights[~kept] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    right = ids == discovery.truth[:, None]
    assert kept[right].mean() > 0.95
    assert kept[~right & (ids >= 0)].mean() < 0.6


def test_the_mixture_finds_the_labels_that_are_wrong(discovery, tmp_path):
    reporter = run(discovery.job(batch_size=1000, epochs=30, **LOSSES["mixture"]), tmp_path / "run")
    clean = state(reporter)["refinement"]["clean"].numpy() > 0.5
    assert (clean == (discovery.own == discovery.truth)).mean() > 0.9
    assert reporter.history[-1]["clean_share"] == pytest.approx(state(reporter)["refinement"]["clean"].mean())


@pytest.mark.parametrize("name", LOSSES)
def test_resumed_training_is_bit_equal(discovery, tmp_path, name):
    settings = {"batch_size": 16, "epochs": 13, "validation_share": 0.2, "checkpoint_steps": 11, **LOSSES[name]}
    whole = run(discovery.job(**settings), tmp_path / "whole")

    class Dies(LocalReporter):
        def report(self, metrics, save=None):
            super().report(metrics, save)
            if save is not None and metrics["step"] > 20 and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_near(discovery.job(**settings), Dies(tmp_path / "parts"))
    parts = run(discovery.job(**settings), tmp_path / "parts")
    assert_same(state(whole), state(parts), exact=True)
    np.testing.assert_array_equal(read_weights(whole.checkpoint), read_weights(parts.checkpoint))


def assert_same(one, two, *, exact):
    """Context, weights, and what the loss keeps beside them."""
    assert one["refinement"].keys() == two["refinement"].keys() != set()
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-3}
    for found, expected in [(one["context"], two["context"]), (one["weights"], two["weights"])] + [
        (torch.as_tensor(one["refinement"][key]), torch.as_tensor(two["refinement"][key])) for key in one["refinement"]
    ]:
        torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_a_set_without_candidates_and_an_image_without_a_label_are_no_error(discovery, tmp_path, name):
    from fgvr.training import prompt

    job = discovery.job(batch_size=1000, epochs=7, **LOSSES[name])
    trainer = prompt.NearTrainer(job, LocalReporter(tmp_path / "run"))
    trainer.data.own[:2] = -1
    trainer.refinement = type(trainer.refinement)(job.settings, trainer.scores, ~trainer.held_out)
    trainer.weights = trainer.refinement.start(trainer.data.weights.clone())
    history = prompt.train(trainer)
    assert np.isfinite([metrics["loss"] for metrics in history]).all()
    assert bool(trainer.weights.isfinite().all())


def test_fields_of_other_losses_decide_nothing():
    assert "pop_threshold" not in Near().deciding()
    assert Near().deciding() == Near(pop_threshold=0.3, refine_after=3, records_momentum=0.5, pop_growth=1).deciding()
    used = {"pop": {"refine_after", "pop_threshold", "pop_growth"}, "records": {"records_momentum"}}
    for loss, fields in used.items():
        assert fields <= Near(loss=loss).deciding().keys()


def _train_as_one_of_two(rank: int, jobs: list[NearJob], folder: Path) -> None:
    for number, job in enumerate(jobs):
        train_near(job, RankReporter(folder / f"two-{number}", rank))


@pytest.mark.slow
def test_two_processes_train_as_one(discovery, tmp_path):
    jobs = [discovery.job(epochs=7, batch_size=16, validation_share=0.2, **recipe) for recipe in LOSSES.values()]
    with two_processes(tmp_path, _train_as_one_of_two, jobs, tmp_path):
        alone = [run(job, tmp_path / f"one-{number}") for number, job in enumerate(jobs)]
    for number, one in enumerate(alone):
        two = LocalReporter(tmp_path / f"two-{number}")
        assert_same(state(one), state(two), exact=False)
        np.testing.assert_allclose(read_weights(one.checkpoint), read_weights(two.checkpoint), atol=2e-3)
