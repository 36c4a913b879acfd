"""detect: an object detector with MaKD's aspect loss. In: photos with boxes, aspects. Out: detections and COCO's AP.

    python pipelines/detect.py --config scenes
    python pipelines/detect.py --config coco --ingest.source.path ~/coco --questions.file questions.txt

Trains Faster R-CNN on `detect.split` (table `detector`: a row an image; beside it `model/` and `history.json`) and
finds the objects of `detect.test_split` (table `detections`; beside it `results.json` in COCO's results format and
`metrics.json`). `--detect.alpha 0` is the same detector without aspects. Not a part of full.py.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.parts import PartJob
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from cluster.stage_files import training_name
from cluster.tracking import log_history
from cluster.train import train
from fgvr import storage, tables
from fgvr.config import Config, ConfigError
from fgvr.config.data import BirdScenesSource, CocoSource
from fgvr.config.detect import Detect
from fgvr.datasets.coco import COCO_ID, coco_files
from fgvr.demo.bird_scenes import scene_aspects
from fgvr.demo.questions import QUESTIONS
from fgvr.detection.coco import CocoSet
from fgvr.detection.evaluate import coco_metrics, coco_results
from fgvr.detection.examples import DetectionExamples
from fgvr.detection.model import AspectDetector, DetectorSpec, pretrained_weights
from fgvr.detection.training import RECIPE, DetectionJob, train_detector
from fgvr.detection.worker import FINDING, DetectSettings, DetectWorker, detections_of
from fgvr.schemas import DETECTIONS, DETECTOR_TARGETS
from fgvr.tables import Table
from fgvr.training.assemble import p_yes_of, split_rows
from fgvr.training.checkpoint import HISTORY_FILE, LAST, LeftOut, read_history, read_left_out
from pipelines.flow import Flow, stage_main
from pipelines.preflight import check_detection

log = logging.getLogger(__name__)

MODEL_FOLDER, RESULTS_FILE, METRICS_FILE = "model", "results.json", "metrics.json"
# What changes only how a training runs, or what is done with the detector afterwards.
NOT_DECIDING = {
    "checkpoint_epochs",
    "workers",
    "infer_workers",
    "batch_images",
    "test_split",
    "score_threshold",
    "max_detections",
}


def run(context: RunContext, flow: Flow) -> Table:
    """The trained detector."""
    settings = context.config.detect
    if settings.alpha == 0:
        settings = settings.model_copy(update={"questions": None, "aspects": "mllm"})  # they decide nothing then
    check_detection(context.config)
    asks_mllm = settings.alpha > 0 and settings.aspects == "mllm"
    inputs = [flow.samples, *([flow.questions, flow.aspects] if asks_mllm else [])]

    def compute(folder: StageFolder) -> StageSummary:
        annotated, rows = _annotated(flow, settings.split)
        questions, p_yes = _aspects(flow, settings, annotated, rows)
        examples = _examples(annotated, rows, p_yes)
        return _train(folder, examples, DetectorSpec(settings.model, annotated.categories, questions), settings)

    return context.stage(
        "detector", decides=decides(settings, context.config), inputs=inputs, compute=compute, workers=settings.workers
    )


def decides(settings: Detect, config: Config) -> dict[str, Any]:
    """What decides the detector besides the tables it reads; the true answers' questions stand in none of them."""
    decided: dict[str, Any] = {
        name: getattr(settings, name) for name in Detect.model_fields if name not in NOT_DECIDING
    }
    decided |= {"limits": config.ingest.limits, "version": RECIPE}
    if settings.pretrained:
        decided["weights"] = pretrained_weights(settings.model.backbone)
    if settings.alpha > 0 and settings.aspects == "truth":
        decided["truth"] = [question.text for question in QUESTIONS]
    return decided


def find(context: RunContext, flow: Flow) -> Table:
    """Detections on the test images, with COCO's metrics as the table's metrics."""
    config, detector = context.config.detect, flow.detector
    annotated, rows = _annotated(flow, config.test_split)
    learned, _ = _annotated(flow, config.split)
    if annotated.categories != learned.categories:
        raise ConfigError(
            f"the annotations of detect.test_split = {config.test_split} have other categories than those of "
            f"detect.split = {config.split}"
        )
    ids = rows["image_id"].to_numpy()
    settings = DetectSettings(
        model=detector.path(MODEL_FOLDER),
        limits=context.config.ingest.limits,
        score_threshold=config.score_threshold,
        max_detections=config.max_detections,
        batch_images=config.batch_images,
        device="cuda" if config.infer_workers.num_gpus else "cpu",
        threads=max(1, int(config.infer_workers.num_cpus)),
    )

    def compute(folder: StageFolder) -> StageSummary:
        job = PartJob(
            "detections",
            folder.uri,
            DetectWorker,
            {"settings": settings},
            DETECTIONS,
            flow.samples,
            config.infer_workers,
            columns=("image_id", "uri", "metadata"),
        )
        summary = folder.run_parts(job, ids)
        found = pa.concat_tables([tables.read_part(folder.uri, number) for number in range(summary.parts)])
        images = _examples(annotated, rows, np.zeros((len(ids), 0), np.float32)).images
        detections = [detections_of(row) for row in found.to_pylist()]
        summary.metrics = coco_metrics(images, annotated.categories, detections)
        results = coco_results(images, annotated.categories, detections)
        folder.write_bytes(RESULTS_FILE, json.dumps(results).encode())
        folder.write_bytes(METRICS_FILE, json.dumps(summary.metrics, indent=1).encode())
        return summary

    decided: dict[str, Any] = {
        "version": FINDING,
        "limits": settings.limits,
        "score_threshold": settings.score_threshold,
        "max_detections": settings.max_detections,
        "workers": config.infer_workers,
        "ids": digest_of_ids(ids),
    }
    return context.stage(
        "detections", decides=decided, inputs=[flow.samples, detector], compute=compute, workers=config.infer_workers
    )


def _annotated(flow: Flow, split: str) -> tuple[CocoSet, pa.Table]:
    """A split's annotations and its rows of the samples table."""
    source = flow.context.config.ingest.source
    if not isinstance(source, CocoSource | BirdScenesSource):  # check_detection has said so before
        raise ConfigError(f"ingest.source.kind = {source.kind}: it has no boxes")
    rows = split_rows(flow.samples, split, ["metadata"])
    if not rows.num_rows:
        raise ConfigError(
            f"detect: no image is in the split {split} (there are: {', '.join(sorted(flow.samples.extra['splits']))})"
        )
    return coco_files(source, flow.context.folder)[split].read(), rows


def _examples(annotated: CocoSet, rows: pa.Table, p_yes: np.ndarray[Any, np.dtype[np.float32]]) -> DetectionExamples:
    """The rows with what is annotated of each."""
    by_id = {image.id: image for image in annotated.images}
    images = [by_id[json.loads(metadata)[COCO_ID]] for metadata in rows["metadata"].to_pylist()]
    return DetectionExamples(rows["image_id"].to_numpy(), rows["uri"].to_pylist(), images, p_yes)


def _aspects(
    flow: Flow, settings: Detect, annotated: CocoSet, rows: pa.Table
) -> tuple[tuple[str, ...], np.ndarray[Any, np.dtype[np.float32]]]:
    """The questions, and p(yes) of each row; nan where there is none."""
    if settings.alpha == 0:
        return (), np.zeros((rows.num_rows, 0), np.float32)
    if settings.aspects == "truth":
        names = [category.name for category in annotated.categories]
        images = _examples(annotated, rows, np.zeros((rows.num_rows, 0), np.float32)).images
        p_yes = np.stack([scene_aspects([names[place] for place in image.objects.classes]) for image in images])
        texts = [question.text for question in QUESTIONS]
    else:
        texts = flow.questions.read(["text"])["text"].to_pylist()
        answers = flow.aspects.read(["image_id", "p_yes", "error"])
        p_yes = p_yes_of(rows["image_id"].to_numpy(), answers, len(texts))
    if settings.questions is not None and settings.questions > len(texts):
        raise ConfigError(f"detect.questions = {settings.questions}: only {len(texts)} questions were asked")
    return tuple(texts[: settings.questions]), p_yes[:, : settings.questions]


def _train(folder: StageFolder, examples: DetectionExamples, spec: DetectorSpec, settings: Detect) -> StageSummary:
    """Train, keep the model, and list the images."""
    config = folder.context.config
    job = DetectionJob(
        folder.path("examples.parquet"), spec, settings, config.ingest.limits, config.run.max_error_share
    )
    examples.write(job.examples)
    trained = train(
        train_detector,
        job,
        name=training_name(folder.attempt),
        folder=folder.uri,
        workers=settings.workers,
        field="detect.workers",
        title=folder.name,
        epochs=settings.epochs,
    )
    checkpoint = storage.fetch_folder(trained.checkpoint)
    storage.put_folder(checkpoint / LAST, folder.path(MODEL_FOLDER))
    folder.write_bytes(HISTORY_FILE, (checkpoint / HISTORY_FILE).read_bytes())
    log_history(read_history(checkpoint))
    left_out = read_left_out(checkpoint)
    storage.forget_folder(checkpoint)  # a copy of a remote one: what is needed of it is in the table's folder
    summary = folder.write_table(_rows(examples, left_out))
    summary.metrics = trained.metrics
    summary.extra = {
        "images": len(examples) - len(left_out),
        "objects": sum(int((~image.objects.crowd).sum()) for image in examples.images),
        "categories": len(spec.categories),
        "questions": len(spec.questions),
        "parameters": sum(parameter.numel() for parameter in AspectDetector(spec).parameters()),
    }
    return summary


def _rows(examples: DetectionExamples, left_out: LeftOut) -> pa.Table:
    """Rows of DETECTOR_TARGETS."""
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


def _work(flow: Flow) -> Table:
    found = flow.detections
    sys.stdout.write("".join(f"{name:9} {value:6.1f}\n" for name, value in found.extra["metrics"].items()))
    return found


if __name__ == "__main__":
    stage_main(__doc__, _work, check=check_detection, asks=("detector",))
