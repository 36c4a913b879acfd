"""makd: a small student learns classes and, from the MLLM, aspects. In: samples, aspects, NeaR. Out: a trained model.

    python pipelines/makd.py --makd.backbone resnet18 --makd.alpha 4

The table has a row for each training image: its class target, whether it was held out to choose the best epoch, and
why it was left out if it was. Beside it: `model/` (the best epoch on the held-out images, else the last), `last/`,
`history.json`. The class target is the true class where the data has one, else NeaR's label (`makd.target`). The
variant `base` is the same student without aspects; it is another table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cluster.pyfunc import log_classifier
from cluster.stage import RunContext, StageFolder, StageSummary
from cluster.train import train
from fgvr import storage
from fgvr.clip.classifier import load_classes
from fgvr.config import ConfigError, Makd
from fgvr.schemas import Failure, Reason
from fgvr.students.architecture import StudentSpec, build_student, timm_preprocess
from fgvr.tables import Table
from fgvr.training.assemble import HeldOut, TrainingSet, assemble, near_labels, p_yes_of, split_rows, true_classes
from fgvr.training.checkpoint import BEST, HISTORY_FILE, LAST, LEFT_OUT_FILE
from fgvr.training.makd import StudentJob, train_student
from fgvr.training.targets import ClassTargets, near_targets, true_targets, wants_near
from pipelines.flow import Flow, stage_main

Variant = Literal["makd", "base"]
MODEL_FOLDER = "model"
# What changes only how a training runs, not what comes out.
NOT_DECIDING = {"base", "checkpoint_epochs", "cache_gb", "compile", "workers"}


def run(context: RunContext, flow: Flow, variant: Variant) -> Table:
    """The student with aspects or without."""
    config = context.config
    settings = config.makd if variant == "makd" else config.makd.model_copy(update={"alpha": 0.0, "questions": None})
    if settings.split == config.evaluate.split:
        raise ConfigError(f"makd.split = {settings.split}: the students would train on the images of evaluate.split")
    build_student(_spec(settings, ("a",), ()))  # a name that timm does not know shows before hours of aspects
    task = student_task(flow, settings)

    def compute(folder: StageFolder) -> StageSummary:
        training_set = assembled(flow, task)
        return _train(folder, training_set, student_spec(flow, task, training_set), settings)

    decides = {
        "recipe": {name: getattr(settings, name) for name in Makd.model_fields if name not in NOT_DECIDING},
        "limits": config.ingest.limits,
    }
    return context.stage(variant, decides=decides, inputs=task.inputs, compute=compute)


@dataclass(frozen=True)
class StudentTask:
    """What a student is to learn, and from which tables.

    Attributes:
        settings: the recipe.
        rows: of the samples that are learned from.
        near: whether NeaR gives the class targets.
        inputs: tables that decide the outcome.
    """

    settings: Makd
    rows: pa.Table
    near: bool
    inputs: tuple[Table, ...]

    @property
    def with_aspects(self) -> bool:
        """Whether it learns aspects, too."""
        return self.settings.alpha > 0


def student_task(flow: Flow, settings: Makd) -> StudentTask:
    """Computes the tables that a student needs; raises ConfigError for a split without images."""
    rows = split_rows(flow.samples, settings.split, ["class_id", "class_name"])
    if not rows.num_rows:
        raise ConfigError(f"makd.split = {settings.split}: no image is in this split")
    near = wants_near(settings.target, true_classes(rows).ids)
    inputs = [flow.samples]
    inputs += [flow.near, flow.embeddings] if near else []
    inputs += [flow.questions, flow.aspects] if settings.alpha > 0 else []
    return StudentTask(settings, rows, near, tuple(inputs))


def assembled(flow: Flow, task: StudentTask) -> TrainingSet:
    """The student's training set, with the answers to all questions that were asked."""
    image_ids = task.rows["image_id"].to_numpy()
    p_yes = np.zeros((len(image_ids), 0), dtype=np.float32)
    if task.with_aspects:
        p_yes = p_yes_of(image_ids, flow.aspects.read(["image_id", "p_yes", "error"]), flow.questions.rows)
    targets = _near_targets(flow, image_ids) if task.near else true_targets(true_classes(task.rows))
    held = HeldOut(task.settings.validation_share, task.settings.seed)
    return assemble(task.rows, targets, p_yes, held, flow.samples.version)


def student_spec(flow: Flow, task: StudentTask, training_set: TrainingSet) -> StudentSpec:
    """The student itself; raises ConfigError when it is to learn more aspects than were asked about."""
    settings = task.settings
    questions = flow.questions.read(["text"])["text"].to_pylist() if task.with_aspects else []
    if settings.questions is not None and settings.questions > len(questions) > 0:
        raise ConfigError(f"makd.questions = {settings.questions}: only {len(questions)} questions were asked")
    return _spec(settings, training_set.targets.labels, tuple(questions[: settings.questions]))


def _spec(settings: Makd, labels: tuple[str, ...], questions: tuple[str, ...]) -> StudentSpec:
    preprocess = timm_preprocess(settings.backbone, settings.image_size, settings.resize)
    return StudentSpec(settings.backbone, labels, questions, preprocess, settings.backbone_args)


def _near_targets(flow: Flow, image_ids: np.ndarray[Any, np.dtype[np.int64]]) -> ClassTargets:
    classes = load_classes(storage.fetch_folder(flow.near.path(MODEL_FOLDER)))
    return near_targets(near_labels(image_ids, flow.near.read(), flow.embeddings, classes))


def _train(folder: StageFolder, training_set: TrainingSet, spec: StudentSpec, settings: Makd) -> StageSummary:
    """Train, keep the models, and list the images."""
    config = folder.context.config
    job = StudentJob(
        examples=folder.path("examples.parquet"),
        spec=spec,
        settings=settings,
        limits=config.ingest.limits,
        max_error_share=config.run.max_error_share,
    )
    training_set.examples.write(job.examples)
    trained = train(
        train_student, job, name="training", folder=folder.uri, workers=settings.workers, field="makd.workers"
    )
    checkpoint = storage.fetch_folder(trained.checkpoint)
    best = checkpoint / BEST
    chosen = best if best.is_dir() else checkpoint / LAST
    storage.put_folder(chosen, folder.path(MODEL_FOLDER))
    storage.put_folder(checkpoint / LAST, folder.path(LAST))
    folder.write_bytes(HISTORY_FILE, (checkpoint / HISTORY_FILE).read_bytes())
    if config.tracking.log_models:
        log_classifier(chosen, name=folder.name)
    left_out = json.loads((checkpoint / LEFT_OUT_FILE).read_text())
    failures = {int(position): Failure(Reason(reason), text) for position, (reason, text) in left_out.items()}
    summary = folder.write_table(training_set.table(failures))
    summary.metrics = trained.metrics
    summary.extra = {
        "class_targets": training_set.targets.source,
        "classes": len(spec.labels),
        "questions": len(spec.questions),
        "images": len(training_set.examples) - len(failures),
        "held_out": int(training_set.examples.held_out.sum()),
        "chosen": chosen.name,
    }
    return summary


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: (flow.base, flow.makd))
