"""NeaR's training: the method written out, and what must not change its outcome."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fgvr.candidates.sets import disambiguate
from fgvr.clip.prompt import random_context
from fgvr.models.infer import load_classifier
from fgvr.tables import Table
from fgvr.training.prompt import train_near
from fgvr.training.prompt_data import NearJob, NearState, read_weights
from fgvr.training.reporter import LocalReporter
from tests.fgvr.training.near_discovery import naive_training, run, state
from tests.two_processes import RankReporter, two_processes

pytestmark = pytest.mark.usefixtures("one_thread")


def test_full_batch_training_is_the_method_written_out(discovery, tmp_path):
    job = discovery.job(batch_size=1000, epochs=12)
    reporter = run(job, tmp_path / "run")
    context, losses = naive_training(discovery, job.settings)
    assert [metrics["loss"] for metrics in reporter.history[:11]] == pytest.approx(losses[:11], rel=1e-4)
    assert (state(reporter)["context"] - context).norm() < 1e-3 * context.norm()
    assert losses[-1] < losses[0]


def test_learns_the_classes_and_sets_wrong_labels_right(discovery, tmp_path):
    job = discovery.job(epochs=80, batch_size=1000)
    reporter = run(job, tmp_path / "run")
    classes = load_classifier(reporter.checkpoint / "model")
    predicted = classes.scores_from_features(discovery.features).argmax(axis=1)
    start = discovery._text_features(random_context(discovery._tower, 4, job.settings.seed))
    zero_shot = (discovery.features @ start.T).argmax(axis=1)
    table = disambiguate(Table.load(job.candidates).read(), read_weights(reporter.checkpoint))
    settled = (table["label_id"].to_numpy() == discovery.truth).mean()
    assert (predicted == discovery.truth).mean() > (zero_shot == discovery.truth).mean() + 0.15
    assert (predicted == discovery.truth).mean() > 0.95
    assert settled > (discovery.own == discovery.truth).mean() + 0.2
    for labels, weights in zip(table["label_ids"].to_pylist(), table["weights"].to_pylist(), strict=True):
        assert len(labels) == len(weights)
        assert sum(weights) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("loss", ["proden", "rc"])
@pytest.mark.parametrize("batch_size", [16, 1000])
def test_resumed_training_is_bit_equal(discovery, tmp_path, batch_size, loss):
    settings = {"batch_size": batch_size, "loss": loss, "epochs": 6, "validation_share": 0.2, "checkpoint_steps": 3}
    whole = run(discovery.job(**settings), tmp_path / "whole")

    class Dies(LocalReporter):
        def report(self, metrics, save=None):
            super().report(metrics, save)
            if save is not None and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_near(discovery.job(**settings), Dies(tmp_path / "parts"))
    assert torch.load(tmp_path / "parts" / "checkpoint" / "state.pt", weights_only=True)["step"] == 3
    parts = run(discovery.job(**settings), tmp_path / "parts")
    for name in ("context", "weights", "best_context"):
        assert torch.equal(state(whole)[name], state(parts)[name]), name
    momentum = [state(reporter)["optimiser"]["state"][0]["momentum_buffer"] for reporter in (whole, parts)]
    assert torch.equal(*momentum)
    np.testing.assert_array_equal(read_weights(whole.checkpoint), read_weights(parts.checkpoint))
    histories = [json.loads((reporter.checkpoint / "history.json").read_text()) for reporter in (whole, parts)]
    for first, second in zip(*histories, strict=True):
        assert {**first, "steps_per_second": 0} == {**second, "steps_per_second": 0}


def test_a_finished_training_only_reports_again(discovery, tmp_path):
    first = run(discovery.job(epochs=2), tmp_path / "run")
    before = state(first)
    again = run(discovery.job(epochs=2), tmp_path / "run")
    assert again.history == first.history[-1:]
    assert torch.equal(state(again)["context"], before["context"])


def test_chunks_of_names_and_images_change_nothing(discovery, tmp_path, monkeypatch):
    whole = run(discovery.job(epochs=3), tmp_path / "whole")
    monkeypatch.setattr("fgvr.training.prompt_scores.LOGITS_AT_ONCE", 20)  # four images at a time
    chunked = run(discovery.job(epochs=3, text_chunk=2), tmp_path / "chunked")
    difference = state(whole)["context"] - state(chunked)["context"]
    assert difference.norm() < 1e-4 * state(whole)["context"].norm()
    np.testing.assert_allclose(read_weights(whole.checkpoint), read_weights(chunked.checkpoint), atol=1e-4)


def test_frozen_epochs_keep_the_initial_weights(discovery, tmp_path):
    frozen = run(discovery.job(epochs=3, frozen_epochs=3), tmp_path / "frozen")
    moving = run(discovery.job(epochs=3, frozen_epochs=0), tmp_path / "moving")
    assert torch.equal(state(frozen)["weights"], torch.from_numpy(discovery.sets.weights))
    assert not torch.equal(state(moving)["weights"], torch.from_numpy(discovery.sets.weights))


@pytest.mark.parametrize(
    "settings", [{"class_specific": True}, {"name_position": "middle"}, {"context_init": "a photo of a"}]
)
def test_other_contexts_learn_too(discovery, tmp_path, settings):
    reporter = run(discovery.job(epochs=10, batch_size=1000, **settings), tmp_path / "run")
    assert reporter.history[-1]["loss"] < reporter.history[0]["loss"]
    assert len(state(reporter)["context"]) == (5 if "class_specific" in settings else 4)


@pytest.mark.parametrize("loss", ["ce", "cc", "rc", "gce", "lws", "cavl"])
def test_other_losses_learn_too(discovery, tmp_path, loss):
    reporter = run(discovery.job(epochs=10, batch_size=1000, loss=loss), tmp_path / "run")
    assert reporter.history[-1]["loss"] < reporter.history[0]["loss"]


def test_the_best_epoch_on_held_out_images_is_kept(discovery, tmp_path):
    reporter = run(discovery.job(epochs=8, lr=0.3, validation_share=0.3), tmp_path / "run")
    saved = state(reporter)
    losses = [metrics["held_out_loss"] for metrics in reporter.history if "held_out_loss" in metrics]
    assert saved["best_loss"] == pytest.approx(min(losses))
    from safetensors.torch import load_file

    exported = load_file(reporter.checkpoint / "model" / "model.safetensors")["context"]
    assert torch.equal(exported, saved["best_context"])


def test_the_lowest_held_out_loss_chooses():
    progress = NearState.start(torch.zeros(1))
    for loss, value in ((2.0, 1.0), (1.0, 2.0), (1.5, 3.0)):
        progress.validated(loss, torch.tensor([value]))
    assert (progress.best_loss, progress.held_out_loss) == (1.0, 1.5)
    assert progress.chosen(torch.tensor([9.0])) == torch.tensor([2.0])
    assert NearState.start(torch.zeros(1)).chosen(torch.tensor([9.0])) == torch.tensor([9.0])


def _train_as_one_of_two(rank: int, jobs: list[NearJob], folder: Path) -> None:
    for number, job in enumerate(jobs):
        train_near(job, RankReporter(folder / f"two-{number}", rank))


@pytest.mark.slow
def test_two_processes_train_as_one(discovery, tmp_path):
    recipes = [{"batch_size": 16}, {"batch_size": 1000, "class_specific": True, "loss": "rc"}]
    jobs = [discovery.job(epochs=5, validation_share=0.2, text_chunk=2, **recipe) for recipe in recipes]
    with two_processes(tmp_path, _train_as_one_of_two, jobs, tmp_path):
        alone = [run(job, tmp_path / f"one-{number}") for number, job in enumerate(jobs)]
    for number, one in enumerate(alone):
        two = LocalReporter(tmp_path / f"two-{number}")
        difference = state(one)["context"] - state(two)["context"]
        assert difference.norm() < 1e-3 * state(one)["context"].norm()
        np.testing.assert_allclose(read_weights(one.checkpoint), read_weights(two.checkpoint), atol=1e-3)
        assert state(two)["best_loss"] == pytest.approx(state(one)["best_loss"], rel=1e-4)
