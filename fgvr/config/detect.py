"""Object detection with MaKD's aspect head."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fgvr.config.base import RUNTIME_ONLY, Part, TrainWorkers, Workers


class Detector(Part):
    """The detector: torchvision's Faster R-CNN over a feature pyramid of a timm backbone."""

    backbone: str = "resnet18"
    """Any timm model with feature maps (paper: mobilenetv2_100, resnet18, resnet50)."""
    image_size: int = Field(default=800, ge=32)
    """Images are resized to this shorter side, pixels."""
    max_size: int = Field(default=1333, ge=32)
    """Longer side at most, pixels; the shorter one then stays below `image_size`."""
    anchors: tuple[int, ...] = Field(default=(32, 64, 128, 256, 512), min_length=1)
    """Side of the anchors of each pyramid level, pixels: one a feature map of the backbone, and one more."""
    channels: int = Field(default=256, ge=8)
    """Channels of the pyramid."""
    head_width: int = Field(default=1024, ge=8)
    """Width of the head that classifies proposals."""
    proposals: int = Field(default=1000, ge=1)
    """Proposals an image that are classified; twice as many a level enter their suppression in training."""
    sampled_boxes: int = Field(default=512, ge=1)
    """Proposals an image that the classifier's loss is computed on."""
    freeze_norm: bool = False
    """Keep the backbone's batch normalisation as it came: with `detect.pretrained` and few images a worker."""


class Detect(Part):
    """detect: an object detector, with MaKD's aspect loss on its backbone; not a part of the whole job."""

    model: Detector = Detector()
    """The network."""
    pretrained: bool = False
    """Start the backbone from timm's ImageNet weights (fetched from the hub) instead of at random."""
    split: str = "train"
    """Images trained on."""
    test_split: str = "test"
    """Images whose objects are detected and scored."""
    alpha: float = Field(default=4, ge=0)
    """Weight of the aspect loss; 0: without aspects."""
    aspects: Literal["mllm", "truth"] = "mllm"
    """p(yes) of whole images: by the MLLM (the stage aspects), or the drawn scenes' truth."""
    questions: int | None = Field(default=None, ge=1)
    """Q, the aspects that are learned, the first by rank (paper: 50); null: all."""
    epochs: int = Field(default=12, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(default=8, ge=1)
    """Images a step, over all workers."""
    lr: float = Field(default=0.01, gt=0)
    """Learning rate of SGD."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of SGD."""
    schedule: Literal["milestones", "cosine"] = "milestones"
    """`milestones`: a tenth of the rate after each; `cosine`: to zero."""
    milestones: tuple[int, ...] = (8, 11)
    """Epochs after which the rate falls."""
    warmup_epochs: float = Field(default=0.1, ge=0)
    """Epochs of linear warm-up."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Gradients are scaled down to this norm; null: never."""
    checkpoint_epochs: Annotated[int, RUNTIME_ONLY] = Field(default=1, ge=1)
    """Epochs from one checkpoint to the next: what is lost at most when a worker dies."""
    score_threshold: float = Field(default=0.05, ge=0, lt=1)
    """Detections with a lower score are left out."""
    max_detections: int = Field(default=100, ge=1)
    """Detections kept an image (COCO's metrics: 100)."""
    batch_images: Annotated[int, RUNTIME_ONLY] = Field(default=8, ge=1)
    """Images in a forward pass of detection."""
    seed: int = Field(default=0, ge=0)
    """Of weights, order and flips."""
    workers: Annotated[TrainWorkers, RUNTIME_ONLY] = TrainWorkers()
    infer_workers: Annotated[Workers, RUNTIME_ONLY] = Workers(rows_per_part=256)
    """Where the trained detector runs."""
