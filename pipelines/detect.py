"""detect: an object detector with MaKD's aspect loss. In: photos with boxes, aspects. Out: detections and COCO's AP.

    python pipelines/detect.py --config scenes
    python pipelines/detect.py --config coco --ingest.source.path ~/coco --questions.file questions.txt

Trains Faster R-CNN on `detect.split` (table `detector`: one row per image; beside it `model/` and `history.json`), then
detects objects in `detect.test_split` (table `detections`; beside it `results.json` in COCO's results format and
`metrics.json`). `--detect.alpha 0` trains the same detector without aspects. Not part of full.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, ConfigError
from fgvr.config.data import BirdScenesSource, CocoSource
from fgvr.config.detect import Detect
from fgvr.demo.questions import QUESTIONS
from pipelines.asks import Work
from pipelines.command import stage_main
from pipelines.run_tables import Run, per_samples
from pipelines.stage import RowJob, RowStage
from pipelines.train_stage import MODEL_FOLDER, Training, TrainStage

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.detection.coco import CocoSet
    from fgvr.detection.examples import DetectionExamples
    from fgvr.detection.model import DetectorSpec
    from fgvr.training.checkpoint import LeftOut

    Probabilities = npt.NDArray[np.float32]

RESULTS_FILE, METRICS_FILE = "results.json", "metrics.json"
OF_FINDING = frozenset({"test_split", "score_threshold", "max_detections"})
"""Fields that concern only detection with the trained detector."""


class Detector(TrainStage):
    """The trained detector: one row per training image."""

    table = "detector"
    logs_model = False

    def check(self, config: Config) -> None:
        """Check that boxes, splits and aspects fit together, and that the model can be built."""
        check_detection(config)

    def workers(self, config: Config) -> str | None:
        """The training workers."""
        return "detect.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The images, and the MLLM's answers where the detector learns aspects."""
        settings = settings_of(run.config)
        asks_mllm = settings.alpha > 0 and settings.aspects == "mllm"
        return ("samples", "questions", "aspects") if asks_mllm else ("samples",)

    def works(self, run: Run) -> Work:
        """The training images, in every epoch."""
        settings = run.config.detect
        return Work(run.photos.splits.get(settings.split, 0), settings.epochs)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The training recipe, and the initial weights."""
        return decides(settings_of(run.config), run.config)

    def training(self, run: Run, folder: StageFolder) -> Training:
        """Write boxes and aspects of the training images to a file that all workers read."""
        from fgvr.detection.model import DetectorSpec, pretrained_weights
        from fgvr.detection.training import DetectionJob, train_detector

        config, settings = run.config, settings_of(run.config)
        annotated, rows = _annotated(run, settings.split)
        questions, p_yes = _aspects(run, settings, annotated, rows)
        examples = _examples(annotated, rows, p_yes)
        spec = DetectorSpec(settings.model, annotated.categories, questions)
        place = folder.path("examples.parquet")
        weights = pretrained_weights(settings.model.backbone) if settings.pretrained else None
        job = DetectionJob(place, spec, settings, config.ingest.limits, config.run.max_error_share, weights)
        examples.write(job.examples)
        return Training(train_detector, job, settings.epochs, examples)

    def rows(self, run: Run, training: Training, checkpoint: Path) -> pa.Table:
        """The number of objects of each image, or why it was left out."""
        from fgvr.training.checkpoint import read_left_out

        return _rows(training.made_of, read_left_out(checkpoint))

    def finish(self, run: Run, training: Training, checkpoint: Path, rows: pa.Table, summary: StageSummary) -> None:
        """Record the classes, questions and numbers of images of the training run."""
        from fgvr.detection.model import AspectDetector
        from fgvr.training.checkpoint import read_left_out

        examples: DetectionExamples = training.made_of
        spec: DetectorSpec = training.job.spec
        summary.extra = {
            "images": len(examples) - len(read_left_out(checkpoint)),
            "objects": sum(int((~image.objects.crowd).sum()) for image in examples.images),
            "categories": len(spec.categories),
            "questions": len(spec.questions),
            "parameters": sum(parameter.numel() for parameter in AspectDetector(spec).parameters()),
        }


def settings_of(config: Config) -> Detect:
    """The recipe; without aspects, the aspect fields take their defaults, since they decide nothing."""
    settings = config.detect
    if settings.alpha == 0:
        settings = settings.model_copy(update={"questions": None, "aspects": "mllm"})
    return settings


def decides(settings: Detect, config: Config) -> dict[str, Any]:
    """What decides the detector besides its input tables; the questions of true answers are in none of these."""
    from fgvr.detection.model import pretrained_weights
    from fgvr.detection.training import RECIPE

    decided = {name: value for name, value in settings.deciding().items() if name not in OF_FINDING}
    decided |= {"limits": config.ingest.limits, "version": RECIPE}
    if settings.pretrained:
        decided["weights"] = asdict(pretrained_weights(settings.model.backbone))
    if settings.alpha > 0 and settings.aspects == "truth":
        decided["truth"] = [question.text for question in QUESTIONS]
    return decided


def check_detection(config: Config) -> None:
    """Raise a ConfigError for a config from which no detector can learn."""
    from fgvr.detection.coco import Category
    from fgvr.detection.model import AspectDetector, DetectorSpec, pretrained_weights

    source, detect = config.ingest.source, config.detect
    if not isinstance(source, CocoSource | BirdScenesSource):
        raise ConfigError(
            f"ingest.source.kind = {source.kind}: a detector needs photos with boxes, coco or (drawn) bird_scenes"
        )
    if config.ingest.limits.cut_bottom:
        raise ConfigError(
            f"ingest.limits.cut_bottom = {config.ingest.limits.cut_bottom}: boxes are places in the whole photo, and a "
            "photo without its bottom does not have the size that its annotations say; leave it at 0 for a detector"
        )
    for field, split in (("split", detect.split), ("test_split", detect.test_split)):
        if split not in {"train", "test"}:
            raise ConfigError(f"detect.{field} = {split}: the splits of COCO files are train and test")
    if detect.split == detect.test_split:
        raise ConfigError(f"detect.test_split = {detect.test_split}: the detector learns on it (detect.split)")
    if detect.alpha > 0 and detect.aspects == "mllm":
        if config.aspects.split != detect.split:
            raise ConfigError(
                f"aspects.split = {config.aspects.split}: the detector learns on detect.split = {detect.split}"
            )
    elif detect.alpha > 0 and not isinstance(source, BirdScenesSource):
        raise ConfigError("detect.aspects = truth: only drawn scenes have true answers; take mllm")
    AspectDetector(DetectorSpec(detect.model, (Category(1, "a"),)))
    if detect.pretrained:
        pretrained_weights(detect.model.backbone)  # the hub has them, or its cache here


class Detections(RowStage):
    """Detections in the test images, with COCO's metrics as the table's metrics."""

    table = "detections"
    phase = "infer"

    def workers(self, config: Config) -> str | None:
        """The inference workers."""
        return "detect.infer_workers"

    def reads(self, run: Run) -> Iterable[str]:
        """The locations of the images, and the model."""
        return ("samples", "detector")

    def works(self, run: Run) -> Work:
        """The test images."""
        return Work(run.photos.splits.get(run.config.detect.test_split, 0))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The settings of detection, and the ids of the images."""
        from cluster.fingerprint import digest_of_ids
        from fgvr.detection.worker import FINDING

        config = run.config.detect
        annotated, rows = _annotated(run, config.test_split)
        learned, _ = _annotated(run, config.split)
        if annotated.categories != learned.categories:
            raise ConfigError(
                f"the annotations of detect.test_split = {config.test_split} have other categories than those of "
                f"detect.split = {config.split}"
            )
        return {
            "version": FINDING,
            "limits": run.config.ingest.limits,
            "score_threshold": config.score_threshold,
            "max_detections": config.max_detections,
            "workers": config.infer_workers,
            "ids": digest_of_ids(rows["image_id"].to_numpy()),
        }

    def job(self, run: Run) -> RowJob:
        """One row per image, with its objects."""
        from fgvr.detection.worker import DetectSettings, DetectWorker
        from fgvr.schemas import DETECTIONS

        config = run.config.detect
        settings = DetectSettings(
            model=run.table("detector").path(MODEL_FOLDER),
            limits=run.config.ingest.limits,
            score_threshold=config.score_threshold,
            max_detections=config.max_detections,
            batch_images=config.batch_images,
            device="cuda" if config.infer_workers.num_gpus else "cpu",
            threads=max(1, int(config.infer_workers.num_cpus)),
        )
        _, rows = _annotated(run, config.test_split)
        columns = ("image_id", "uri", "metadata")
        return RowJob(rows["image_id"].to_numpy(), DetectWorker, {"settings": settings}, DETECTIONS, columns)

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Detect objects, and compare them with the annotated ones."""
        import numpy as np
        import pyarrow as pa

        from fgvr import tables
        from fgvr.detection.evaluate import coco_metrics, coco_results
        from fgvr.detection.worker import detections_of

        summary = super().compute(run, folder)
        annotated, rows = _annotated(run, run.config.detect.test_split)
        found = pa.concat_tables([tables.read_part(folder.uri, number) for number in range(summary.parts)])
        images = _examples(annotated, rows, np.zeros((rows.num_rows, 0), np.float32)).images
        detections = [detections_of(row) for row in found.to_pylist()]
        summary.metrics = coco_metrics(images, annotated.categories, detections)
        results = coco_results(images, annotated.categories, detections)
        folder.write_bytes(RESULTS_FILE, json.dumps(results).encode())
        folder.write_bytes(METRICS_FILE, json.dumps(summary.metrics, indent=1).encode())
        return summary


@per_samples
def _annotations(run: Run) -> Callable[[str], CocoSet]:
    """Reads the annotations of a split, each file once: minutes for a large one, and several stages look into it."""
    from fgvr.sources.coco import coco_files

    source = run.config.ingest.source
    if not isinstance(source, CocoSource | BirdScenesSource):  # check_detection has reported it before
        raise ConfigError(f"ingest.source.kind = {source.kind}: it has no boxes")
    files = coco_files(source, run.folder)
    return cache(lambda split: files[split].read())


def _annotated(run: Run, split: str) -> tuple[CocoSet, pa.Table]:
    """A split's annotations and its rows of the samples table."""
    from fgvr.training.assemble import split_rows

    rows = split_rows(run.table("samples"), split, ["metadata"])
    if not rows.num_rows:
        known = ", ".join(sorted(run.table("samples").extra["splits"]))
        raise ConfigError(f"detect: no image is in the split {split} (there are: {known})")
    return _annotations(run)(split), rows


def _examples(annotated: CocoSet, rows: pa.Table, p_yes: Probabilities) -> DetectionExamples:
    """The rows, each with its annotations."""
    from fgvr.detection.examples import DetectionExamples
    from fgvr.sources.coco import COCO_ID

    by_id = {image.id: image for image in annotated.images}
    images = [by_id[json.loads(metadata)[COCO_ID]] for metadata in rows["metadata"].to_pylist()]
    return DetectionExamples(rows["image_id"].to_numpy(), rows["uri"].to_pylist(), images, p_yes)


def _aspects(run: Run, settings: Detect, annotated: CocoSet, rows: pa.Table) -> tuple[tuple[str, ...], Probabilities]:
    """The questions, and p(yes) of each row; nan where an image has no answers."""
    import numpy as np

    from fgvr.demo.bird_scenes import scene_aspects
    from fgvr.training.assemble import p_yes_of

    if settings.alpha == 0:
        return (), np.zeros((rows.num_rows, 0), np.float32)
    if settings.aspects == "truth":
        names = [category.name for category in annotated.categories]
        images = _examples(annotated, rows, np.zeros((rows.num_rows, 0), np.float32)).images
        p_yes = np.stack([scene_aspects([names[place] for place in image.objects.classes]) for image in images])
        texts = [question.text for question in QUESTIONS]
    else:
        texts = run.table("questions").read(["text"])["text"].to_pylist()
        answers = run.table("aspects").read(["image_id", "p_yes", "error"])
        p_yes = p_yes_of(rows["image_id"].to_numpy(), answers, len(texts))
    if settings.questions is not None and settings.questions > len(texts):
        raise ConfigError(f"detect.questions = {settings.questions}: only {len(texts)} questions were asked")
    return tuple(texts[: settings.questions]), p_yes[:, : settings.questions]


def _rows(examples: DetectionExamples, left_out: LeftOut) -> pa.Table:
    """Rows of the schema DETECTOR_TARGETS."""
    import numpy as np
    import pyarrow as pa

    from fgvr.schemas import DETECTOR_TARGETS

    rows = []
    for place, (image_id, image, p_yes) in enumerate(
        zip(examples.image_ids.tolist(), examples.images, examples.p_yes, strict=True)
    ):
        if place in left_out:
            rows.append({"image_id": image_id, "error": left_out[place].as_row()})
            continue
        crowds = int(image.objects.crowd.sum())
        answered = bool(len(p_yes)) and not bool(np.isnan(p_yes).all())
        rows.append(
            {"image_id": image_id, "objects": len(image.objects) - crowds, "crowds": crowds, "aspects": answered}
        )
    return pa.Table.from_pylist(rows, schema=DETECTOR_TARGETS)


def show(run: Run) -> None:
    """Print COCO's metrics on the console."""
    metrics = run.table("detections").extra["metrics"]
    sys.stdout.write("".join(f"{name:9} {value:6.1f}\n" for name, value in metrics.items()))


if __name__ == "__main__":
    stage_main(__doc__, "detections", show=show)
