"""A student of photos and metadata: what it learns, what missing columns do, resumption, and several workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from fgvr.array_files import save_array
from fgvr.config import Makd
from fgvr.config.metadata import FusedMetadata
from fgvr.metadata.encoder import MetadataEncoder, drawn, hidden
from fgvr.metadata.fitted import fit
from fgvr.models.fused import FusedStudent, StudentMetadata
from fgvr.models.infer import load_classifier
from fgvr.models.student import build_student
from fgvr.training.checkpoint import read_history
from fgvr.training.examples import Examples
from fgvr.training.fused import FusedTrainer, train_fused
from fgvr.training.reporter import LocalReporter
from fgvr.training.student_data import StudentJob, bounded_by_steps
from tests.dying_reporter import DiesAfter, Killed
from tests.fgvr.training.coloured_photos import job, weights
from tests.two_processes import RankReporter, two_processes


def months(classes: np.ndarray) -> pa.Array:
    """Summer for the light colours, winter for the dark ones."""
    return pa.array(["7" if label % 2 else "1" for label in classes.tolist()], pa.string())


def fused(tmp_path: Path, count: int = 48, **settings: Any) -> StudentJob:
    """The coloured photos with dark and light swapped for half of them, and a month that tells them apart."""
    metadata = settings.pop("metadata", {})
    task = job(tmp_path, count, questions=(), alpha=0, **settings)
    columns = FusedMetadata(columns={"month": {"cyclic": 12}, "shop": "category"}, dimensions=16, **metadata)
    examples = Examples.read(task.examples)
    texts = {"month": months(examples.classes), "shop": pa.array(["x", None] * (count // 2))}
    fitted, _ = fit(texts, columns)
    save_array(str(tmp_path / "metadata.npy"), fitted.encode(texts).astype("<f2"))
    spec = replace(task.spec, metadata=StudentMetadata.of(fitted, columns))
    recipe = Makd.model_validate(task.settings.model_dump() | {"metadata": columns.model_dump()})
    return replace(task, spec=spec, settings=recipe, metadata=str(tmp_path / "metadata.npy"))


def test_a_hidden_column_is_a_missing_one():
    torch.manual_seed(0)
    features = torch.tensor([[0.5, -1.0, 2.0, 0.0, 0.0]])  # columns of 2 numbers and of 1, and their flags
    gone = hidden(features, [2, 1], torch.tensor([[True, False]]))
    assert gone.tolist() == [[0, 0, 2, 1, 0]]
    missing = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0]])
    encoder = MetadataEncoder([2, 1], 8)
    assert torch.equal(encoder(gone), encoder(missing))
    # In the mean over all that dropout draws, with a probability of 1 there is one branch: the missing one.
    always = hidden(features.expand(1000, -1), [2, 1], drawn(1000, 2, 1.0, 0.0))
    nothing = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]])
    assert torch.equal(always, nothing.expand(1000, -1))
    assert torch.allclose(encoder(always).mean(dim=0), encoder(nothing)[0], atol=1e-6)


def test_columns_are_hidden_as_often_as_asked():
    torch.manual_seed(0)
    gone = drawn(20_000, 2, 0.3, 0.15)
    each, both = 1 - 0.7 * 0.85, 0.15 + 0.85 * 0.09
    assert gone.float().mean(dim=0).tolist() == pytest.approx([each, each], abs=0.015)
    assert float(gone.all(dim=1).float().mean()) == pytest.approx(both, abs=0.015)


def test_a_missing_column_has_no_gradient():
    torch.manual_seed(0)
    encoder = MetadataEncoder([2, 1], 8)
    features = torch.tensor([[0.5, -1.0, 2.0, 1.0, 0.0]], requires_grad=True)  # the first is said to be missing
    encoder(features).sum().backward()
    assert features.grad is not None
    assert features.grad[0, :2].tolist() == [0, 0]
    assert features.grad[0, 2] != 0
    found = encoder.inner.weight.grad
    assert found is not None
    assert (found[:, :2] == 0).all()
    assert (found[:, 2] != 0).any()


def test_without_features_all_is_missing(tmp_path):
    task = fused(tmp_path)
    student = build_student(task.spec)
    assert isinstance(student, FusedStudent)
    pixels = torch.randn(3, 3, 16, 16)
    none = torch.from_numpy(task.spec.metadata.fitted.none(3))
    assert torch.equal(student(pixels), student(pixels, none))
    assert not torch.equal(student(pixels), student(pixels, torch.zeros_like(none)))


@pytest.mark.slow
def test_metadata_tell_apart_what_photos_do_not(tmp_path):
    """Half of the classes swapped: photos say red or blue, the month says which of the two."""
    task = fused(tmp_path, 96, share=0.25, epochs=12, lr=0.05, backbone="test_vit")
    for number, uri in enumerate(Examples.read(task.examples).uris):  # every photo is of the dark kind
        with Image.open(uri) as image:
            flat = Image.new("RGB", image.size, (140, 20, 20) if number % 4 < 2 else (20, 20, 140))
        flat.save(uri)
    reporter = LocalReporter(tmp_path / "run")
    history = train_fused(task, reporter)
    assert history[-1]["validation_top1"] >= 0.95
    assert 0.3 <= history[-1]["validation_top1_photo_alone"] <= 0.7
    student = load_classifier(reporter.checkpoint / "last")
    assert student.columns == ("month", "shop")
    images = [Image.new("RGB", (16, 16), colour) for colour in 2 * [(140, 20, 20), (20, 20, 140)]]
    prepared = torch.stack([student.prepare(image) for image in images])
    said = student.predict_with(prepared, {"month": pa.array(["1", "1", "7", "7"])}).scores.argmax(axis=1)
    assert said.tolist() == [0, 2, 1, 3]
    alone = student.predict(prepared).scores
    nothing = student.predict_with(prepared, {"month": pa.nulls(4, pa.string())}).scores
    assert alone == pytest.approx(nothing, abs=1e-6)


def test_resumed_training_is_bit_equal(tmp_path):
    task = fused(tmp_path, share=0.25, backbone="test_byobnet", metadata={"pretrain_epochs": 2, "encoder_lr": 0.01})
    whole, parts = LocalReporter(tmp_path / "whole"), LocalReporter(tmp_path / "parts")
    train_fused(task, whole)
    with pytest.raises(Killed):
        train_fused(task, DiesAfter(tmp_path / "parts", 1))
    torch.manual_seed(99)
    train_fused(task, parts)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())
    first, again = read_history(whole.checkpoint), read_history(parts.checkpoint)
    assert [row | {"images_per_second": 0} for row in first] == [row | {"images_per_second": 0} for row in again]


def test_pretraining_brings_views_together_and_leaves_the_classifier(tmp_path):
    task = fused(
        tmp_path, backbone="test_byobnet", epochs=6, metadata={"pretrain_epochs": 5, "dropout": 0, "dropout_all": 0}
    )
    trainer = FusedTrainer(task, LocalReporter(tmp_path / "run"))
    before = trainer.student.classifier.weight.detach().clone()
    batch = next(iter(trainer.batches(0)))
    trainer.learn(batch)
    factor = 1 - task.settings.lr * task.settings.weight_decay  # SGD decays all weights
    assert torch.allclose(trainer.student.classifier.weight, before * factor, atol=1e-6)
    history = train_fused(task, LocalReporter(tmp_path / "another"))
    assert history[4]["contrastive_loss"] < history[0]["contrastive_loss"]
    assert history[0]["loss"] == pytest.approx(history[0]["contrastive_loss"])
    assert history[5]["loss"] == pytest.approx(history[5]["class_loss"])


def test_the_folder_keeps_columns_and_a_damaged_one_is_refused(tmp_path):
    task = fused(tmp_path, epochs=1)
    reporter = LocalReporter(tmp_path / "run")
    train_fused(task, reporter)
    folder = reporter.checkpoint / "last"
    assert load_classifier(folder).spec.metadata == task.spec.metadata
    file = folder / "model.json"
    file.write_text(file.read_text().replace('"sources"', '"sauces"'))
    with pytest.raises(ValueError, match="damaged"):
        load_classifier(folder)


def _one_of_two(rank: int, task: StudentJob, folder: Path) -> None:
    train_fused(task, RankReporter(folder / f"rank{rank}", rank))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    still = {"dropout": 0, "dropout_all": 0}  # what is hidden would be drawn by each on its own
    task = fused(tmp_path, 50, share=0.2, epochs=2, backbone="test_vit", batch_size=10, metadata=still)
    with two_processes(tmp_path, _one_of_two, task, tmp_path):
        train_fused(task, LocalReporter(tmp_path / "one"))
    one, two = LocalReporter(tmp_path / "one"), LocalReporter(tmp_path / "rank0")
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, atol=2e-5, rtol=1e-3)
    for row, other in zip(read_history(one.checkpoint), read_history(two.checkpoint), strict=True):
        for key in ("validation_top1", "validation_top1_photo_alone"):
            assert row[key] == other[key]


def test_fewer_steps_have_fewer_epochs_of_pretraining():
    settings = Makd(epochs=10, batch_size=8, max_steps=30, metadata={"columns": {"a": "log"}, "pretrain_epochs": 4})
    bounded = bounded_by_steps(settings, 48)  # 6 steps per epoch
    assert (bounded.epochs, bounded.metadata.pretrain_epochs) == (5, 2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mixup": 0.2}, "mixup with metadata.columns"),
        ({"trainer": "semi"}, "trainer with metadata.columns"),
        ({"epochs": 3, "metadata": {"pretrain_epochs": 3}}, "leave none"),
        ({"class_loss": "mixture", "metadata": {"pretrain_epochs": 3}}, "judges targets"),
    ],
)
def test_what_cannot_be_combined_is_refused(settings, said):
    metadata = {"columns": {"a": "log"}} | settings.pop("metadata", {})
    with pytest.raises(ValidationError, match=said):
        Makd(**settings, metadata=metadata)
