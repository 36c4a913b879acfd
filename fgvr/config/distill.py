"""Encoder distillation: a small encoder that learns to give another one's vectors."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fgvr.config.base import RUNTIME_ONLY, Part, TrainWorkers
from fgvr.config.tree import Tuned
from fgvr.config.vectors import ClipVectors, TimmVectors

CROP_OF_NETWORK, CROP_OF_VECTORS = 0.08, 0.5
"""Smallest crops: a network sees the same crop as the student, but a stored vector is of the whole photo."""


class StoredTeacher(Part):
    """The vectors of the table `embeddings`, whoever made them: `embed.vectors`, a file included."""

    kind: Literal["embeddings"] = "embeddings"


Teacher = Annotated[StoredTeacher | ClipVectors | TimmVectors, Field(discriminator="kind")]


class Distill(Part):
    """distill: a small encoder that learns another one's vectors, without labels; not part of the whole job."""

    networks: ClassVar[frozenset[str]] = frozenset({"clip", "timm"})

    teacher: Teacher = StoredTeacher()
    """Who is imitated: the vectors of the table `embeddings` (a file's where `embed.vectors.kind` is `file`), or a
    network that sees the same crops: a model of timm (`kind: timm`) or the configured CLIP (`kind: clip`)."""
    backbone: Tuned[str] = "mobilenetv3_small_100"
    """Name of the student's timm model, trained from scratch."""
    backbone_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the timm model, under timm's names (`drop_path_rate` …; Proteus: 0.1)."""
    image_size: Tuned[int] = Field(default=224, ge=16)
    """Side of the student's square input, in pixels: smaller is faster, larger shows finer details."""
    resize: int | None = Field(default=None, ge=16)
    """Shorter side before the centre crop of embed and validation, in pixels; null: `image_size`."""
    split: str = "train"
    """Split to learn from; it cannot be the evaluation split."""
    max_images: int | None = Field(default=None, ge=1)
    """Most images to learn from, drawn at random from those of the split (with a vector, where vectors teach); null:
    all."""
    spatial_weight: float | None = Field(default=None, ge=0)
    """Weight of the loss on feature maps (patches of a vision transformer), which only a network as the teacher has;
    null: 1 with a timm model, 0 with CLIP, as in Proteus."""
    masked_weight: float | None = Field(default=None, ge=0)
    """Weight of the loss on masked patches, for students that are vision transformers; null: as `spatial_weight`."""
    epochs: Tuned[int] = Field(default=100, ge=1)
    """Passes over the training images (Proteus: 300 over ImageNet)."""
    batch_size: int = Field(default=128, ge=2)
    """Images per step, over all workers."""
    lr: Tuned[float] = Field(default=5e-4, gt=0)
    """Peak learning rate of AdamW at 512 images per step: it is multiplied by `batch_size` / 512."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay of AdamW; biases, norms and position embeddings have none."""
    warmup_epochs: float = Field(default=5, ge=0)
    """Epochs of linear warm-up of the learning rate, which then falls to zero as a cosine."""
    ema_epochs: float | None = Field(default=2, gt=0)
    """Half-life, in passes over the images, of an exponential moving average of all weights, which is what is measured
    and saved; null: no average, the weights themselves."""
    min_crop: float | None = Field(default=None, gt=0, le=1)
    """Smallest share of an image's area that a random crop keeps; null: 0.08 where a network sees the same crop, 0.5
    where a vector is of the whole photo."""
    held_out: int = Field(default=1000, ge=0)
    """Images held out to measure cosine and common neighbours after every epoch: at most a tenth of all."""
    checkpoint_epochs: Annotated[int, RUNTIME_ONLY] = Field(default=1, ge=1)
    """Epochs between checkpoints: the most that is lost when a worker dies."""
    cache_gb: Annotated[float, RUNTIME_ONLY] = Field(default=16, gt=0)
    """Disk space for decoded images per machine, in GiB; images beyond it are decoded in every epoch."""
    seed: int = Field(default=0, ge=0)
    """Random seed of weights, sample, held-out images, order, crops and masks."""
    workers: Annotated[TrainWorkers, RUNTIME_ONLY] = TrainWorkers()

    @property
    def by_network(self) -> bool:
        """Whether the teacher is a network, not stored vectors."""
        return self.teacher.kind in self.networks

    @property
    def spatial(self) -> float:
        """`spatial_weight`, with null resolved."""
        if self.spatial_weight is not None:
            return self.spatial_weight
        return 1.0 if self.teacher.kind == "timm" else 0.0

    @property
    def masked(self) -> float:
        """`masked_weight`, with null resolved; it needs a student whose patches can be masked."""
        return self.spatial if self.masked_weight is None else self.masked_weight

    @property
    def smallest_crop(self) -> float:
        """`min_crop`, with null resolved."""
        if self.min_crop is not None:
            return self.min_crop
        return CROP_OF_NETWORK if self.by_network else CROP_OF_VECTORS

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up."""
        return self.lr * self.batch_size / 512

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        """Refuses losses that the teacher cannot give, and a crop that does not fit."""
        for name in ("spatial_weight", "masked_weight"):
            if getattr(self, name) and not self.by_network:
                raise ValueError(
                    f"{name} = {getattr(self, name):g}: stored vectors have no feature maps. Leave it out, or take a "
                    "network as the teacher (teacher.kind timm or clip)"
                )
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(f"resize = {self.resize} is smaller than image_size = {self.image_size}: no crop fits")
        return self
