"""Distillation of class logits into a student: from whom, by which loss, and how much of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fgvr.config.base import Part

MLLM_TEACHER = "mllm"


class NoDistillation(Part):
    """No teacher: class targets alone."""

    kind: Literal["none"] = "none"


class _Taught(Part):
    kind: Literal["kd", "dkd"]  # first, since --help lists a kind's fields below it
    teacher: str = Field(min_length=1)
    """Folder of an earlier student with the same classes, local or s3:// (a table of makd or base, or the `model`
    folder in it); or `mllm`: the MLLM's log-likelihoods of the class names (class_scores), which servers do not
    provide."""
    temperature: float = Field(default=4, gt=0)
    """T, by which the logits of teacher and student are divided (ImageNet-style: 1; standardised logits: 2)."""
    standardise: bool = False
    """Standardise the logits of teacher and student, per image, to mean 0 and standard deviation 1 (its paper:
    temperature 2, weight 9)."""


class Kd(_Taught):
    """class_weight · CE + weight · T² · KL(teacher, student): knowledge distillation."""

    kind: Literal["kd"] = "kd"
    class_weight: float = Field(default=0.1, ge=0)
    """Weight of the cross entropy with the class targets (ImageNet-style: 0.5)."""
    weight: float = Field(default=0.9, gt=0)
    """Weight of the distillation loss (ImageNet-style: 0.5)."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs over which `weight` rises linearly from 0."""


class Dkd(_Taught):
    """class_weight · CE + weight · (alpha · TCKD + beta · NCKD): decoupled knowledge distillation."""

    kind: Literal["dkd"] = "dkd"
    class_weight: float = Field(default=1, ge=0)
    """Weight of the cross entropy with the class targets."""
    weight: float = Field(default=1, gt=0)
    """Weight of the distillation loss."""
    alpha: float = Field(default=1, ge=0)
    """Weight of the image's own class against all others (TCKD)."""
    beta: float = Field(default=8, ge=0)
    """Weight of the distribution among the other classes (NCKD)."""
    warmup_epochs: int = Field(default=20, ge=0)
    """Epochs over which `weight` rises linearly from 0."""


Distillation = Annotated[NoDistillation | Kd | Dkd, Field(discriminator="kind")]
