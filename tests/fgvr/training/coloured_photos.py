"""Photos of four plain colours with two aspects, and a student to learn them, for tests of its training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from fgvr.config import ImageLimits, Makd
from fgvr.models.student import StudentSpec, build_student, save_student, timm_preprocess
from fgvr.training.examples import Examples
from fgvr.training.reporter import LocalReporter
from fgvr.training.student_data import StudentJob

QUESTIONS = ("Is it red?", "Is it light?")
TRUTH = np.array(
    [[1, 0], [1, 1], [0, 0], [0, 1]], dtype=np.float32
)  # classes: dark red, light red, dark blue, light blue
COLOURS = np.array([[140, 20, 20], [230, 120, 120], [20, 20, 140], [120, 120, 230]])


def photos(folder: Path, count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Noisy plain colours: `count` images of four classes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    classes = np.arange(count) % 4
    uris = [str(folder / f"{n}.png") for n in range(count)]
    for uri, label in zip(uris, classes, strict=True):
        pixels = COLOURS[label] + rng.normal(0, 25, (16, 16, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(uri)
    return uris, classes


def job(tmp_path: Path, count: int = 48, share: float = 0.0, questions=QUESTIONS, **settings) -> StudentJob:
    values = {"backbone": "test_vit", "image_size": 16, "epochs": 4, "batch_size": 8, "lr": 0.02, "min_crop": 0.5}
    recipe = Makd(**{**values, "schedule": "cosine", **settings})
    uris, classes = photos(tmp_path / "photos", count, seed=0)
    p_yes = TRUTH[classes] * 0.8 + 0.1
    p_yes[::5] = np.nan  # images whose aspects failed
    held = np.arange(count) >= count * (1 - share)
    examples = Examples(np.arange(count), uris, classes.astype(np.int64), p_yes, held, "v1")
    examples.write(str(tmp_path / "examples.parquet"))
    spec = StudentSpec(recipe.backbone, ("a", "b", "c", "d"), questions, timm_preprocess(recipe.backbone, 16))
    return StudentJob(str(tmp_path / "examples.parquet"), spec, recipe, ImageLimits(), cache=str(tmp_path / "cache"))


def taught(task: StudentJob, tmp_path: Path, **settings) -> StudentJob:
    """The job with a teacher: a network with random weights, other normalisation, size and order of classes."""
    labels = ("c", "a", "d", "b")
    spec = StudentSpec("test_byobnet", labels, ("Is it?",), timm_preprocess("test_byobnet", 24))
    torch.manual_seed(7)
    save_student(tmp_path / "teacher", spec, build_student(spec).state_dict(), {})
    recipe = Makd.model_validate(
        task.settings.model_dump() | {"distillation": {"kind": "kd", "teacher": "x", **settings}}
    )
    return replace(task, settings=recipe, teacher=str(tmp_path / "teacher"))


def weights(reporter: LocalReporter) -> dict[str, torch.Tensor]:
    return load_file(reporter.checkpoint / "last" / "model.safetensors")
