"""What a student's training makes of images that cannot be read, few images, and answers that are missing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from fgvr.config import ImageLimits
from fgvr.models.infer import load_classifier
from fgvr.models.student import StudentSpec, timm_preprocess
from fgvr.schemas import Failure, Reason
from fgvr.training import run_images, student_data
from fgvr.training.assemble import HeldOut, assemble, true_classes
from fgvr.training.checkpoint import read_history, read_left_out, read_lost, reasons
from fgvr.training.examples import Examples
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import train_student
from fgvr.training.student_data import StudentJob
from fgvr.training.targets import true_targets
from tests.fgvr.training.coloured_photos import job, photos, weights


def test_unreadable_images_are_left_out_and_listed(tmp_path):
    task = job(tmp_path, epochs=1)
    Path(Examples.read(task.examples).uris[7]).write_bytes(b"no image")
    reporter = LocalReporter(tmp_path / "run")
    train_student(task, reporter)
    assert '"7": ["not_an_image"' in (reporter.checkpoint / "left_out.json").read_text()
    with pytest.raises(
        ValueError,
        match=r"1 of 48 training images cannot be read \(not_an_image \(1\), e\.g\. image 7 \(photos/7\.png\): a text",
    ):
        train_student(replace(task, max_error_share=0.0), LocalReporter(tmp_path / "strict"))


class Loses(LocalReporter):
    """After the first epoch two photos are gone: one is learned from, one validates."""

    def __init__(self, folder: Path, lost: Sequence[Path]) -> None:
        super().__init__(folder)
        self.lost = lost

    def report(self, metrics, save=None):
        super().report(metrics, save)
        for photo in self.lost:
            photo.unlink(missing_ok=True)


def test_images_that_are_lost_on_the_way_are_remembered(tmp_path):
    task = job(tmp_path, epochs=2, share=0.25, cache_gb=1e-9)  # which holds none: each is read when it is needed
    uris = Examples.read(task.examples).uris
    reporter = Loses(tmp_path / "run", [Path(uris[3]), Path(uris[40])])
    train_student(task, reporter)
    assert read_left_out(reporter.checkpoint) == {}
    lost = read_lost(reporter.checkpoint)
    assert list(lost) == [3, 40]
    assert reasons(lost) == {"not_found": 2}
    train_student(replace(task, settings=task.settings.model_copy(update={"epochs": 3})), reporter)
    assert list(read_lost(reporter.checkpoint)) == [3, 40]  # by a resumed training, too


def test_more_lost_images_than_allowed_stop_the_training(tmp_path):
    task = replace(job(tmp_path, epochs=2, cache_gb=1e-9), max_error_share=0.0)
    uris = Examples.read(task.examples).uris
    with pytest.raises(
        ValueError,
        match=r"1 of 48 training images cannot be read \(not_found \(1\), e\.g\. there is nothing at .*photos/3\.png",
    ):
        train_student(task, Loses(tmp_path / "run", [Path(uris[3])]))
    assert len(read_history(tmp_path / "run" / "checkpoint")) == 1


def test_all_aspects_masked_trains_on_classes_alone(tmp_path):
    task = job(tmp_path, epochs=1)
    examples = Examples.read(task.examples)
    replace(examples, p_yes=np.full_like(examples.p_yes, np.nan)).write(task.examples)
    reporter = LocalReporter(tmp_path / "run")
    train_student(task, reporter)
    assert reporter.history[0]["aspect_loss"] == 0
    assert np.isfinite(reporter.history[0]["loss"])
    assert all(value.isfinite().all() for value in weights(reporter).values())


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    with pytest.raises(ValueError, match=r"not finite after epoch \d: lower makd\.lr = 1e\+20"):
        train_student(job(tmp_path, epochs=3, lr=1e20), LocalReporter(tmp_path / "run"))


def test_a_class_with_one_image_is_trained_on_and_learned(tmp_path):
    """However much is held out and however little is used: it has no image to validate with, and is still an output."""
    uris, classes = photos(tmp_path / "photos", 64, seed=0)
    kept = np.flatnonzero((classes != 3) | (np.arange(64) == 7))
    rows = pa.table({"image_id": kept, "uri": [uris[n] for n in kept], "class_id": pa.array(classes[kept], pa.int32())})
    rows = rows.append_column("class_name", pa.array(["abcd"[n] for n in classes[kept]]))
    targets = true_targets(true_classes(rows))
    no_aspects = np.zeros((len(kept), 0), dtype=np.float32)
    examples = assemble(rows, targets, no_aspects, HeldOut(0.5, 0, fraction=0.8), "v1").examples
    assert len(examples) == 39  # 80% of 3 · 16 + 1
    (place,) = np.flatnonzero(examples.classes == 3)
    assert (int(examples.image_ids[place]), bool(examples.held_out[place])) == (7, False)
    recipe = job(tmp_path / "recipe", epochs=12, lr=0.05, alpha=0.0, schedule="cosine").settings
    examples.write(str(tmp_path / "examples.parquet"))
    spec = StudentSpec(recipe.backbone, targets.labels, (), timm_preprocess(recipe.backbone, 16))
    task = StudentJob(str(tmp_path / "examples.parquet"), spec, recipe, ImageLimits(), cache=str(tmp_path / "cache"))
    reporter = LocalReporter(tmp_path / "run")
    train_student(task, reporter)
    student = load_classifier(reporter.checkpoint / "last")
    assert student.labels == ["a", "b", "c", "d"]
    assert student.scores([Image.open(uris[7])]).argmax() == 3


def test_too_few_images_for_a_step_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"1 training images in batches of makd\.batch_size = 8"):
        train_student(job(tmp_path, count=1), LocalReporter(tmp_path / "run"))


def away(uris: Sequence[str], folder: Path) -> list[Path]:
    """Photos moved elsewhere."""
    folder.mkdir()
    return [Path(uri).rename(folder / Path(uri).name) for uri in uris]


def back(photos_away: Sequence[Path], uris: Sequence[str]) -> None:
    for photo, uri in zip(photos_away, uris, strict=True):
        photo.rename(uri)


def remote(task: StudentJob, name: str) -> tuple[StudentJob, list[str]]:
    """The job with its photos in an object store, where nothing tells one moment's content from another's."""
    examples = Examples.read(task.examples)
    uris = [f"memory://{name}/{Path(uri).name}" for uri in examples.uris]
    for uri, local in zip(uris, examples.uris, strict=True):
        fsspec.filesystem("memory").pipe_file(uri, Path(local).read_bytes())
    replace(examples, uris=uris).write(task.examples)
    return task, uris


def test_the_same_command_trains_when_photos_are_back(tmp_path):
    task, uris = remote(replace(job(tmp_path, epochs=1), max_error_share=0.01), "back")
    files = fsspec.filesystem("memory")
    kept = {uri: files.cat_file(uri) for uri in uris[:20]}
    files.rm(list(kept))
    with pytest.raises(ValueError, match=r"20 of 48 .*not_found \(20\).*e\.g\. .*back/0\.png.* same command tries"):
        train_student(task, LocalReporter(tmp_path / "run"))
    for uri, content in kept.items():
        files.pipe_file(uri, content)
    reporter = LocalReporter(tmp_path / "run")
    train_student(task, reporter)
    assert read_left_out(reporter.checkpoint) == {}


def test_a_few_photos_that_were_away_are_not_missing_from_the_next_student(tmp_path):
    task, uris = remote(job(tmp_path, epochs=1), "few")
    files = fsspec.filesystem("memory")
    content = files.cat_file(uris[5])
    files.rm(uris[5])
    first = LocalReporter(tmp_path / "run")
    train_student(task, first)
    assert list(read_left_out(first.checkpoint)) == [5]
    files.pipe_file(uris[5], content)
    # A training that goes on has the batches that it began with; what the retry trains is another one.
    train_student(replace(task, settings=task.settings.model_copy(update={"epochs": 2})), first)
    assert list(read_left_out(first.checkpoint)) == [5]
    again = LocalReporter(tmp_path / "run-1")
    train_student(task, again)
    assert read_left_out(again.checkpoint) == {}


def test_photos_that_are_away_when_a_training_goes_on_are_lost_and_not_left_out(tmp_path):
    task = job(tmp_path, epochs=1, cache_gb=1e-9)
    uris = Examples.read(task.examples).uris[:2]
    reporter = LocalReporter(tmp_path / "run")
    train_student(task, reporter)
    photos_away = away(uris, tmp_path / "away")
    task = replace(task, settings=task.settings.model_copy(update={"epochs": 2}))
    with pytest.raises(ValueError, match="2 of 48 training images cannot be read"):
        train_student(replace(task, max_error_share=0.0), reporter)
    assert len(read_history(reporter.checkpoint)) == 1  # nothing was learned without them
    train_student(task, reporter)
    assert (read_left_out(reporter.checkpoint), list(read_lost(reporter.checkpoint))) == ({}, [0, 1])
    back(photos_away, uris)


def test_workers_on_several_machines_leave_out_the_same_images(tmp_path, monkeypatch):
    task = job(tmp_path, epochs=1)
    Path(Examples.read(task.examples).uris[3]).unlink()
    elsewhere = {9: Failure(Reason.UNREADABLE, "another machine's network"), 3: Failure(Reason.NOT_FOUND, "gone")}

    def gather(found, world_size):
        assert (list(found), world_size) == ([3], 2)
        return dict(sorted((elsewhere | found).items()))

    monkeypatch.setattr(run_images, "over_workers", gather)
    reporter = LocalReporter(tmp_path / "run")
    reporter.world_size = 2
    data = student_data.open_student_data(task, reporter)
    assert list(data.left_out) == [3, 9]
    assert not {3, 9} & set(data.training.tolist())


def test_a_checkpoint_of_a_gpu_is_read_without_one(tmp_path, monkeypatch):
    """What torch.save writes of a card's tensors: storages tagged with its name."""
    task = job(tmp_path, epochs=1)
    reporter = LocalReporter(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:1")
        train_student(task, reporter)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(reporter.checkpoint / "state.pt", weights_only=True)
    train_student(replace(task, settings=task.settings.model_copy(update={"epochs": 2})), reporter)
    assert len(read_history(reporter.checkpoint)) == 2
