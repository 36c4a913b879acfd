"""Object detection with MaKD's aspect head."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fgvr.config.base import RUNTIME_ONLY, Part, TrainWorkers, Workers
from fgvr.config.tree import Tuned


class Detector(Part):
    """The detector: torchvision's Faster R-CNN over a feature pyramid of a timm backbone."""

    backbone: str = "resnet18"
    """Name of a timm model with feature maps (paper: mobilenetv2_100, resnet18, resnet50)."""
    image_size: int = Field(default=800, ge=32)
    """Shorter side that images are resized to, in pixels."""
    max_size: int = Field(default=1333, ge=32)
    """Upper limit of the longer side, in pixels; the shorter one then stays below `image_size`."""
    anchors: tuple[int, ...] = Field(default=(32, 64, 128, 256, 512), min_length=1)
    """Side of the anchors of each pyramid level, in pixels: one per feature map of the backbone, and one more."""
    channels: int = Field(default=256, ge=8)
    """Channels of the feature pyramid."""
    head_width: int = Field(default=1024, ge=8)
    """Width of the layers that classify proposals."""
    proposals: int = Field(default=1000, ge=1)
    """Proposals classified per image; in training, twice as many per level enter non-maximum suppression."""
    sampled_boxes: int = Field(default=512, ge=1)
    """Proposals per image on which the classification loss is computed."""
    freeze_norm: bool = False
    """Keep the batch normalisation of the backbone fixed: for `detect.pretrained` with few images per worker."""


class Detect(Part):
    """detect: an object detector, with MaKD's aspect loss on its backbone; not part of the whole job."""

    model: Detector = Detector()
    """The network."""
    pretrained: Tuned[bool] = False
    """Start the backbone from timm's ImageNet weights (downloaded from the hub) instead of random ones."""
    split: str = "train"
    """Split to train on."""
    test_split: str = "test"
    """Split whose objects are detected and scored."""
    alpha: float = Field(default=4, ge=0)
    """Weight of the aspect loss; 0: without aspects."""
    aspects: Literal["mllm", "truth"] = "mllm"
    """Source of p(yes) of whole images: the MLLM (stage aspects), or the truth of the drawn scenes."""
    questions: int | None = Field(default=None, ge=1)
    """Q, the number of aspects learned: the best ranked questions (paper: 50); null: all."""
    epochs: Tuned[int] = Field(default=12, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(default=8, ge=1)
    """Images per step, over all workers."""
    lr: float = Field(default=0.01, gt=0)
    """Peak learning rate of SGD."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay of SGD."""
    schedule: Literal["milestones", "cosine"] = "milestones"
    """Learning rate schedule: `milestones` divides the rate by ten after each of them; `cosine` lowers it to zero."""
    milestones: tuple[int, ...] = (8, 11)
    """Epochs after which the learning rate is divided by ten (schedule `milestones`)."""
    warmup_epochs: float = Field(default=0.1, ge=0)
    """Epochs of linear warm-up of the learning rate; fractions are allowed."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradients, which are scaled down to it; null: no clipping."""
    checkpoint_epochs: Annotated[int, RUNTIME_ONLY] = Field(default=1, ge=1)
    """Epochs between checkpoints: the most that is lost when a worker dies."""
    score_threshold: float = Field(default=0.05, ge=0, lt=1)
    """Lowest score of a detection; those below it are dropped."""
    max_detections: int = Field(default=100, ge=1)
    """Detections kept per image (COCO's metrics: 100)."""
    batch_images: Annotated[int, RUNTIME_ONLY] = Field(default=8, ge=1)
    """Images per forward pass of detection. Lower it when memory runs out."""
    seed: int = Field(default=0, ge=0)
    """Random seed of weights, order and flips."""
    workers: Annotated[TrainWorkers, RUNTIME_ONLY] = TrainWorkers()
    infer_workers: Annotated[Workers, RUNTIME_ONLY] = Workers(rows_per_part=256)
    """Workers that run the trained detector."""
