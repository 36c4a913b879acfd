"""The detector: its pieces, its aspect head, its folder, and how it trains."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file, save_file

from fgvr.config.detect import Detect, Detector
from fgvr.detection.batches import DetectionLoader, mirrored
from fgvr.detection.coco import Category, CocoSet
from fgvr.detection.examples import DetectionExamples
from fgvr.detection.model import (
    ASPECT_LOGITS,
    AspectDetector,
    DetectorError,
    DetectorSpec,
    PretrainedWeights,
    load_detector,
    pretrained_weights,
)
from fgvr.detection.training import LOSSES, DetectionJob, DetectionTrainingError, train_detector
from fgvr.hub import names_kept
from fgvr.models.base import ModelFolderError
from fgvr.training.reporter import LocalReporter
from tests.dying_reporter import DiesAfter, Killed
from tests.fgvr.detection.drawn_scenes import TINY, found_rows, job, metrics, scenes
from tests.two_processes import two_processes

FINCH, OWL = Category(3, "finch"), Category(90, "owl")
RECIPE = Detect(model=TINY, alpha=1, epochs=2, batch_size=4, lr=0.01, schedule="cosine", warmup_epochs=0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, CocoSet]:
    folder = tmp_path_factory.mktemp("scenes")
    return folder, scenes(folder, {"train": 12})["train"]


def test_losses_are_torchvision_s_and_aspects_are_means_of_the_last_map():
    torch.manual_seed(0)
    detector = AspectDetector(DetectorSpec(TINY, (FINCH, OWL), ("a?", "b?", "c?")))
    images = [torch.rand(3, 64, 48), torch.rand(3, 40, 64)]
    targets = [
        {"boxes": torch.tensor([[5.0, 5, 30, 40]]), "labels": torch.tensor([2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},  # an image without objects
    ]
    torch.manual_seed(1)
    outputs = detector(images, targets)
    torch.manual_seed(1)
    theirs = detector.rcnn(images, targets)  # its own forward pass in training mode
    assert set(outputs) == {*LOSSES, ASPECT_LOGITS}
    for name in LOSSES:
        torch.testing.assert_close(outputs[name], theirs[name])
    batch = detector.rcnn.transform(images, targets)[0].tensors
    top = detector.rcnn.backbone.body(batch)[-1]
    torch.testing.assert_close(outputs[ASPECT_LOGITS], detector.aspect_head(top.mean((2, 3))))
    assert AspectDetector(DetectorSpec(TINY, (FINCH,)))(images[1:], targets[1:]).keys() == set(LOSSES)


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "resnet18", "resnet50"])
def test_the_paper_s_backbones_have_a_pyramid_of_strides_4_to_64(backbone):
    model = Detector(backbone=backbone, channels=16, head_width=16, freeze_norm=True)
    pyramid = AspectDetector(DetectorSpec(model, (FINCH,))).rcnn.backbone
    levels = pyramid(torch.zeros(1, 3, 128, 64))
    assert {name: tuple(level.shape[1:]) for name, level in levels.items()} == {
        "0": (16, 32, 16),
        "1": (16, 16, 8),
        "2": (16, 8, 4),
        "3": (16, 4, 2),
        "pool": (16, 2, 1),
    }
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in pyramid.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet19"}, "backbone = resnet19: timm has no such model"),
        ({"anchors": (16, 32)}, "anchors has 2 sizes: test_resnet has 4 feature maps, so 5 are needed"),
    ],
)
def test_a_detector_that_cannot_be_built_names_the_field(change, message):
    with pytest.raises(DetectorError, match=rf"detect\.model\.{message}"):
        AspectDetector(DetectorSpec(TINY.model_copy(update=change), (FINCH,)))


class Hub:
    """A hub whose newest commit of timm's weights changes, with other numbers in each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.newest, self.asked = folder, "a" * 40, []
        state = timm.create_model("test_resnet").state_dict()
        for commit, value in (("a" * 40, 0.25), ("b" * 40, 0.75)):
            (folder / commit).mkdir()
            (folder / commit / "config.json").write_text("{}")
            filled = {name: torch.full_like(weight, value) for name, weight in state.items()}
            save_file(filled, folder / commit / "model.safetensors")

    def download(self, repo_id=None, filename="", revision=None, **_):
        self.asked.append((repo_id, filename, revision))
        if not (self.folder / (revision or self.newest)).is_dir():
            raise LocalEntryNotFoundError("no network")
        return str(self.folder / (revision or self.newest) / filename)


@pytest.fixture
def weights_hub(tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", made.download)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", made.download)
    with names_kept():
        yield made


def test_every_worker_loads_the_commit_of_the_fingerprint(drawn, tmp_path, weights_hub):
    folder, annotated = drawn
    found = pretrained_weights("test_resnet")
    assert found == PretrainedWeights("timm/test_resnet.r160_in1k", "a" * 40)
    weights_hub.newest = "b" * 40  # published while the driver works: neither it nor a worker sees that
    assert pretrained_weights("test_resnet") == found
    task = job(tmp_path / "task", annotated, folder / "train", RECIPE.model_copy(update={"epochs": 1, "lr": 1e-9}))
    weights_hub.asked.clear()
    reporter = LocalReporter(tmp_path / "run")
    train_detector(replace(task, weights=found), reporter)
    assert weights_hub.asked == [("timm/test_resnet.r160_in1k", "model.safetensors", "a" * 40)]
    learned = load_file(reporter.checkpoint / "last" / "model.safetensors")["backbone.body.conv1.0.weight"]
    torch.testing.assert_close(learned, torch.full_like(learned, 0.25))
    weights_hub.asked.clear()
    train_detector(replace(task, weights=found, settings=task.settings.model_copy(update={"epochs": 2})), reporter)
    assert weights_hub.asked == []  # who resumes has them in the checkpoint


def test_weights_that_the_hub_does_not_give_name_the_field(weights_hub):
    with pytest.raises(DetectorError, match=rf"detect\.pretrained: the hub did not give x/y@{'c' * 40}: no network"):
        AspectDetector(DetectorSpec(TINY, (FINCH,)), PretrainedWeights("x/y", "c" * 40))


def test_mirrored_boxes_are_around_the_mirrored_things():
    pixels = np.zeros((4, 10, 3), np.uint8)
    pixels[1:3, 2:5] = 255
    flipped, boxes = mirrored(pixels, np.array([[2, 1, 5, 3]], np.float32))
    assert boxes.tolist() == [[5, 1, 8, 3]]
    assert (flipped[1:3, 5:8] == 255).all()
    assert flipped.sum() == pixels.sum()


def test_batches_are_the_same_for_one_worker_and_two(drawn, tmp_path):
    folder, annotated = drawn
    task = job(tmp_path, annotated, folder / "train", RECIPE)
    examples = DetectionExamples.read(task.examples)
    everyone = np.arange(12)
    whole = list(DetectionLoader(examples, task.limits).training(everyone, 5, seed=3, epoch=1))
    halves = [list(DetectionLoader(examples, task.limits, rank, 2).training(everyone, 5, 3, 1)) for rank in (0, 1)]
    assert sorted(np.concatenate([batch.positions for batch in whole])) == list(range(12))
    for step, batch in enumerate(whole):
        for row, position in enumerate(batch.positions):
            theirs = halves[row % 2][step]
            assert theirs.positions[row // 2] == position
            assert torch.equal(theirs.pixels[row // 2], batch.pixels[row])
            assert torch.equal(theirs.targets[row // 2]["boxes"], batch.targets[row]["boxes"])
            boxes = batch.targets[row]["boxes"]
            assert boxes.shape == (len(annotated.images[position].objects), 4)
            assert ((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, :2] >= 0) & (boxes[:, 2:] <= 64)).all()


def test_resumed_training_is_bit_equal_and_unreadable_images_are_left_out(drawn, tmp_path, monkeypatch):
    folder, annotated = drawn
    task = job(tmp_path, annotated, folder / "train", RECIPE)
    examples = DetectionExamples.read(task.examples)
    wrong_size = tmp_path / "small.png"
    Image.new("RGB", (32, 32)).save(wrong_size)
    uris = [str(wrong_size), str(tmp_path / "none.jpg"), *examples.uris[2:]]
    replace(examples, uris=uris).write(task.examples)
    whole, parts = LocalReporter(tmp_path / "whole"), LocalReporter(tmp_path / "parts")
    train_detector(task, whole)

    with pytest.raises(Killed):
        train_detector(task, DiesAfter(tmp_path / "parts", 1))
    torch.manual_seed(99)  # nothing may depend on the state that the dead process left
    with monkeypatch.context() as patched:
        patched.delattr(DetectionLoader, "unreadable")  # what is left out is known: no photo is decoded for that again
        train_detector(task, parts)
    assert [epoch["epoch"] for epoch in parts.history] == [2]
    one, other = (reporter.checkpoint / "last" / "model.safetensors" for reporter in (whole, parts))
    assert one.read_bytes() == other.read_bytes()
    left_out = json.loads((whole.checkpoint / "left_out.json").read_text())
    assert {place: reason for place, (reason, _) in left_out.items()} == {"0": "wrong_size", "1": "not_found"}
    again = LocalReporter(tmp_path / "whole")
    train_detector(task, again)  # finished before: it only reports
    assert again.history == whole.history[-1:]
    with pytest.raises(DetectionTrainingError, match=r"2 of 12 training images cannot be read \(.*max_error_share"):
        train_detector(replace(task, max_error_share=0), LocalReporter(tmp_path / "strict"))


def test_an_image_lost_on_the_way_is_not_in_the_batch(drawn, tmp_path):
    folder, annotated = drawn
    task = job(tmp_path, annotated, folder / "train", RECIPE)
    examples = DetectionExamples.read(task.examples)
    whole = next(DetectionLoader(examples, task.limits).training(np.arange(12), 4, 0, 0))
    lost = set(whole.positions[:2].tolist())
    uris = [str(tmp_path / "gone.jpg") if n in lost else uri for n, uri in enumerate(examples.uris)]
    fewer = replace(examples, uris=uris)
    batch = next(DetectionLoader(fewer, task.limits).training(np.arange(12), 4, 0, 0))
    assert batch.positions.tolist() == whole.positions[2:].tolist()
    assert batch.step_positions.tolist() == whole.positions.tolist()
    assert all(torch.equal(one, other) for one, other in zip(batch.pixels, whole.pixels[2:], strict=True))
    assert {place: failure.reason for place, failure in batch.failures.items()} == dict.fromkeys(lost, "not_found")
    # Of four workers, the second has the second image of the step and no other.
    nothing = next(DetectionLoader(fewer, task.limits, 1, 4).training(np.arange(12), 4, 0, 0))
    assert (nothing.positions.size, len(nothing.pixels), len(nothing.failures)) == (0, 1, 1)


class LosesPhotos(LocalReporter):
    """After each epoch some photos are gone."""

    def __init__(self, folder: Path, photos: list[list[str]]) -> None:
        super().__init__(folder)
        self.photos = photos

    def report(self, metrics, save=None):
        super().report(metrics, save)
        for photo in self.photos[len(self.history) - 1]:
            Path(photo).unlink()


def test_a_photo_lost_in_training_is_left_out_with_its_reason(drawn, tmp_path):
    folder, annotated = drawn
    shutil.copytree(folder / "train", tmp_path / "train")
    settings = RECIPE.model_copy(update={"epochs": 2, "batch_size": 1})  # so a step may have no image left
    task = job(tmp_path, annotated, tmp_path / "train", settings)
    uris = DetectionExamples.read(task.examples).uris
    reporter = LosesPhotos(tmp_path / "run", [uris[3:4], []])
    train_detector(replace(task, max_error_share=0.1), reporter)
    left_out = json.loads((reporter.checkpoint / "left_out.json").read_text())
    assert {place: reason for place, (reason, _) in left_out.items()} == {"3": "not_found"}
    assert uris[3] in left_out["3"][1]
    assert [epoch["epoch"] for epoch in reporter.history] == [1, 2]
    large = settings.model_copy(update={"batch_size": 12})
    with pytest.raises(
        DetectionTrainingError, match=r"3 of 12 training images cannot be read \(not_found \(3\), e\.g\. there"
    ):
        train_detector(replace(task, settings=large, max_error_share=0.1), LosesPhotos(tmp_path / "more", [uris[5:7]]))


def test_images_whose_aspects_failed_have_no_part_in_the_loss(drawn, tmp_path):
    folder, annotated = drawn
    settings = RECIPE.model_copy(update={"epochs": 1, "batch_size": 12, "weight_decay": 0.0})
    task = job(tmp_path, annotated, folder / "train", settings)
    examples = DetectionExamples.read(task.examples)
    answered = np.where(np.arange(12)[:, None] < 3, examples.p_yes, np.nan).astype(np.float32)
    replace(examples, p_yes=answered).write(task.examples)
    reporter = LocalReporter(tmp_path / "some")
    train_detector(task, reporter)
    # By hand: the untrained detector's logits on the one batch, BCE over the cells of the three answered images.
    torch.manual_seed(settings.seed)
    detector = AspectDetector(task.spec).train()
    batch = next(DetectionLoader(examples, task.limits).training(np.arange(12), 12, settings.seed, 0))
    torch.manual_seed(hash((settings.seed, 0, 0)))
    logits = detector([pixels.float() / 255 for pixels in batch.pixels], batch.targets)[ASPECT_LOGITS].detach().numpy()
    p = answered[batch.positions]
    cells = -(p * np.log(1 / (1 + np.exp(-logits))) + (1 - p) * np.log(1 / (1 + np.exp(logits))))
    assert reporter.history[0]["aspect_loss"] == pytest.approx(np.nanmean(cells), rel=1e-4)
    nothing = replace(examples, p_yes=np.full_like(answered, np.nan))
    nothing.write(task.examples)
    silent = LocalReporter(tmp_path / "none")
    train_detector(task, silent)
    assert silent.history[0]["aspect_loss"] == 0


def test_a_folder_is_a_plain_faster_rcnn(drawn, tmp_path):
    folder, annotated = drawn
    reporter = LocalReporter(tmp_path / "run")
    train_detector(job(tmp_path, annotated, folder / "train", RECIPE.model_copy(update={"epochs": 1})), reporter)
    model = reporter.checkpoint / "last"
    spec, rcnn = load_detector(model)
    assert (spec.categories, spec.questions) == (annotated.categories, ())
    assert not any("aspect" in name for name in rcnn.state_dict())
    rows = found_rows(model, annotated, folder / "train", score_threshold=0.0, max_detections=7)
    assert {len(row["boxes"]) for row in rows} == {7}
    for row in rows:
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert row["labels"] == [annotated.categories[place].name for place in row["label_ids"]]
    whole = (model / "model.json").read_text()
    (model / "model.json").write_text(whole.replace('"head_width": ', '"head_width": -'))
    with pytest.raises(ModelFolderError, match="is damaged"):
        load_detector(model)
    (model / "model.json").write_text(whole)
    (model / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelFolderError, match="is damaged"):
        load_detector(model)


def test_losses_that_are_no_numbers_end_the_training(drawn, tmp_path):
    folder, annotated = drawn
    task = job(tmp_path, annotated, folder / "train", RECIPE.model_copy(update={"lr": 1e12, "epochs": 4}))
    with pytest.raises(DetectionTrainingError, match=r"not finite in epoch 1: lower detect\.lr"):
        train_detector(task, LocalReporter(tmp_path / "run"))


@pytest.mark.slow
def test_training_finds_birds_that_chance_does_not(tmp_path):
    annotated = scenes(tmp_path, {"train": 96, "test": 30})
    settings = RECIPE.model_copy(update={"epochs": 12, "batch_size": 8, "lr": 0.02, "warmup_epochs": 1.0})
    untrained = settings.model_copy(update={"epochs": 1, "lr": 1e-9})
    scores = {}
    for name, recipe in (("trained", settings), ("untrained", untrained)):
        reporter = LocalReporter(tmp_path / name)
        train_detector(job(tmp_path / name, annotated["train"], tmp_path / "train", recipe), reporter)
        scores[name] = metrics(reporter.checkpoint / "last", annotated["test"], tmp_path / "test")["AP50"]
    assert scores["untrained"] < 5
    assert scores["trained"] > 60


def _train_as_one_of_two(rank: int, task: DetectionJob, folder: Path) -> None:
    reporter = LocalReporter(folder / f"rank{rank}")  # unlike Ray's, it keeps a checkpoint on both
    reporter.rank, reporter.world_size = rank, 2
    train_detector(task, reporter)


@pytest.mark.slow
def test_two_processes_train_one_detector(drawn, tmp_path):
    folder, annotated = drawn
    # Batch statistics would be each process's own; steps of 4, 4 and 3 images, the first image cannot be read.
    frozen = RECIPE.model_copy(update={"model": TINY.model_copy(update={"freeze_norm": True}), "epochs": 1, "lr": 1e-6})
    task = job(tmp_path, annotated, folder / "train", frozen)
    examples = DetectionExamples.read(task.examples)
    replace(examples, uris=[str(tmp_path / "none.jpg"), *examples.uris[1:]]).write(task.examples)
    with two_processes(tmp_path, _train_as_one_of_two, task, tmp_path):
        alone = LocalReporter(tmp_path / "alone")
        train_detector(task, alone)
    one, two = (torch.load(tmp_path / f"rank{rank}" / "checkpoint" / "state.pt")["detector"] for rank in (0, 1))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    for rank in (0, 1):
        kept = tmp_path / f"rank{rank}" / "checkpoint"
        assert list(json.loads((kept / "left_out.json").read_text())) == ["0"]
        # Sampled boxes differ from those of one process, the answers do not: their mean is over the whole step.
        history = json.loads((kept / "history.json").read_text())
        assert history[0]["aspect_loss"] == pytest.approx(alone.history[0]["aspect_loss"], rel=1e-3)
