"""What a student learns, and from which tables; shared by sweeps and the stages of students and their targets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fgvr.config import Config, ConfigError, Makd, NoDistillation
from pipelines.run_tables import Run, per_run
from pipelines.start_weights import check_weights, find_weights
from pipelines.student_images import learned_rows, learns_names, named_classes, scope
from pipelines.student_pictures import decided_by_pictures, sees_pictures
from pipelines.teacher import MllmTeacher, Teacher, asks_mllm, check_classes, find_teacher

if TYPE_CHECKING:
    import pyarrow as pa

    from fgvr.arrays import Floats, Ids
    from fgvr.mllm.choices import ChoiceQuestion
    from fgvr.models.student import StudentSpec
    from fgvr.training.assemble import TrainingSet
    from fgvr.training.checkpoint import History
    from fgvr.training.examples import AspectAnswers
    from fgvr.training.reporter import Reporter
    from fgvr.training.student_data import StudentJob


log = logging.getLogger(__name__)

HIGH_RATE = 0.1
"""Learning rate from which a loss with the factor T² was measured to cost accuracy (docs/distillation.md)."""

ADAMW_HIGH_RATE = 0.01
"""Learning rate, the default of SGD, from which AdamW learns little else than to diverge."""


@dataclass(frozen=True)
class StudentTask:
    """What a student learns.

    Attributes:
        settings: the training recipe.
        rows: ids and true classes of the training samples, as `class_rows` gives them.
        named: whether the class targets are names that a method gave, in the table `pool`.
        sampled: whether the images are only a part of the split.
        asked: whether the MLLM was asked about each of them.
        teacher: the teacher whose class outputs are distilled.
        pictures: how generated pictures are shown; empty where there are none.
    """

    settings: Makd
    rows: pa.Table
    named: bool
    sampled: bool = False
    asked: bool = True
    teacher: Teacher | None = None
    pictures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decides(self) -> dict[str, Any]:
        """What decides the outcome besides the input tables: the ids of the images, unless they are the whole split.

        And that an image about which the MLLM was not asked counts in the means over its answers, where there may be
        some.
        """
        from cluster.fingerprint import digest_of_ids

        ids = {"images": digest_of_ids(self.rows["image_id"].to_numpy())} if self.sampled else {}
        partly = (self.with_aspects and not self.fills_aspects) or asks_mllm(self.settings)
        return ids | ({"unasked": "count"} if partly and not self.asked else {}) | dict(self.pictures)

    @property
    def with_aspects(self) -> bool:
        """Whether the student also learns aspects."""
        return self.settings.alpha > 0

    @property
    def fills_aspects(self) -> bool:
        """Whether images that the MLLM was not asked about have their class's mean aspects."""
        return self.with_aspects and self.settings.unasked_aspects == "class_mean"


def student_loop(settings: Makd) -> Callable[[StudentJob, Reporter], History]:
    """The training that a recipe asks for."""
    from fgvr.training.fused import train_fused
    from fgvr.training.semi import train_semi
    from fgvr.training.student import train_student

    if settings.metadata.on:
        return train_fused
    return train_semi if settings.trainer == "semi" else train_student


def check_student(config: Config) -> None:
    """Check the student and its teacher by the config alone, before anything is started.

    Raises:
        StudentError: timm does not have the backbone.
        StartError: the pretrained weights are missing, damaged, or not those of the backbone.
        ConfigError: the teacher is missing or damaged, the MLLM cannot teach, or the aspects belong to other images.
    """
    from fgvr.models.student import build_student
    from fgvr.training.optimisers import has_batch_norm

    settings = config.makd
    if settings.alpha > 0 and settings.aspect_targets == "mllm" and config.aspects.split != settings.split:
        raise ConfigError(
            f"aspects.split = {config.aspects.split}: the student learns on makd.split = {settings.split}, about whose "
            "images no question would be asked; name one split, or set makd.alpha to 0 for no aspects"
        )
    if settings.class_loss == "mixture" and settings.target_temperature is not None:
        raise ConfigError(
            "makd.class_loss = mixture: it asks whether one name is right, so it learns no soft targets; leave "
            "makd.target_temperature away, or set makd.class_loss to ce"
        )
    spec = spec_of(settings, ("a",), ())
    student = build_student(spec)
    if settings.batch_norm == "frozen" and not has_batch_norm(student):
        log.warning("makd.batch_norm = frozen: makd.backbone %s has no batch normalisation", settings.backbone)
    check_weights(settings, spec)
    find_teacher(settings)  # reads it completely
    _check_rate(settings)


def _check_rate(settings: Makd) -> None:
    """Warn, without stopping, that a rate that suits the student alone may be too high with a teacher, or for AdamW."""
    if settings.optimizer == "adamw" and settings.lr >= ADAMW_HIGH_RATE:
        log.warning(
            "makd.lr = %g with makd.optimizer = adamw: that is a rate of SGD; AdamW takes 1e-4 to 2e-3, try --makd.lr "
            "1e-3 (docs/pretrained.md)",
            settings.lr,
        )
    taught = settings.distillation
    if not isinstance(taught, NoDistillation) and taught.temperature > 1 and settings.lr > HIGH_RATE:
        log.warning(
            "makd.lr = %g may be too high with makd.distillation.kind = %s, whose loss is %g times (T²) as large, "
            "which cost students accuracy in measurements; try --makd.lr 0.05 (docs/distillation.md)",
            settings.lr,
            taught.kind,
            taught.temperature**2,
        )


def student_tables(run: Run, settings: Makd) -> Iterator[str]:
    """The input tables of a student, in the order of its fingerprint."""
    yield "samples"
    if learns_names(run.config, run.photos):
        yield "pool"
    if asks_mllm(settings):
        yield "class_scores"
    if settings.alpha > 0:
        yield "questions"
        if settings.aspect_targets == "mllm":
            yield "aspects"
    if settings.signature_weight > 0:
        yield "signatures"
    if sees_pictures(run.config):
        yield "synthetic"


def student_task(run: Run, settings: Makd) -> StudentTask:
    """What a student learns, according to its input tables.

    Raises:
        ConfigError: the split has no images, the teacher does not exist, or it has other classes.
    """
    rows, student = learned_rows(run), find_teacher(settings)
    if settings.distillation.kind != "none":
        check_classes(student, class_names(run))
    teacher: Teacher | None = MllmTeacher(run.table("class_scores")) if asks_mllm(settings) else student
    sampled = rows.num_rows < run.table("samples").extra["splits"][settings.split]
    config, photos = run.config, run.photos
    most = config.aspects.max_images
    asked = scope(config, photos) == "asked" or most is None or most >= rows.num_rows
    shown = decided_by_pictures(config)
    return StudentTask(settings, rows, learns_names(config, photos), sampled, asked, teacher, shown)


@per_run
def class_names(run: Run) -> tuple[str, ...]:
    """The students' classes: the true ones, or the names of the method that names the images."""
    from fgvr.training.assemble import true_classes
    from fgvr.training.targets import true_targets

    if learns_names(run.config, run.photos):
        return tuple(named_classes(run).labels)
    return true_targets(true_classes(learned_rows(run))).labels


def assembled(run: Run, task: StudentTask) -> TrainingSet:
    """The student's training set, with the answers to all questions."""
    from fgvr.training.assemble import HeldOut, assemble, class_mean_answers, pool_targets, true_classes
    from fgvr.training.examples import AspectAnswers
    from fgvr.training.targets import true_targets

    image_ids = task.rows["image_id"].to_numpy()
    p_yes = AspectAnswers(len(image_ids), np.zeros(0, np.int64), np.zeros((0, 0), np.float32))
    if task.with_aspects:
        p_yes = _p_yes(run, task.settings, image_ids)
    semi = task.settings.trainer == "semi"
    targets = (
        pool_targets(run.table("pool"), class_names(run), trusted=semi)
        if task.named
        else true_targets(true_classes(task.rows))
    )
    if task.named and len(targets.classes) > task.rows.num_rows:  # some photos of the pool are kept for a test
        targets = targets.chosen(np.isin(run.table("pool").read(["image_id"])["image_id"].to_numpy(), image_ids))
    if task.fills_aspects:
        p_yes = class_mean_answers(p_yes, targets.classes, len(targets.labels))
    held = HeldOut(task.settings.validation_share, task.settings.seed, task.settings.fraction)
    samples = run.table("samples")
    return assemble(task.rows, targets, p_yes, held, samples.version, samples=samples, unlabelled=semi)


def student_spec(run: Run, task: StudentTask, training_set: TrainingSet) -> StudentSpec:
    """The student itself; raises ConfigError when it should learn more aspects than there are questions."""
    settings = task.settings
    questions = run.table("questions").read(["text"])["text"].to_pylist() if task.with_aspects else []
    if settings.questions is not None and settings.questions > len(questions) > 0:
        raise ConfigError(f"makd.questions = {settings.questions}: only {len(questions)} questions were asked")
    spec = spec_of(settings, training_set.targets.labels, tuple(questions[: settings.questions]))
    return replace(spec, choices=_choices(run)) if settings.signature_weight > 0 else spec


def _choices(run: Run) -> tuple[ChoiceQuestion, ...]:
    """The multiple-choice questions that were asked."""
    from fgvr.mllm.choices import ChoiceQuestion

    return tuple(map(ChoiceQuestion.of, run.table("signatures").extra["choices"]))


def signatures_of(run: Run, task: StudentTask) -> Floats | None:
    """The signatures of the student's classes, float32 [C, K], nan without one; None where it learns none.

    Raises:
        ConfigError: the model failed on all classes.
    """
    from fgvr.mllm.signature_worker import signature_matrix

    if task.settings.signature_weight == 0:
        return None
    table = run.table("signatures")
    if table.failed == table.rows:
        raise ConfigError(
            "makd.signature_weight: the language model failed on all classes, so that there is no signature to learn "
            f"(table {table.uri}, column error); take another model (signatures.llm), or set it to 0"
        )
    return signature_matrix(table.read(["class_id", "probabilities"]))


def spec_of(settings: Makd, labels: tuple[str, ...], questions: tuple[str, ...]) -> StudentSpec:
    """The configured student with these outputs.

    Raises:
        StudentError: timm does not have the backbone.
        StartError: there are no such pretrained weights.
    """
    from fgvr.models.student import StudentSpec, timm_preprocess

    start = find_weights(settings)
    stated = (None, None) if start is None else (start.mean, start.std)
    preprocess = timm_preprocess(settings.backbone, settings.image_size, settings.resize, *stated)
    return StudentSpec(settings.backbone, labels, questions, preprocess, settings.backbone_args)


def _p_yes(run: Run, settings: Makd, image_ids: Ids) -> AspectAnswers:
    from fgvr.training.assemble import RandomAnswers, answers_of

    if settings.aspect_targets == "random":
        return RandomAnswers(image_ids, run.table("questions").rows, settings.seed).answers()
    return answers_of(image_ids, run.table("aspects"), run.table("questions").rows)
