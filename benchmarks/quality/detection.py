"""Detection on drawn scenes with and without aspects, and by chance: COCO's AP, mean and spread over seeds.

    python -m benchmarks.quality.detection --seeds 0 1 2

The recipe is that of the preset `scenes`; a seed decides scenes, weights and order, and both variants see the same.
`untrained` is the detector at its random start; `shuffled` the trained one (without aspects) with the classes of its
detections dealt out anew among all detections of the test set. One core, about one minute per training run.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from benchmarks import harness
from fgvr.config import Config, ImageLimits, load_config
from fgvr.config.data import BirdScenesSource
from fgvr.config.detect import Detect
from fgvr.demo.bird_scenes import scene_aspects
from fgvr.demo.questions import QUESTIONS
from fgvr.detection.coco import CocoImage, CocoSet
from fgvr.detection.evaluate import METRICS, Detections, coco_metrics
from fgvr.detection.examples import DetectionExamples
from fgvr.detection.model import AspectDetector, DetectorSpec, save_detector
from fgvr.detection.training import DetectionJob, train_detector
from fgvr.detection.worker import DetectSettings, DetectWorker, detections_of
from fgvr.sources.coco import COCO_ID, coco_files
from fgvr.sources.source import read_source
from fgvr.training.reporter import LocalReporter

ROWS = ("without aspects", "with aspects", "untrained", "shuffled")
Scores = dict[str, dict[str, float]]


def measure(config: Config, seed: int, folder: Path) -> Scores:
    """COCO's metrics of all rows for one seed."""
    source = BirdScenesSource(**{**config.ingest.source.model_dump(), "seed": seed})
    rows = read_source(source, str(folder)).rows
    truth = {split: files.read() for split, files in coco_files(source, str(folder)).items()}
    scores: Scores = {}
    for name, alpha in (("without aspects", 0.0), ("with aspects", config.detect.alpha)):
        settings = config.detect.model_copy(update={"seed": seed, "alpha": alpha})
        job = detection_job(folder / name, settings, truth["train"], split_of(rows, "train"))
        reporter = LocalReporter(folder / name)
        train_detector(job, reporter)
        found = detections(reporter.checkpoint / "last", rows)
        scores[name] = score(truth["test"], rows, found)
        print(seed, name, {metric: round(value, 1) for metric, value in scores[name].items()}, flush=True)
        if not alpha:
            torch.manual_seed(seed)
            save_detector(folder / "untrained", job.spec, AspectDetector(job.spec), {})
            scores["untrained"] = score(truth["test"], rows, detections(folder / "untrained", rows))
            scores["shuffled"] = score(truth["test"], rows, shuffled(found, seed))
    return scores


def split_of(rows: pa.Table, split: str) -> pa.Table:
    """A split's rows of the samples."""
    return rows.filter(pc.equal(rows["split"], split))


def annotated_rows(truth: CocoSet, rows: pa.Table) -> list[CocoImage]:
    """The annotations of each row."""
    by_id = {image.id: image for image in truth.images}
    return [by_id[json.loads(metadata)[COCO_ID]] for metadata in rows["metadata"].to_pylist()]


def detection_job(folder: Path, settings: Detect, truth: CocoSet, rows: pa.Table) -> DetectionJob:
    """A training job on the rows, with the true aspects of the drawings."""
    folder.mkdir(parents=True)
    images = annotated_rows(truth, rows)
    names = [category.name for category in truth.categories]
    p_yes = np.stack([scene_aspects([names[place] for place in image.objects.classes]) for image in images])
    questions = tuple(question.text for question in QUESTIONS) if settings.alpha else ()
    place = str(folder / "examples.parquet")
    DetectionExamples(rows["image_id"].to_numpy(), rows["uri"].to_pylist(), images, p_yes[:, : len(questions)]).write(
        place
    )
    return DetectionJob(place, DetectorSpec(settings.model, truth.categories, questions), settings, ImageLimits())


def detections(model: Path, rows: pa.Table) -> list[Detections]:
    """The detections of a model on the test rows."""
    worker = DetectWorker(DetectSettings(str(model), ImageLimits()))
    return [detections_of(row) for row in worker.process(split_of(rows, "test")).to_pylist()]


def shuffled(found: list[Detections], seed: int) -> list[Detections]:
    """The same boxes and scores with shuffled classes."""
    classes = np.random.default_rng(seed).permutation(np.concatenate([one.classes for one in found]))
    ends = np.cumsum([len(one.classes) for one in found])
    return [replace(one, classes=classes[end - len(one.classes) : end]) for one, end in zip(found, ends, strict=True)]


def score(truth: CocoSet, rows: pa.Table, found: list[Detections]) -> dict[str, float]:
    """COCO's metrics on the test rows."""
    return coco_metrics(annotated_rows(truth, split_of(rows, "test")), truth.categories, found)


def table(measured: list[Scores]) -> str:
    """Means over seeds, with the standard deviation where there are several."""
    lines = []
    for name in ROWS:
        found = {metric: [scores[name][metric] for scores in measured if metric in scores[name]] for metric in METRICS}
        cells = [harness.mean_and_deviation(values) if values else "–" for values in found.values()]
        lines.append(harness.Line(name, tuple(cells)))
    return harness.markdown("Detection on drawn scenes", list(METRICS), lines)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=(0, 1, 2))
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(["--config", "scenes"], harness.ROOT / "pipelines" / "configs")
    measured: list[Scores] = []
    with harness.reporting(args) as report:
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                measured.append(measure(config, seed, Path(folder)))
            report.say(table(measured))


if __name__ == "__main__":
    main()
