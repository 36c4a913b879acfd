"""What a student is to learn, and from which tables: shared by the stage makd and its sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fgvr import storage
from fgvr.clip.classifier import load_classes
from fgvr.config import ConfigError, Makd
from fgvr.students.architecture import StudentSpec, timm_preprocess
from fgvr.tables import Table
from fgvr.training.assemble import HeldOut, TrainingSet, assemble, near_labels, p_yes_of, split_rows, true_classes
from fgvr.training.targets import ClassTargets, near_targets, true_targets, wants_near
from pipelines.flow import Flow


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
        known = ", ".join(sorted(flow.samples.extra["splits"]))
        raise ConfigError(f"makd.split = {settings.split}: no image is in this split (there are: {known})")
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
    held = HeldOut(task.settings.validation_share, task.settings.seed, task.settings.fraction)
    return assemble(task.rows, targets, p_yes, held, flow.samples.version)


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


def _near_targets(flow: Flow, image_ids: np.ndarray[Any, np.dtype[np.int64]]) -> ClassTargets:
    classes = load_classes(storage.fetch_folder(flow.near.path("model")))
    return near_targets(near_labels(image_ids, flow.near.read(), flow.embeddings, classes))
