"""makd: a small student learns classes and, from the MLLM, aspects. In: samples, aspects, NeaR. Out: a trained model.

    python pipelines/makd.py --makd.backbone resnet18 --makd.alpha 4

The table has one row per training image: its class target, whether it was held out to choose the best epoch, and
why it was left out if it was; photos that were lost only while it trained are counted by reason (`lost`, in the log
and the table's metadata). Beside it: `model/` (the best epoch on the held-out images, else the last), `last/`,
`history.json`. The class target is the true class where the data has one, else NeaR's label (`makd.target`). The
variant `base` is the same student without aspects; it is another table. `makd.distillation` adds a teacher of the
class outputs to both: any earlier student, or the MLLM; it lies beside, in `teacher/`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr import storage
from fgvr.config import Config, ConfigError
from fgvr.config import Makd as MakdConfig
from pipelines.command import stage_main
from pipelines.stage import Look, Run, Stage
from pipelines.student_task import (
    StudentTask,
    assembled,
    check_student,
    class_names,
    student_spec,
    student_tables,
    student_task,
)
from pipelines.teacher import check_classes, find_teacher, recipe

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.students.architecture import StudentSpec
    from fgvr.training.assemble import TrainingSet

log = logging.getLogger(__name__)

MODEL_FOLDER = "model"
TEACHER_FOLDER = "teacher"
ROWS_PER_PART = 2**20
# The defaults of what no longer matters: one base student serves all settings of the aspects.
WITHOUT_ASPECTS = {"alpha": 0.0, "questions": None, "aspect_loss": "bce", "aspect_targets": "mllm"}


class Student(Stage):
    """A student: its training targets, its history and its model."""

    phase = "train"

    def settings(self, config: Config) -> MakdConfig:
        """Its recipe."""
        return config.makd

    def check(self, config: Config) -> None:
        """The backbone and the teacher, and that nothing is learned of the images that are evaluated on."""
        makd = config.makd
        if makd.split == config.evaluate.split:
            raise ConfigError(f"makd.split = {makd.split}: the students would train on the images of evaluate.split")
        check_student(config)

    def recheck(self, run: Look) -> None:
        """A teacher of other classes, as soon as they are known: by the samples, or by NeaR."""
        settings = self.settings(run.config)
        if settings.distillation.kind != "none":
            check_classes(find_teacher(settings), class_names(run))

    def splits(self, config: Config) -> Iterable[tuple[str, str]]:
        """That which is learned from."""
        return [("makd.split", config.makd.split)]

    def workers(self, config: Config) -> str | None:
        """Those that train it."""
        return "makd.workers"

    def reads(self, run: Run) -> Iterable[str]:
        """What gives its classes, and what it learns besides."""
        return student_tables(run, self.settings(run.config))

    def recipe(self, run: Run) -> dict[str, Any]:
        """The recipe of the training, the teacher by what it is, and which images, where they are not all."""
        from fgvr.precision import of_workers
        from fgvr.training.student import RECIPE

        settings, task = self.settings(run.config), self._task(run)
        return {
            "version": RECIPE,
            "recipe": recipe(settings, task.teacher),
            "precision": of_workers(settings.workers, settings.precision),
            "limits": run.config.ingest.limits,
            **task.decides,
        }

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """Put the training set together, and train."""
        task = self._task(run)
        training_set = assembled(run, task)
        return _train(run, folder, training_set, student_spec(run, task, training_set), task)

    def _task(self, run: Run) -> StudentTask:
        return student_task(run, self.settings(run.config))


class Makd(Student):
    """The student with aspects."""

    table = "makd"


class Base(Student):
    """The same student without aspects."""

    table = "base"

    def wanted(self, config: Config) -> bool:
        """As `makd.base` says."""
        return config.makd.base

    def settings(self, config: Config) -> MakdConfig:
        """Without aspects: of their settings none decides it."""
        return config.makd.model_copy(update=WITHOUT_ASPECTS)


def _train(
    run: Run, folder: StageFolder, training_set: TrainingSet, spec: StudentSpec, task: StudentTask
) -> StageSummary:
    """Train, keep the models, and list the images."""
    from cluster.stage_files import training_name
    from cluster.tracking import log_history, log_model
    from cluster.train import train
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
    from fgvr.training.student import train_student
    from fgvr.training.student_data import StudentJob, bounded_by_steps

    config, examples = run.config, training_set.examples
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
    stage_main(__doc__, "base", "makd")
