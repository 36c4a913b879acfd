"""A student trained on some photos of a data set and scored on others, as the benchmarks on real photos need it.

The product's own training loop on the product's own examples, in one process, without Ray and without tables: what a
run writes lies in a temporary folder and is gone afterwards, but for decoded photos in the product's cache.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.quality.lite0_weights import BACKBONE, lite0_weights
from fgvr.arrays import Floats, Ids
from fgvr.config import ImageLimits, Makd
from fgvr.models.infer import load_classifier
from fgvr.models.start_match import start_of
from fgvr.models.start_weights import find_start
from fgvr.models.student import StudentClassifier, StudentSpec, build_student, timm_preprocess
from fgvr.training.examples import Examples
from fgvr.training.reporter import LocalReporter
from fgvr.training.student_data import StudentJob
from fgvr.training.swaps import Pictures
from pipelines.student_task import student_loop

EVALUATED_AT_ONCE = 64
IMAGENET = 1000
"""Classes of the weights' own classifier."""


@dataclass(frozen=True)
class Photos:
    """N photos.

    Attributes:
        uris: where they are.
        classes: int64 [N]; −1: none, for photos that a student learns from.
        p_yes: float32 [N, Q], answers about aspects; Q is 0 where there are none.
        weights: how much each class counts, float32 [N]; None: all alike.
    """

    uris: tuple[str, ...]
    classes: Ids
    p_yes: Floats | None = None
    weights: Floats | None = None

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.uris)

    def take(self, rows: Ids) -> Photos:
        """Some of the photos, in this order."""
        return Photos(
            tuple(self.uris[row] for row in rows.tolist()),
            self.classes[rows],
            None if self.p_yes is None else self.p_yes[rows],
            None if self.weights is None else self.weights[rows],
        )


def drawn(classes: Ids, per_class: int, seed: int) -> Ids:
    """Rows of so many photos of each class, at random; the first of the same seed if fewer are drawn: int64, sorted."""
    order = np.random.default_rng((seed, 7)).permutation(len(classes))
    chosen = [order[classes[order] == label][:per_class] for label in np.unique(classes)]
    return np.sort(np.concatenate(chosen))


class StudentRuns:
    """Trains students of the same classes and scores them on the same photos.

    Args:
        names: of the classes, by class id.
        tested: the photos to score on.
        weights: the package's file of EfficientNet-Lite0's weights, from which students start whose recipe says
            `weights: lite0`.
    """

    def __init__(self, names: tuple[str, ...], tested: Photos, weights: Path) -> None:
        self.names, self.tested, self._weights = names, tested, weights
        self._pixels: dict[tuple[str, int], torch.Tensor] = {}

    def top1(
        self,
        options: Mapping[str, Any],
        learned: Photos,
        *,
        keep: Path | None = None,
        pictures: Pictures | None = None,
    ) -> float:
        """Accuracy in percent of a student.

        Args:
            options: fields of `makd`; `weights: lite0` starts from ImageNet, a distillation's `teacher` is a folder
                that an earlier student was kept in.
            learned: what it learns from. Aspects are learned where `alpha` is above 0 and there are some.
            keep: a folder for the student, to be a teacher or a start later; what is there is replaced.
            pictures: generated pictures that it sees in place of some photos.
        """
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            job = self._job(folder, options, learned)
            if pictures is not None:
                pictures.write(str(folder / "pictures"))
                job = replace(job, pictures=str(folder / "pictures"))
            reporter = LocalReporter(folder / "run")
            student_loop(job.settings)(job, reporter)
            if keep is not None:
                shutil.rmtree(keep, ignore_errors=True)
                shutil.copytree(reporter.checkpoint / "last", keep)
            return self._accuracy(reporter.checkpoint / "last", job.spec)

    def vectors(self, photos: Photos, size: int) -> Floats:
        """Features of EfficientNet-Lite0's ImageNet weights at an input of `size` pixels, float32 [N, 1280]."""
        spec = StudentSpec(BACKBONE, tuple(map(str, range(IMAGENET))), (), timm_preprocess(BACKBONE, size))
        network: Any = build_student(spec).eval()
        network.load_state_dict(lite0_weights(self._weights))
        reader = StudentClassifier(spec, network)
        found = []
        with torch.inference_mode():
            for first in range(0, len(photos), EVALUATED_AT_ONCE):
                uris = photos.uris[first : first + EVALUATED_AT_ONCE]
                pixels = torch.stack([reader.read(uri, ImageLimits()) for uri in uris])
                features = network.forward_features(spec.preprocess.normalise(pixels))
                found.append(network.forward_head(features, pre_logits=True).numpy())
        return np.concatenate(found)

    def _job(self, folder: Path, options: Mapping[str, Any], learned: Photos) -> StudentJob:
        starts = options.get("weights") == "lite0"
        file = folder / "lite0.safetensors"
        if starts:
            save_file(lite0_weights(self._weights), file)
        settings = Makd.model_validate({**options, **({"weights": str(file)} if starts else {})})
        p_yes = learned.p_yes if settings.alpha > 0 and learned.p_yes is not None else np.zeros((len(learned), 0))
        questions = tuple(f"aspect {number}" for number in range(p_yes.shape[1]))
        preprocess = timm_preprocess(settings.backbone, settings.image_size)
        spec = StudentSpec(settings.backbone, self.names, questions, preprocess)
        start = None
        if settings.weights is not None:
            start = str(folder / "start.safetensors")
            save_file(start_of(find_start(settings.weights, settings.backbone), spec).tensors, start)
        Examples(
            np.arange(len(learned)),
            learned.uris,
            learned.classes,
            p_yes.astype(np.float32),
            np.zeros(len(learned), bool),
            "photos",
            learned.weights,
        ).write(str(folder / "examples"))
        taught = settings.distillation
        teacher = None if taught.kind == "none" else taught.teacher
        return StudentJob(str(folder / "examples"), spec, settings, ImageLimits(), teacher=teacher, start=start)

    def _accuracy(self, folder: Path, spec: StudentSpec) -> float:
        """Of the student in a folder; the test photos are decoded once per input size."""
        model = load_classifier(folder)
        key = (spec.backbone, spec.preprocess.input_size)
        if key not in self._pixels:
            self._pixels[key] = torch.stack([model.read(uri, ImageLimits()) for uri in self.tested.uris])
        pixels, right = self._pixels[key], 0
        for first in range(0, len(pixels), EVALUATED_AT_ONCE):
            part = slice(first, first + EVALUATED_AT_ONCE)
            right += int((model.predict(pixels[part]).scores.argmax(axis=1) == self.tested.classes[part]).sum())
        return 100 * right / len(pixels)


FINE: Final = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "layer_decay": 0.8, "batch_norm": "frozen"}
"""The recipe by which the whole network learns from few photos (docs/pretrained.md)."""


def lite0_options(size: int) -> dict[str, Any]:
    """What students that start from ImageNet have in common (docs/pretrained.md), at an input of `size` pixels."""
    return {
        "backbone": BACKBONE,
        "weights": "lite0",
        "image_size": size,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "min_crop": 0.35,
        "validation_share": 0,
        "alpha": 0,
    }
