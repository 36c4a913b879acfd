"""What a student is to learn, and from which tables: shared by the stage makd and its sweep."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.stage import digest_of_ids
from fgvr import storage
from fgvr.clip.classifier import ClassFeatures, load_classes
from fgvr.config import Config, ConfigError, Makd, NoDistillation
from fgvr.splits import first_of
from fgvr.students.architecture import StudentSpec, build_student, timm_preprocess
from fgvr.tables import Table, rows_among
from fgvr.training.assemble import (
    HeldOut,
    RandomAnswers,
    TrainingSet,
    answers_of,
    assemble,
    class_rows,
    near_labels,
    true_classes,
)
from fgvr.training.examples import AspectAnswers
from fgvr.training.targets import ClassTargets, Ids, near_targets, true_targets, wants_near
from pipelines.flow import Flow
from pipelines.teacher import MllmTeacher, Teacher, asks_mllm, check_classes, engine_of, find_teacher

log = logging.getLogger(__name__)

HIGH_RATE = 0.1
"""Learning rate from which on a loss with T² before it was seen to cost accuracy (docs/distillation.md)."""


@dataclass(frozen=True)
class StudentTask:
    """What a student is to learn, and from which tables.

    Attributes:
        settings: the recipe.
        rows: ids and true classes of the samples that are learned from, as `class_rows` gives them.
        sampled: whether the split has others.
        near: whether NeaR gives the class targets.
        inputs: tables that decide the outcome.
        teacher: whose class outputs are distilled.
    """

    settings: Makd
    rows: pa.Table
    near: bool
    inputs: tuple[Table, ...]
    teacher: Teacher | None = None
    sampled: bool = False

    @property
    def decides(self) -> dict[str, Any]:
        """What of the images decides the outcome besides the tables: which they are, where they are not all."""
        return {"images": digest_of_ids(self.rows["image_id"].to_numpy())} if self.sampled else {}

    @property
    def with_aspects(self) -> bool:
        """Whether it learns aspects, too."""
        return self.settings.alpha > 0


def check_student(config: Config) -> None:
    """What the config alone says of the student and its teacher, before anything is started.

    Raises:
        StudentError: timm does not have the backbone.
        ConfigError: no such teacher, or it is damaged, or the MLLM cannot teach; or the aspects are of other images.
    """
    settings = config.makd
    if settings.alpha > 0 and settings.aspect_targets == "mllm" and config.aspects.split != settings.split:
        raise ConfigError(
            f"aspects.split = {config.aspects.split}: the student learns on makd.split = {settings.split}, about whose "
            "images no question would be asked; name one split, or set makd.alpha to 0 for no aspects"
        )
    build_student(spec_of(settings, ("a",), ()))
    find_teacher(settings)  # reads it as a whole
    if asks_mllm(settings):
        engine_of(config)
    _check_rate(settings)


def _check_rate(settings: Makd) -> None:
    """A rate that suits the student alone may be too much with a teacher: say so, and go on."""
    taught = settings.distillation
    if not isinstance(taught, NoDistillation) and taught.temperature > 1 and settings.lr > HIGH_RATE:
        log.warning(
            "makd.lr = %g may be too high with makd.distillation.kind = %s, whose loss is %g times (T²) as large: "
            "students have lost accuracy so; try --makd.lr 0.05 (docs/distillation.md)",
            settings.lr,
            taught.kind,
            taught.temperature**2,
        )


def student_task(flow: Flow, settings: Makd) -> StudentTask:
    """Computes the tables that a student needs.

    Raises:
        ConfigError: a split without images, no such teacher, or one with other classes.
    """
    student = find_teacher(settings)
    rows = learned_rows(flow, settings)
    near = wants_near(settings.target, true_classes(rows).ids)
    inputs = [flow.samples]
    inputs += [flow.near, flow.embeddings] if near else []
    if settings.distillation.kind != "none":  # before the hours of aspects
        check_classes(student, class_names(flow, settings, rows))
    teacher: Teacher | None = MllmTeacher(flow.class_scores) if asks_mllm(settings) else student
    inputs += [teacher.scores] if isinstance(teacher, MllmTeacher) else []
    if settings.alpha > 0:
        inputs += [flow.questions] if settings.aspect_targets == "random" else [flow.questions, flow.aspects]
    sampled = rows.num_rows < flow.samples.extra["splits"][settings.split]
    return StudentTask(settings, rows, near, tuple(inputs), teacher, sampled)


def learned_rows(flow: Flow, settings: Makd) -> pa.Table:
    """Ids and classes of the samples that the student learns from: those of its split that aspects asks about, or all.

    Raises ConfigError where there are none.
    """
    rows = class_rows(flow.samples, settings.split)
    if not rows.num_rows:
        known = ", ".join(sorted(flow.samples.extra["splits"]))
        raise ConfigError(f"makd.split = {settings.split}: no image is in this split (there are: {known})")
    asked = flow.context.config.aspects
    if settings.images == "all" or asked.max_images is None or asked.max_images >= rows.num_rows:
        return rows
    return rows_among(rows, first_of(rows["image_id"].to_numpy(), asked.max_images, asked.seed))


def class_names(flow: Flow, settings: Makd, rows: pa.Table) -> tuple[str, ...]:
    """The classes of a student that learns from these rows; asks for NeaR's table where NeaR gives them."""
    true = true_classes(rows)
    return near_classes(flow).labels if wants_near(settings.target, true.ids) else true_targets(true).labels


def check_teacher(flow: Flow, *, near_is_there: bool) -> None:
    """Raise ConfigError for a teacher with other classes, as soon as they are known: from the samples, or from NeaR."""
    settings = flow.context.config.makd
    if settings.distillation.kind == "none":
        return
    rows = learned_rows(flow, settings)
    if near_is_there or not wants_near(settings.target, true_classes(rows).ids):
        check_classes(find_teacher(settings), class_names(flow, settings, rows))


def assembled(flow: Flow, task: StudentTask) -> TrainingSet:
    """The student's training set, with the answers to all questions that were asked."""
    image_ids = task.rows["image_id"].to_numpy()
    p_yes = AspectAnswers(len(image_ids), np.zeros(0, np.int64), np.zeros((0, 0), np.float32))
    if task.with_aspects:
        p_yes = _p_yes(flow, task.settings, image_ids)
    targets = _near_targets(flow, image_ids) if task.near else true_targets(true_classes(task.rows))
    held = HeldOut(task.settings.validation_share, task.settings.seed, task.settings.fraction)
    return assemble(task.rows, targets, p_yes, held, flow.samples.version, samples=flow.samples)


def student_spec(flow: Flow, task: StudentTask, training_set: TrainingSet) -> StudentSpec:
    """The student itself; raises ConfigError when it is to learn more aspects than were asked about."""
    settings = task.settings
    questions = flow.questions.read(["text"])["text"].to_pylist() if task.with_aspects else []
    if settings.questions is not None and settings.questions > len(questions) > 0:
        raise ConfigError(f"makd.questions = {settings.questions}: only {len(questions)} questions were asked")
    return spec_of(settings, training_set.targets.labels, tuple(questions[: settings.questions]))


def spec_of(settings: Makd, labels: tuple[str, ...], questions: tuple[str, ...]) -> StudentSpec:
    """The configured student with these outputs; raises StudentError for a backbone that timm does not have."""
    preprocess = timm_preprocess(settings.backbone, settings.image_size, settings.resize)
    return StudentSpec(settings.backbone, labels, questions, preprocess, settings.backbone_args)


def near_classes(flow: Flow) -> ClassFeatures:
    """The text side of the run's NeaR model, whose labels are the classes of students without true ones."""
    return load_classes(storage.fetch_folder(flow.near.path("model")))


def _p_yes(flow: Flow, settings: Makd, image_ids: Ids) -> AspectAnswers:
    if settings.aspect_targets == "random":
        return RandomAnswers(image_ids, flow.questions.rows, settings.seed).answers()
    return answers_of(image_ids, flow.aspects, flow.questions.rows)


def _near_targets(flow: Flow, image_ids: Ids) -> ClassTargets:
    settled = flow.near.read(["image_id", "label_id"])
    return near_targets(near_labels(image_ids, settled, flow.embeddings, near_classes(flow)))
