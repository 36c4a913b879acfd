"""The presets of the public data sets: the paper's setting, and found in the documentation."""

from pathlib import Path
from typing import get_args

import pytest

from fgvr.config import load_config
from fgvr.config.data import LayoutSource

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "pipelines" / "configs"
NAMES = get_args(LayoutSource.model_fields["name"].annotation)


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_has_the_paper_s_setting(name: str) -> None:
    config = load_config(["--config", name], PRESETS)
    source = config.ingest.source
    assert isinstance(source, LayoutSource)
    assert (source.name, source.legacy_cars_offset, config.run.name) == (name, False, name)
    images = config.label.images
    assert (images.drawn_from, images.per_class, images.seed) == ("train", 3, 0)
    assert (config.candidates.method, config.candidates.k) == ("neighbours", 3)
    assert (config.near.loss, config.near.context_length) == ("proden", 16)
    assert (config.clip.model, config.clip.pretrained) == ("ViT-B-16-quickgelu", "openai")
    assert (config.evaluate.split, config.evaluate.sentence_model) == ("test", "all-mpnet-base-v2")
    assert {"mllm", "zs_clip", "near"} <= set(config.evaluate.methods)


MAKD_STUDENTS = ("cub", "cars", "flowers", "pets", "dtd", "aircraft", "caltech101", "mini_imagenet")


@pytest.mark.parametrize("name", MAKD_STUDENTS)
def test_students_have_the_schedule_of_makd(name: str) -> None:
    """Section 4.1 of the paper; Mini-ImageNet as ImageNet in its reference, DKD."""
    makd = load_config(["--config", name], PRESETS).makd
    schedule = (makd.epochs, makd.batch_size, makd.lr, makd.milestones, makd.weight_decay, makd.resize)
    if name == "mini_imagenet":
        assert schedule == (100, 512, 0.2, (30, 60, 90), 1e-4, 256)
    else:
        assert schedule == (240, 16, 0.01, (150, 180, 210), 5e-4, None)
    assert (makd.schedule, makd.momentum, makd.warmup_epochs, makd.image_size) == ("milestones", 0.9, 0, 224)
    assert (makd.backbone, makd.alpha, makd.fraction) == ("resnet18", 4, 1)
    assert "makd:" in (PRESETS / f"{name}.yaml").read_text()


def test_the_banner_of_aircraft_is_cut_off() -> None:
    assert load_config(["--config", "aircraft"], PRESETS).ingest.limits.cut_bottom == 20


@pytest.mark.parametrize("name", NAMES)
def test_the_path_is_given_on_the_command_line(name: str) -> None:
    config = load_config(["--config", name, "--ingest.source.path", "/data/x"], PRESETS)
    assert isinstance(config.ingest.source, LayoutSource)
    assert (config.ingest.source.name, config.ingest.source.path) == (name, "/data/x")


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_names_it(name: str) -> None:
    page = (ROOT / "docs" / "datasets.md").read_text()
    assert f"| `{name}` |" in page
    assert "(docs/datasets.md)" in (ROOT / "README.md").read_text()
    assert f"`{name}`" in (ROOT / "README.md").read_text()


def test_coco_has_the_setting_of_the_paper_s_detectors() -> None:
    config = load_config(["--config", "coco", "--detect.model.backbone", "resnet50"], PRESETS)
    detect, model = config.detect, config.detect.model
    assert (detect.batch_size, detect.lr, detect.pretrained, model.freeze_norm) == (8, 0.01, True, True)
    # 180,000 steps of 8 images, a tenth after 120,000 and 160,000, in passes over COCO's 117,266 images with objects.
    assert [round(steps * 8 / 117_266) for steps in (120_000, 160_000, 180_000)] == [*detect.milestones, detect.epochs]
    assert (model.image_size, model.anchors, config.questions.keep) == (800, (32, 64, 128, 256, 512), 50)
    assert "(docs/detection.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", [*NAMES, "coco"])
def test_the_papers_recipes_ask_about_all_training_images_and_train_for_all_epochs(name: str) -> None:
    config = load_config(["--config", name], PRESETS)
    assert (config.aspects.max_images, config.makd.images, config.makd.max_steps) == (None, "auto", None)


def test_a_person_s_own_photos_are_asked_about_in_one_bounded_sample() -> None:
    config = load_config(["--config", "photos"], PRESETS)
    drawn, asked = config.label.images, config.aspects
    assert (drawn.max_images, drawn.split, drawn.seed) == (asked.max_images, asked.split, asked.seed)
    assert asked.max_images == 20_000
    assert config.makd.split == asked.split
    # 240 epochs of nine tenths of the sample fit into the bound, so that it only meets larger ones.
    assert config.makd.epochs * -(-18_000 // config.makd.batch_size) <= (config.makd.max_steps or 0)
