"""makd: a small student learns classes and, from the MLLM, aspects. In: samples, aspects, NeaR. Out: a trained model.

    python pipelines/makd.py --makd.backbone resnet18 --makd.alpha 4

The table has a row for each training image: its class target, whether it was held out to choose the best epoch, and
why it was left out if it was; photos that were lost only while it trained are counted by reason (`lost`, in the log
and the table's metadata). Beside it: `model/` (the best epoch on the held-out images, else the last), `last/`,
`history.json`. The class target is the true class where the data has one, else NeaR's label (`makd.target`). The
variant `base` is the same student without aspects; it is another table. `makd.distillation` adds a teacher of the
class outputs to both: any earlier student, or the MLLM; it lies beside, in `teacher/`.
"""

from __future__ import annotations

import logging
from typing import Literal

from cluster.stage import RunContext, StageFolder, StageSummary
from cluster.stage_files import training_name
from cluster.tracking import log_history, log_model
from cluster.train import train
from fgvr import storage
from fgvr.config import ConfigError, Makd
from fgvr.precision import of_workers
from fgvr.students.architecture import StudentSpec, build_student
from fgvr.tables import Table
from fgvr.training.assemble import TrainingSet
from fgvr.training.checkpoint import (
    BEST,
    HISTORY_FILE,
    LAST,
    failures_of,
    read_history,
    read_left_out,
    read_lost,
    reasons,
)
from fgvr.training.student import RECIPE, train_student
from fgvr.training.student_data import StudentJob, bounded_by_steps
from pipelines.flow import Flow, stage_main
from pipelines.student_task import StudentTask, assembled, check_student, spec_of, student_spec, student_task
from pipelines.teacher import recipe

log = logging.getLogger(__name__)

Variant = Literal["makd", "base"]
MODEL_FOLDER = "model"
TEACHER_FOLDER = "teacher"
ROWS_PER_PART = 2**20
# The defaults of what no longer matters: one base student serves all settings of the aspects.
WITHOUT_ASPECTS = {"alpha": 0.0, "questions": None, "aspect_loss": "bce", "aspect_targets": "mllm"}
# What changes only how a training runs, not what comes out.
# Which images they are is told by their ids.
NOT_DECIDING = {"base", "checkpoint_epochs", "cache_gb", "compile", "images", "workers", "precision"}


def run(context: RunContext, flow: Flow, variant: Variant) -> Table:
    """The student with aspects or without."""
    config = context.config
    settings = config.makd if variant == "makd" else config.makd.model_copy(update=WITHOUT_ASPECTS)
    if settings.split == config.evaluate.split:
        raise ConfigError(f"makd.split = {settings.split}: the students would train on the images of evaluate.split")
    build_student(spec_of(settings, ("a",), ()))  # a name that timm does not know shows before hours of aspects
    task = student_task(flow, settings)

    def compute(folder: StageFolder) -> StageSummary:
        training_set = assembled(flow, task)
        return _train(folder, training_set, student_spec(flow, task, training_set), task)

    decides = {
        "version": RECIPE,
        "recipe": recipe(settings, set(Makd.model_fields) - NOT_DECIDING, task.teacher),
        "precision": of_workers(settings.workers, settings.precision),
        "limits": config.ingest.limits,
        **task.decides,
    }
    return context.stage(variant, decides=decides, inputs=task.inputs, compute=compute, workers=settings.workers)


def _train(folder: StageFolder, training_set: TrainingSet, spec: StudentSpec, task: StudentTask) -> StageSummary:
    """Train, keep the models, and list the images."""
    config, examples = folder.context.config, training_set.examples
    settings = bounded_by_steps(task.settings, int((~examples.held_out).sum()))
    if settings.epochs < task.settings.epochs:
        log.info(
            "%s: %d of %d epochs, as makd.max_steps = %s allows",
            *(folder.name, settings.epochs, task.settings.epochs, f"{settings.max_steps:,}"),
        )
    job = StudentJob(
        examples=folder.path("examples"),
        spec=spec,
        settings=settings,
        limits=config.ingest.limits,
        max_error_share=config.run.max_error_share,
        teacher=None if task.teacher is None else folder.path(TEACHER_FOLDER),
    )
    training_set.examples.write(job.examples)
    if task.teacher is not None:
        task.teacher.put(folder.path(TEACHER_FOLDER), training_set.examples.image_ids)
    trained = train(
        train_student,
        job,
        name=training_name(folder.attempt),
        folder=folder.uri,
        workers=settings.workers,
        field="makd.workers",
        title=folder.name,
        epochs=settings.epochs,
    )
    checkpoint = storage.fetch_folder(trained.checkpoint)
    best = checkpoint / BEST
    chosen = best if best.is_dir() else checkpoint / LAST
    storage.put_folder(chosen, folder.path(MODEL_FOLDER))
    storage.put_folder(checkpoint / LAST, folder.path(LAST))
    folder.write_bytes(HISTORY_FILE, (checkpoint / HISTORY_FILE).read_bytes())
    log_history(read_history(checkpoint))
    if config.tracking.log_models:
        log_model(folder.path(MODEL_FOLDER), folder.name)
    left_out = read_left_out(checkpoint)
    summary = folder.write_table(training_set.table(left_out), ROWS_PER_PART)
    lost = read_lost(checkpoint)
    if lost:
        log.warning(
            "%s: %d of %d training images were lost while it trained (%s); where one was missing, nothing was learned "
            "from it, and its row has no error: %s",
            folder.name,
            len(lost),
            len(training_set.examples),
            ", ".join(f"{reason} {count}" for reason, count in reasons(lost).items()),
            failures_of(lost, training_set.examples).in_words(),
        )
    summary.metrics = trained.metrics | {"lost": float(len(lost))}
    summary.extra = {
        "class_targets": training_set.targets.source,
        "classes": len(spec.labels),
        "questions": len(spec.questions),
        "epochs": settings.epochs,
        "images": len(training_set.examples) - len(left_out),
        "held_out": int(training_set.examples.held_out.sum()),
        "chosen": chosen.name,
        "lost": reasons(lost),
        "lost_examples": failures_of(lost, training_set.examples).examples_json(),
    }
    storage.forget_folder(checkpoint)  # a copy of a remote one: what is needed of it is in the table's folder
    return summary


if __name__ == "__main__":
    stage_main(__doc__, lambda flow: (flow.base, flow.makd), check=check_student, asks=("base", "makd"))
