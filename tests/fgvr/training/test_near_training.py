import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from fgvr import storage, tables
from fgvr.candidate_table import candidate_rows, disambiguate
from fgvr.candidates import CandidateSets, neighbour_sets, single_sets
from fgvr.classifier import load_classifier
from fgvr.clip.model import load_clip
from fgvr.clip.prompt import PromptLearner, random_context
from fgvr.clip.prompt_layout import prompt_layout
from fgvr.clip.text_tower import TextTower
from fgvr.config import Clip, Near
from fgvr.embeddings import embedding_rows
from fgvr.errors import UserError
from fgvr.neighbours import nearest
from fgvr.schemas import LABELS
from fgvr.tables import Table
from fgvr.training.near import train_near
from fgvr.training.near_data import NearJob, read_near_data
from fgvr.training.near_state import NearState, read_weights
from fgvr.training.reporter import LocalReporter
from tests.two_processes import RankReporter, two_processes

FIRST_ID = 100


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Discovery:
    """Tables of a small discovery set: images lie where a hidden context puts their class, a third is named wrongly."""

    def __init__(self, folder: Path, clip_folder: Path, names: list[str], per_class: int = 12) -> None:
        random = np.random.default_rng(0)
        self.folder, self.clip, self.names = folder, Clip(model=str(clip_folder)), names
        self.truth = np.repeat(np.arange(len(names)), per_class)
        centres = self._text_features(random_context(self._tower, 4, seed=99) * 20)
        images = centres[self.truth] + 0.02 * random.standard_normal((len(self.truth), centres.shape[1]))
        self.features = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
        wrong = random.random(len(self.truth)) < 0.33
        other = (self.truth + random.integers(1, len(names), len(self.truth))) % len(names)
        self.own = np.where(wrong, other, self.truth).astype(np.int32)
        found = nearest(self.features, self.features, 3, own=np.arange(len(self.truth)))
        self.sets = neighbour_sets(single_sets(self.own), found.ids, found.scores)
        self.ids = np.arange(len(self.truth)) + FIRST_ID
        self._write(candidate_rows(self.ids, self.ids[found.ids], found.scores, self.sets))

    def _text_features(self, context: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return PromptLearner(self._tower, self._layout(len(context)), context)().numpy()

    @property
    def _tower(self) -> TextTower:
        return TextTower.of(load_clip(self.clip).network)

    def _layout(self, context_tokens: int):
        return prompt_layout(load_clip(self.clip).tokenizer, self._tower, self.names, context_tokens)

    def _write(self, candidates: pa.Table) -> None:
        rows = [{"image_id": int(i), "label_id": int(label)} for i, label in zip(self.ids, self.own, strict=True)]
        self.table("labels", pa.Table.from_pylist(rows, schema=LABELS))
        space = {"labels": self.names, "counts": np.bincount(self.own, minlength=len(self.names)).tolist()}
        storage.write_bytes(str(self.folder / "labels" / "label_space.json"), json.dumps(space).encode())
        self.table("embeddings", embedding_rows(self.ids, self.features, [None] * len(self.ids)))
        self.table("candidates", candidates)

    def table(self, name: str, rows: pa.Table) -> None:
        half = max(1, len(rows) // 2)
        parts = [rows.slice(start, half) for start in range(0, len(rows), half)]
        for number, part in enumerate(parts):
            tables.write_part(str(self.folder / name), number, part)
        Table(str(self.folder / name), name, "x", len(rows), 0, len(parts), half, 0.0).commit()

    def job(self, views: str | None = None, **settings) -> NearJob:
        values = {"context_length": 4, "epochs": 10, "batch_size": 16, "lr": 0.01, "warmup_epochs": 0} | settings
        uris = {name: str(self.folder / name) for name in ("labels", "embeddings", "candidates")}
        return NearJob(settings=Near(**values), clip=self.clip, views=views, **uris)


@pytest.fixture
def discovery(tmp_path, clip_folder, names):
    return Discovery(tmp_path / "tables", clip_folder, names)


def run(job, folder):
    reporter = LocalReporter(folder)
    train_near(job, reporter)
    return reporter


def state(reporter):
    return torch.load(reporter.checkpoint / "state.pt", weights_only=True)


def naive_training(discovery, settings):
    """The method as the papers write it, full batch: all names at once, weights updated from the pre-step logits."""
    clip = load_clip(discovery.clip)
    tower = TextTower.of(clip.network)
    layout = prompt_layout(clip.tokenizer, tower, discovery.names, settings.context_length)
    context = random_context(tower, settings.context_length, settings.seed).requires_grad_()
    optimiser = torch.optim.SGD([context], settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    images = torch.from_numpy(discovery.features).half().float()
    mask = torch.zeros(len(images), len(discovery.names), dtype=torch.bool)
    for row, labels in enumerate(discovery.sets.label_ids):
        mask[row, labels[labels >= 0]] = True
    weights = mask / mask.sum(dim=1, keepdim=True)
    losses = []
    for epoch in range(settings.epochs):
        optimiser.param_groups[0]["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
        tokens = tower.token_embedding(layout.ids.clamp(min=0))
        tokens = torch.cat([tokens[:, :1], context.expand(len(tokens), -1, -1), tokens[:, 5:]], dim=1)
        text, length = clip.network.text, tokens.shape[1]
        x = text.transformer(tokens + text.positional_embedding[:length], attn_mask=text.attn_mask[:length, :length])
        names = text.ln_final(x)[torch.arange(len(x)), layout.end] @ text.text_projection
        logits = clip.logit_scale * images @ F.normalize(names, dim=-1).T
        loss = -(weights * logits.log_softmax(dim=1)).sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        p = logits.detach().softmax(dim=1) * mask
        weights = p / p.sum(dim=1, keepdim=True)
        losses.append(loss.item())
    return context.detach(), losses


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
    monkeypatch.setattr("fgvr.training.near_scores.LOGITS_AT_ONCE", 20)  # four images at a time
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


def test_views_are_shown_and_missing_ones_replaced(discovery, tmp_path):
    views = np.hstack([discovery.features[::-1], discovery.features])
    rows = embedding_rows(discovery.ids, views, [None] * len(views))
    discovery.table("views", rows.slice(1))  # the first image's views failed
    job = discovery.job(views=str(discovery.folder / "views"), epochs=2)
    data = read_near_data(job, rank=0, world_size=1)
    half = torch.from_numpy(discovery.features).half()
    assert data.features.shape == (60, 3, 24)
    assert torch.equal(data.features[1:, 1], half.flip(0)[1:])
    assert torch.equal(data.features[0], half[0].expand(3, -1))
    assert run(job, tmp_path / "run").history[-1]["step"] == 8


def test_shares_of_workers_make_the_whole(discovery):
    whole = read_near_data(discovery.job(), rank=0, world_size=1)
    shares = [read_near_data(discovery.job(), rank, 4) for rank in range(4)]
    assert [share.first for share in shares] == [0, 15, 30, 45]
    for name in ("features", "label_ids", "weights", "own"):
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name))


def test_images_without_candidates_are_left_out(discovery, tmp_path):
    sets = CandidateSets(discovery.sets.label_ids.copy(), discovery.sets.weights.copy())
    sets.label_ids[5:10], sets.weights[5:10] = -1, 0
    near = np.arange(60)[:, None]
    discovery.table(
        "candidates", candidate_rows(discovery.ids, discovery.ids[near], np.ones((60, 1), np.float32), sets)
    )
    data = read_near_data(discovery.job(), rank=0, world_size=1)
    assert data.total == len(data) == 55
    reporter = run(discovery.job(epochs=1), tmp_path / "run")
    table = disambiguate(Table.load(discovery.job().candidates).read(), read_weights(reporter.checkpoint))
    assert table["label_id"].to_pylist()[5:10] == [None] * 5
    assert table["label_id"].null_count == 5


def test_a_label_space_of_one_name_trains(tmp_path, clip_folder):
    discovery = Discovery(tmp_path / "tables", clip_folder, ["Teal", "Dusky Wren"])
    discovery.own[:] = 0
    discovery.names = ["Teal"]
    sets = single_sets(np.zeros(24, np.int32))
    discovery._write(candidate_rows(discovery.ids, discovery.ids[:, None], np.ones((24, 1), np.float32), sets))
    reporter = run(discovery.job(epochs=2), tmp_path / "run")
    assert reporter.history[-1]["loss"] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_array_equal(read_weights(reporter.checkpoint), 1.0)


def test_names_that_do_not_fit_are_recorded_in_the_model(tmp_path, clip_folder, caplog):
    long = " ".join(["Teal"] * 200)
    discovery = Discovery(tmp_path / "tables", clip_folder, ["Dusky Wren", long])
    reporter = run(discovery.job(epochs=1), tmp_path / "run")
    content = json.loads((reporter.checkpoint / "model" / "model.json").read_text())
    assert content["facts"]["shortened_names"] == [long]
    assert content["labels"] == ["Dusky Wren", long]
    assert "1 names are too long for the text tower and were shortened" in caplog.text


def test_a_rate_that_explodes_is_named(discovery, tmp_path):
    with pytest.raises(UserError, match=r"loss is nan.*lower near\.lr"):
        run(discovery.job(epochs=60, lr=1e38, momentum=0.9), tmp_path / "run")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_named(discovery, tmp_path, value):
    discovery.features[7, 3] = value
    discovery.table("embeddings", embedding_rows(discovery.ids, discovery.features, [None] * 60))
    with pytest.raises(UserError, match=r"1 images in the table embeddings are no numbers.*first is image 107"):
        run(discovery.job(), tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_training(discovery, tmp_path, monkeypatch):
    from fgvr.training.near_scores import NearScores

    plain = NearScores.logits
    monkeypatch.setattr(NearScores, "logits", lambda self, *args: plain(self, *args) * torch.tensor(float("nan")))
    with pytest.raises(UserError, match="loss is nan"):
        run(discovery.job(loss="cavl"), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_no_candidates_at_all_is_named(discovery, tmp_path):
    none = CandidateSets(np.full((60, 1), -1, np.int32), np.zeros((60, 1), np.float32))
    discovery.table(
        "candidates", candidate_rows(discovery.ids, discovery.ids[:, None], np.ones((60, 1), np.float32), none)
    )
    with pytest.raises(UserError, match="0 images have candidates"):
        run(discovery.job(), tmp_path / "run")


def _train_as_one_of_two(rank: int, job: NearJob, folder: Path) -> None:
    train_near(job, RankReporter(folder, rank))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"batch_size": 16}, {"batch_size": 1000, "class_specific": True, "loss": "rc"}])
def test_two_processes_train_as_one(discovery, tmp_path, settings):
    job = discovery.job(epochs=5, validation_share=0.2, text_chunk=2, **settings)
    with two_processes(tmp_path, _train_as_one_of_two, job, tmp_path / "two"):
        one = run(job, tmp_path / "one")
    two = LocalReporter(tmp_path / "two")
    difference = state(one)["context"] - state(two)["context"]
    assert difference.norm() < 1e-3 * state(one)["context"].norm()
    np.testing.assert_allclose(read_weights(one.checkpoint), read_weights(two.checkpoint), atol=1e-3)
    assert state(two)["best_loss"] == pytest.approx(state(one)["best_loss"], rel=1e-4)
