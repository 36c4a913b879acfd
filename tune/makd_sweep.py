"""The sweep of makd: learning rate, weight of the aspects, number of questions.

**Objective.** Accuracy at the best epoch, on the training images that makd itself holds out to choose that epoch
(`makd.validation_share`); the evaluation split is not used. It is measured on the class outputs alone, so that the
weight of the aspects does not change the objective itself. The targets are those of the stage: true classes where the
data has them, or else NeaR's labels, and then the objective is agreement with NeaR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fgvr import storage
from fgvr.array_files import save_array
from fgvr.arrays import Floats
from fgvr.config import Config, ConfigError
from fgvr.config.base import TrainWorkers
from fgvr.models.student import StudentSpec
from fgvr.precision import of_workers
from fgvr.tables import Table
from fgvr.training.assemble import TrainingSet
from fgvr.training.student import RECIPE
from fgvr.training.student_data import StudentJob, bounded_by_steps
from fgvr.training.swaps import Pictures
from pipelines.makd import SIGNATURES_FILE, TEACHER_FOLDER
from pipelines.run_tables import Run
from pipelines.start_weights import START_FOLDER, put_weights, start_uri
from pipelines.student_pictures import PICTURES_FOLDER, pictures_of, sees_pictures
from pipelines.student_task import (
    assembled,
    check_student,
    signatures_of,
    student_loop,
    student_spec,
    student_tables,
    student_task,
)
from pipelines.teacher import Teacher, recipe
from tune.spaces import Objective, Space, Training, makd_space

OBJECTIVE = Objective(
    metric="validation_top1",
    meaning="share of right classes among training images held out by makd.validation_share, at the best epoch; "
    "the evaluation split has no part in it",
    of="best",
)
EXAMPLES_FILE = "examples"


@dataclass(frozen=True)
class MakdSweep:
    """Sweeps the student with aspects; see `tune.spaces.StageSweep`.

    Attributes:
        spec: the student with all questions.
        examples: its training set; None in the copies that are sent to the trials.
        inputs: tables from which it was made.
        teacher: the teacher whose class outputs all trials distil.
        images: what identifies a sample of the training images in a fingerprint; empty for the whole split.
        all_asked: see `fgvr.training.student_data.StudentJob`.
        signatures: those of the classes, float32 [C, K]; None in the copies, and where the student learns none.
        pictures: generated pictures that stand in for photos; None in the copies, and where there are none.
    """

    config: Config
    spec: StudentSpec
    examples: TrainingSet | None
    inputs: Sequence[Table]
    teacher: Teacher | None = None
    images: Mapping[str, Any] = field(default_factory=dict)
    all_asked: bool = True
    signatures: Floats | None = None
    pictures: Pictures | None = None
    stage: str = "makd"
    objective: Objective = OBJECTIVE

    @classmethod
    def of(cls, run: Run) -> MakdSweep:
        """Build it from the tables of a run; missing ones are computed.

        Raises:
            ConfigError: there is nothing to sweep with this config, or no image to measure on.
        """
        config = run.config
        check(config)
        settings = config.makd.model_copy(update={"questions": None})
        inputs = [run.table(name) for name in student_tables(run, settings)]
        task = student_task(run, settings)
        training_set = assembled(run, task)
        if not training_set.examples.held_out.any():
            raise ConfigError(
                f"makd.validation_share = {config.makd.validation_share} of {len(training_set.examples)} images leaves "
                "none to measure on: raise it"
            )
        config = config.model_copy(
            update={"makd": bounded_by_steps(config.makd, int((~training_set.examples.held_out).sum()))}
        )
        spec = student_spec(run, task, training_set)
        signatures = signatures_of(run, task)
        shown = pictures_of(run, training_set)
        pictures = None if shown is None else shown.pictures
        return cls(config, spec, training_set, inputs, task.teacher, task.decides, task.asked, signatures, pictures)

    @property
    def workers(self) -> TrainWorkers:
        """The workers of one training run, as configured."""
        return self.config.makd.workers

    @property
    def epochs(self) -> int:
        """The epochs of a whole training run."""
        return self.config.makd.epochs

    @property
    def decides(self) -> Mapping[str, Any]:
        """The recipe without the swept fields, which the space replaces, and how images are read."""
        swept = {field.partition(".")[2] for field in self.space()}
        return {
            "version": RECIPE,
            "recipe": recipe(self.config.makd, self.teacher, swept),
            "precision": of_workers(self.config.makd.workers, self.config.makd.precision),
            "limits": self.config.ingest.limits,
            **self.images,
        }

    def space(self) -> Space:
        """Learning rate, alpha and Q."""
        return makd_space(self.config, len(self.spec.questions))

    def prepare(self, folder: str) -> MakdSweep:
        """Write the training set and the teacher, once for all trials."""
        if self.examples is not None:
            self.examples.examples.write(storage.join(folder, EXAMPLES_FILE))
            if self.teacher is not None:
                self.teacher.put(storage.join(folder, TEACHER_FOLDER), self.examples.examples.image_ids)
            if self.config.makd.weights is not None:
                # Trials have other numbers of outputs, so that each has a new classifier.
                put_weights(self.config.makd, self.spec, storage.join(folder, START_FOLDER), keep_classifier=False)
            if self.signatures is not None:
                save_array(storage.join(folder, SIGNATURES_FILE), self.signatures)
            if self.pictures is not None:
                self.pictures.write(storage.join(folder, PICTURES_FOLDER))
        return replace(self, examples=None, signatures=None, pictures=None)

    def training(self, config: Config, sweep_folder: str, trial_folder: str) -> Training:
        """A training run of a student that learns the first questions by rank."""
        questions = self.spec.questions[: config.makd.questions]
        spec = replace(self.spec, questions=questions)
        job = StudentJob(
            examples=storage.join(sweep_folder, EXAMPLES_FILE),
            spec=spec,
            settings=config.makd,
            limits=config.ingest.limits,
            max_error_share=config.run.max_error_share,
            teacher=None if self.teacher is None else storage.join(sweep_folder, TEACHER_FOLDER),
            all_asked=self.all_asked,
            signatures=storage.join(sweep_folder, SIGNATURES_FILE) if self.spec.choices else None,
            start=None if config.makd.weights is None else start_uri(storage.join(sweep_folder, START_FOLDER)),
            pictures=storage.join(sweep_folder, PICTURES_FOLDER) if sees_pictures(self.config) else None,
        )
        return Training(student_loop(job.settings), job)


def check(config: Config) -> None:
    """Check what is known before anything is computed; raises ConfigError."""
    if config.makd.alpha == 0:
        raise ConfigError("makd.alpha = 0: a student without aspects has neither alpha nor questions to sweep")
    if config.makd.validation_share == 0:
        raise ConfigError(
            "makd.validation_share = 0: the sweep measures on held-out training images; set it to 0.1, say"
        )
    check_student(config)
