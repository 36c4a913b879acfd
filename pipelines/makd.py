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
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fgvr.config import Config, ConfigError
from fgvr.config import Makd as MakdConfig
from pipelines.command import stage_main
from pipelines.stage import Look, Run
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
from pipelines.train_stage import MODEL_FOLDER, Training, TrainStage

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from cluster.stage import StageFolder, StageSummary
    from fgvr.training.assemble import TrainingSet

log = logging.getLogger(__name__)

TEACHER_FOLDER = "teacher"
# The defaults of what no longer matters: one base student serves all settings of the aspects.
WITHOUT_ASPECTS = {"alpha": 0.0, "questions": None, "aspect_loss": "bce", "aspect_targets": "mllm"}


class Student(TrainStage):
    """A student: its training targets, its history and its model."""

    checked_once = True

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

    def training(self, run: Run, folder: StageFolder) -> Training:
        """Targets and answers of its images, and the teacher's word, as files that all workers read."""
        from fgvr.training.student import train_student
        from fgvr.training.student_data import StudentJob, bounded_by_steps

        task = self._task(run)
        training_set = assembled(run, task)
        spec, examples = student_spec(run, task, training_set), training_set.examples
        settings = bounded_by_steps(task.settings, int((~examples.held_out).sum()))
        if settings.epochs < task.settings.epochs:
            log.info(
                "%s: %d of %d epochs, as makd.max_steps = %s allows",
                *(self.table, settings.epochs, task.settings.epochs, f"{settings.max_steps:,}"),
            )
        job = StudentJob(
            examples=folder.path("examples"),
            spec=spec,
            settings=settings,
            limits=run.config.ingest.limits,
            max_error_share=run.config.run.max_error_share,
            teacher=None if task.teacher is None else folder.path(TEACHER_FOLDER),
        )
        examples.write(job.examples)
        if task.teacher is not None:
            task.teacher.put(folder.path(TEACHER_FOLDER), examples.image_ids)
        return Training(train_student, job, settings.epochs, training_set)

    def models(self, checkpoint: Path) -> Mapping[str, Path]:
        """The best epoch's where images are held out to choose it, else the last one's, which stays in any case."""
        from fgvr.training.checkpoint import LAST

        return {MODEL_FOLDER: _chosen(checkpoint), LAST: checkpoint / LAST}

    def rows(self, run: Run, training: Training, checkpoint: Path) -> pa.Table:
        """What each image taught, or why it was left out."""
        from fgvr.training.checkpoint import read_left_out

        training_set: TrainingSet = training.made_of
        return training_set.table(read_left_out(checkpoint))

    def finish(self, run: Run, training: Training, checkpoint: Path, rows: pa.Table, summary: StageSummary) -> None:
        """What was learned from how many images, and which were lost meanwhile."""
        from fgvr.training.checkpoint import failures_of, read_left_out, read_lost, reasons

        training_set: TrainingSet = training.made_of
        examples, spec, lost = training_set.examples, training.job.spec, read_lost(checkpoint)
        if lost:
            log.warning(
                "%s: %d of %d training images were lost while it trained (%s); where one was missing, nothing was "
                "learned from it, and its row has no error: %s",
                self.table,
                len(lost),
                len(examples),
                ", ".join(f"{reason} {count}" for reason, count in reasons(lost).items()),
                failures_of(lost, examples).in_words(),
            )
        summary.metrics |= {"lost": float(len(lost))}
        summary.extra = {
            "class_targets": training_set.targets.source,
            "classes": len(spec.labels),
            "questions": len(spec.questions),
            "epochs": training.job.settings.epochs,
            "images": len(examples) - len(read_left_out(checkpoint)),
            "held_out": int(examples.held_out.sum()),
            "chosen": _chosen(checkpoint).name,
            "lost": reasons(lost),
            "lost_examples": failures_of(lost, examples).examples_json(),
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
        """As `makd.base` says."""
        return config.makd.base

    def settings(self, config: Config) -> MakdConfig:
        """Without aspects: of their settings none decides it."""
        return config.makd.model_copy(update=WITHOUT_ASPECTS)


def _chosen(checkpoint: Path) -> Path:
    """The best epoch's model, or the last one's where none was held to be better."""
    from fgvr.training.checkpoint import BEST, LAST

    best = checkpoint / BEST
    return best if best.is_dir() else checkpoint / LAST


if __name__ == "__main__":
    stage_main(__doc__, "base", "makd")
