"""A small detection task on drawn scenes, for tests of training."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from fgvr.config import ImageLimits
from fgvr.config.detect import Detect, Detector
from fgvr.demo.bird_scenes import SceneSettings, scene_aspects, write_scenes
from fgvr.demo.questions import QUESTIONS
from fgvr.detection.coco import CocoSet, read_coco
from fgvr.detection.evaluate import coco_metrics
from fgvr.detection.examples import DetectionExamples
from fgvr.detection.model import DetectorSpec
from fgvr.detection.training import DetectionJob
from fgvr.detection.worker import DetectSettings, DetectWorker, detections_of

TINY = Detector(
    backbone="test_resnet",
    image_size=64,
    max_size=64,
    anchors=(16, 24, 32, 48, 64),
    channels=32,
    head_width=64,
    proposals=50,
    sampled_boxes=32,
)


def scenes(folder: Path, counts: dict[str, int], classes: int = 2) -> dict[str, CocoSet]:
    """Drawn scenes of 64 px with two birds at most, and their annotations."""
    write_scenes(str(folder), SceneSettings(size=64, birds=2, classes=classes), counts)
    return {split: read_coco(str(folder / "annotations" / f"{split}.json")) for split in counts}


def job(folder: Path, annotated: CocoSet, images: Path, settings: Detect) -> DetectionJob:
    """Training on a split's scenes, with their true aspects where alpha asks for some."""
    names = [category.name for category in annotated.categories]
    p_yes = np.stack([scene_aspects([names[n] for n in image.objects.classes]) for image in annotated.images])
    if settings.alpha == 0:
        p_yes = p_yes[:, :0]
    uris = [str(images / image.file_name) for image in annotated.images]
    folder.mkdir(parents=True, exist_ok=True)
    place = str(folder / "examples.parquet")
    DetectionExamples(np.arange(len(uris)), uris, annotated.images, p_yes).write(place)
    questions = tuple(question.text for question in QUESTIONS) if settings.alpha else ()
    return DetectionJob(place, DetectorSpec(settings.model, annotated.categories, questions), settings, ImageLimits())


def found_rows(model: Path, annotated: CocoSet, images: Path, **settings) -> list[dict]:
    """Rows of the detections table of a model folder for a split's images."""
    facts = [json.dumps({"width": image.width, "height": image.height}) for image in annotated.images]
    uris = [str(images / image.file_name) for image in annotated.images]
    rows = pa.table({"image_id": np.arange(len(uris)), "uri": uris, "metadata": facts})
    return DetectWorker(DetectSettings(str(model), ImageLimits(), **settings)).process(rows).to_pylist()


def metrics(model: Path, annotated: CocoSet, images: Path) -> dict[str, float]:
    """COCO's metrics of a model folder on a split."""
    found = [detections_of(row) for row in found_rows(model, annotated, images)]
    return coco_metrics(annotated.images, annotated.categories, found)
