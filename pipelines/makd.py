"""makd: train a small student on classes and the MLLM's aspects. In: samples, aspects, NeaR. Out: a trained model.

    python pipelines/makd.py --makd.backbone resnet18 --makd.alpha 4

The table has one row per training image: its class target, whether it was held out to choose the best epoch, and the
reason if it was left out. Photos that became unreadable during training are counted by reason (`lost`, in the log and
the table's metadata). Beside the table: `model/` (the best epoch on the held-out images, or the last epoch without
any), `last/`, `history.json`. The class target is the true class where all images have one, or else the name that a
method gives (`makd.target`, table `pool`). The variant `base` is the same student without aspects, in a table of its
own. `makd.distillation` adds a teacher of the class outputs to both: any earlier student, or the MLLM; a copy of it
lies in `teacher/`. With `makd.signature_weight` makd also learns what a language model says about each class (table
`signatures`). With `makd.weights` both start from pretrained weights; the table's metadata say what was taken. With
`augment.alpha` both also see generated pictures of rare names (table `synthetic`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, ConfigError
from fgvr.config import Makd as MakdConfig
from pipelines.asks import Work
from pipelines.command import stage_main
from pipelines.metadata import check_metadata, feature_blocks, metadata_recipe, prepare
from pipelines.run_tables import Look, Run
from pipelines.start_weights import START_FOLDER, put_weights
from pipelines.student_images import consulted, learned, learns_names
from pipelines.student_pictures import PICTURES_FOLDER, pictures_of
from pipelines.student_task import (
    StudentTask,
    assembled,
    check_student,
    class_names,
    signatures_of,
    student_loop,
    student_spec,
    student_tables,
    student_task,
)
from pipelines.teacher import check_classes, find_teacher, recipe
from pipelines.train_stage import MODEL_FOLDER, Training, TrainStage

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.training.assemble import TrainingSet
    from pipelines.metadata import Prepared

log = logging.getLogger(__name__)

TEACHER_FOLDER = "teacher"
SIGNATURES_FILE = "signatures.npy"
METADATA_FILE = "metadata.npy"
# These fields take their defaults, so that one base student serves all settings of aspects and signatures.
WITHOUT_ASPECTS = {
    "alpha": 0.0,
    "questions": None,
    "aspect_loss": "bce",
    "aspect_targets": "mllm",
    "unasked_aspects": "none",
    "signature_weight": 0.0,
}


class Student(TrainStage):
    """A stage that trains a student: its targets, history and model."""

    checked_once = True

    def settings(self, config: Config) -> MakdConfig:
        """Its training recipe."""
        return config.makd

    def check(self, config: Config) -> None:
        """Check the backbone and the teacher, and that no evaluated image is trained on."""
        makd = config.makd
        if makd.split == config.evaluate.split:
            raise ConfigError(f"makd.split = {makd.split}: the students would train on the images of evaluate.split")
        check_student(config)
        check_metadata(config, makd.metadata, "makd.metadata")

    def recheck(self, run: Look) -> None:
        """Refuse a teacher with other classes, and pseudo-labels for nobody, as soon as the classes are known."""
        settings = self.settings(run.config)
        if settings.distillation.kind != "none":
            check_classes(find_teacher(settings), class_names(run))
        known = not learns_names(run.config, run.photos) and run.photos.all_have_classes(settings.split)
        if settings.trainer == "semi" and known:
            raise ConfigError(
                f"makd.trainer = semi: every image of {settings.split} has a class, so none is left for pseudo-labels; "
                "set makd.trainer to plain, or makd.target to a method that names the images (near)"
            )

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """The split to train on."""
        return [("makd.split", config.makd.split)]

    def workers(self, config: Config) -> str | None:
        """The training workers."""
        return "makd.workers"

    def consults(self, run: Run) -> Iterable[str]:
        """What decides which images it learns from."""
        return consulted(run)

    def reads(self, run: Run) -> Iterable[str]:
        """The tables with its class targets, and those with its other targets."""
        return student_tables(run, self.settings(run.config))

    def works(self, run: Run) -> Work:
        """The training images, in every epoch."""
        from fgvr.training.student_data import bounded_by_steps

        settings = self.settings(run.config)
        images = learned(run.config, run.photos)
        trained = max(1, round(images * (1 - settings.validation_share)))
        return Work(images, bounded_by_steps(settings, trained).epochs)

    def recipe(self, run: Run) -> dict[str, Any]:
        """The training recipe, the content of the teacher, and the ids of the images where these are not all."""
        from fgvr.precision import of_workers
        from fgvr.training.student import RECIPE

        settings, task = self.settings(run.config), self._task(run)
        return {
            "version": RECIPE,
            "recipe": recipe(settings, task.teacher),
            "precision": of_workers(settings.workers, settings.precision),
            "limits": run.config.ingest.limits,
            **metadata_recipe(settings.metadata, "makd.metadata"),
            **task.decides,
        }

    def training(self, run: Run, folder: StageFolder) -> Training:
        """Write targets, answers and the teacher to files that all workers read."""
        import numpy as np

        from fgvr.array_files import save_array, save_blocks
        from fgvr.models.fused import StudentMetadata
        from fgvr.training.student_data import StudentJob, bounded_by_steps

        task = self._task(run)
        training_set = assembled(run, task)
        spec, examples = student_spec(run, task, training_set), training_set.examples
        known = _metadata(run, task.settings, training_set)
        settings = bounded_by_steps(task.settings, int((~examples.held_out).sum()))
        if settings.epochs < task.settings.epochs:
            log.info(
                "%s: %d of %d epochs, as makd.max_steps = %s allows",
                *(self.table, settings.epochs, task.settings.epochs, f"{settings.max_steps:,}"),
            )
        start, started = None, ""
        if settings.weights is not None:
            start, started = put_weights(settings, spec, folder.path(START_FOLDER))
            log.info("%s: %s", self.table, started)
        check_pace(settings, int((~examples.held_out).sum()))
        shown = pictures_of(run, training_set)
        if known is not None:
            spec = replace(spec, metadata=StudentMetadata.of(known.fitted, settings.metadata))
            shape = (len(examples), known.fitted.dim)
            blocks = feature_blocks(run.table("samples"), np.asarray(examples.image_ids), known.fitted)
            save_blocks(folder.path(METADATA_FILE), "<f2", shape, (block.astype("<f2") for block in blocks))
        job = StudentJob(
            examples=folder.path("examples"),
            spec=spec,
            settings=settings,
            limits=run.config.ingest.limits,
            max_error_share=run.config.run.max_error_share,
            teacher=None if task.teacher is None else folder.path(TEACHER_FOLDER),
            all_asked=task.asked,
            start=start,
            signatures=folder.path(SIGNATURES_FILE) if spec.choices else None,
            pictures=None if shown is None else folder.path(PICTURES_FOLDER),
            metadata=None if known is None else folder.path(METADATA_FILE),
        )
        examples.write(job.examples)
        if shown is not None:
            shown.pictures.write(folder.path(PICTURES_FOLDER))
        signatures = signatures_of(run, task)
        if job.signatures is not None and signatures is not None:
            save_array(job.signatures, signatures)
        if task.teacher is not None:
            task.teacher.put(folder.path(TEACHER_FOLDER), examples.image_ids)
        return Training(student_loop(settings), job, settings.epochs, (training_set, shown), started)
        said, extra = ((), {}) if known is None else (known.remarks, known.extra)
        return Training(student_loop(settings), job, settings.epochs, training_set, started, said, extra)

    def models(self, checkpoint: Path) -> Mapping[str, Path]:
        """The best epoch's model where images are held out to choose it; and the last epoch's in any case."""
        from fgvr.training.checkpoint import LAST

        return {MODEL_FOLDER: _chosen(checkpoint), LAST: checkpoint / LAST}

    def rows(self, run: Run, training: Training, checkpoint: Path) -> pa.Table:
        """The targets of each image, or why it was left out."""
        from fgvr.training.checkpoint import read_left_out

        training_set: TrainingSet = training.made_of[0]
        return training_set.table(read_left_out(checkpoint))

    def finish(self, run: Run, training: Training, checkpoint: Path, rows: pa.Table, summary: StageSummary) -> None:
        """Record the size of the training run, and the images lost during training."""
        from fgvr.training.checkpoint import failures_of, read_history, read_left_out, read_lost, reasons
        from pipelines.student_remarks import doubtful_pseudo_labels, learned_nothing

        training_set: TrainingSet
        training_set, shown = training.made_of
        examples, spec, lost = training_set.examples, training.job.spec, read_lost(checkpoint)
        if lost:
            log.warning(
                "%s: %d of %d training images could not be read in some epoch (%s); where one was missing, nothing was "
                "learned from it, and its row has no error: %s",
                self.table,
                len(lost),
                len(examples),
                ", ".join(f"{reason} {count}" for reason, count in reasons(lost).items()),
                failures_of(lost, examples).in_words(),
            )
        summary.metrics |= {"lost": float(len(lost))}
        summary.remarks = (
            *training.remarks,
            *learned_nothing(read_history(checkpoint), examples, training.job.settings.lr),
            *doubtful_pseudo_labels(summary.metrics, len(spec.labels), training.job.settings),
        )
        if "validation_top1" in summary.metrics:
            log.info(
                "%s: %.1f of 100 held-out images get their class target after the last epoch; kept is the %s epoch",
                *(self.table, 100 * summary.metrics["validation_top1"], _chosen(checkpoint).name),
            )
        summary.extra = {
            "class_targets": training_set.targets.source,
            "classes": len(spec.labels),
            "questions": len(spec.questions),
            **({"choices": len(spec.choices)} if spec.choices else {}),
            "epochs": training.job.settings.epochs,
            "images": len(examples) - len(read_left_out(checkpoint)),
            **_unnamed(training_set),
            "held_out": int(examples.held_out.sum()),
            "chosen": _chosen(checkpoint).name,
            "lost": reasons(lost),
            "lost_examples": failures_of(lost, examples).examples_json(),
            **({"weights": training.started} if training.started else {}),
            **({} if shown is None else shown.facts),
            **training.extra,
        }

    def _task(self, run: Run) -> StudentTask:
        return student_task(run, self.settings(run.config))


class Makd(Student):
    """The student with aspects."""

    table = "makd"


class Base(Student):
    """The same student without aspects."""

    table = "base"

    def wanted(self, config: Config) -> bool:
        """Needed where `makd.base` is on."""
        return config.makd.base

    def settings(self, config: Config) -> MakdConfig:
        """The recipe without aspects, independent of all aspect fields."""
        return config.makd.model_copy(update=WITHOUT_ASPECTS)


def _metadata(run: Run, settings: MakdConfig, training_set: TrainingSet) -> Prepared | None:
    """The metadata that a student sees beside the photos, fitted on those that it learns from; None without columns."""
    import numpy as np

    if not settings.metadata.on:
        return None
    examples = training_set.examples
    return prepare(
        *(run.table("samples"), np.asarray(examples.image_ids), np.asarray(examples.classes)),
        training=np.flatnonzero(~np.asarray(examples.held_out)),
        settings=settings.metadata,
        field="makd.metadata",
        seed=settings.seed,
    )


def _unnamed(training_set: TrainingSet) -> dict[str, int]:
    """How many images stood without a class target, where some did."""
    from fgvr.losses.makd import UNKNOWN_CLASS

    count = int((training_set.examples.classes == UNKNOWN_CLASS).sum())
    return {"without_target": count} if count else {}


def check_pace(settings: MakdConfig, images: int) -> None:
    """Warn of a training that ends in its warm-up, and of an average that is mostly of early, unfinished weights."""
    if settings.warmup_epochs >= settings.epochs:
        log.warning(
            "makd.warmup_epochs = %d of %d epochs: the learning rate rises until the end, where it should fall; set "
            "makd.warmup_epochs to 0, or train for more epochs",
            *(settings.warmup_epochs, settings.epochs),
        )
    learned = images * settings.epochs
    if settings.ema is not None and 2 * settings.ema > learned:
        log.warning(
            "makd.ema = %s images: the whole training learns from %s, so that half of the average is of weights from "
            "its first half; a tenth of it is usual, %s",
            *(f"{settings.ema:,.0f}", f"{learned:,}", f"{max(1, learned // 10):,}"),
        )


def _chosen(checkpoint: Path) -> Path:
    """The best epoch's model, or the last one's where no epoch was chosen as the best."""
    from fgvr.training.checkpoint import BEST, LAST

    best = checkpoint / BEST
    return best if best.is_dir() else checkpoint / LAST


if __name__ == "__main__":
    stage_main(__doc__, "base", "makd")
