"""Faster R-CNN with a feature pyramid, and MaKD's aspect head on the backbone.

The detector is torchvision's. The aspect head is a linear layer over the mean of the backbone's last feature map; in
training its logits are compared with the MLLM's p(yes) of the whole image (binary cross entropy), and afterwards it is
dropped: a trained detector is a plain Faster R-CNN. The paper says no more about its detection experiment, and its
code for it is not published.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fgvr import hub
from fgvr.config.detect import Detector
from fgvr.detection.coco import Category
from fgvr.detection.operators import provide_operators
from fgvr.errors import UserError
from fgvr.models.base import WEIGHTS_FILE, ModelFolderError, read_file_of_kind, write_model_file

FORMAT = 1
KIND = "detector"
ASPECT_LOGITS = "aspect_logits"


class DetectorError(UserError, ValueError):
    """The detector cannot be built; the message names the config field."""


@dataclass(frozen=True)
class PretrainedWeights:
    """The weights that a backbone starts from: their name on the hub, and the commit that every worker loads."""

    name: str
    commit: str


@dataclass(frozen=True)
class DetectorSpec:
    """What determines a detector.

    Attributes:
        model: sizes and backbone.
        categories: class 0 … C−1 of the outputs; torchvision's label is class + 1, since its 0 is the background.
        questions: aspects of the head used in training; empty: no head.
    """

    model: Detector
    categories: tuple[Category, ...]
    questions: tuple[str, ...] = ()


class Pyramid(nn.Module):
    """Feature maps of a timm backbone at strides 4, 8 …, with a feature pyramid (Lin et al. 2017) on top.

    Attributes:
        levels: number of feature maps; the pyramid has one more, half the size of its coarsest.
        out_channels: channels of each pyramid level.
        top_channels: channels of the backbone's last map.
    """

    def __init__(self, backbone: str, channels: int, weights: PretrainedWeights | None, *, freeze_norm: bool) -> None:
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        super().__init__()
        body = _backbone(backbone, weights)
        self.body = timm.layers.freeze_batch_norm_2d(body) if freeze_norm else body
        info = body.feature_info
        self.maps = [number for number, stride in enumerate(info.reduction()) if stride >= 4]
        widths = [info.channels()[number] for number in self.maps]
        self.fpn = FeaturePyramidNetwork(widths, channels, extra_blocks=LastLevelMaxPool())
        self.levels, self.out_channels, self.top_channels = len(widths), channels, widths[-1]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Levels by name, "0" the finest: float [N, channels, h, w]."""
        return self.with_top(pixels)[0]

    def with_top(self, pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The levels, and the backbone's last map [N, top_channels, h, w]."""
        maps = self.body(pixels)
        chosen = OrderedDict((str(level), maps[number]) for level, number in enumerate(self.maps))
        return self.fpn(chosen), maps[-1]


class AspectDetector(nn.Module):
    """The detector during training.

    Attributes:
        rcnn: torchvision's FasterRCNN: in eval mode it takes a list of images (float [3, H, W] in 0 … 1) and returns
            for each a dict of boxes, labels (class + 1) and scores.
        aspect_head: None if there are no questions.
    """

    def __init__(self, spec: DetectorSpec, weights: PretrainedWeights | None = None) -> None:
        """Random weights; the backbone starts from `weights` if given, which the hub has to give now."""
        super().__init__()
        self.rcnn = _faster_rcnn(spec, weights)
        width = self.rcnn.backbone.top_channels
        self.aspect_head = nn.Linear(width, len(spec.questions)) if spec.questions else None

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The four losses of Faster R-CNN by torchvision's names and, if there are questions, ASPECT_LOGITS [N, Q].

        Args:
            images: float [3, H, W] in 0 … 1, of any sizes.
            targets: for each image boxes float [n, 4], (left, top, right, bottom), and labels int64 [n], class + 1.
        """
        resized, resized_targets = self.rcnn.transform(list(images), list(targets))
        features, top = self.rcnn.backbone.with_top(resized.tensors)
        proposals, losses = self.rcnn.rpn(resized, features, resized_targets)
        _, head_losses = self.rcnn.roi_heads(features, proposals, resized.image_sizes, resized_targets)
        outputs = {**losses, **head_losses}
        if self.aspect_head is not None:
            outputs[ASPECT_LOGITS] = self.aspect_head(top.mean(dim=(2, 3)))
        return outputs


def pretrained_weights(name: str) -> PretrainedWeights:
    """Which pretrained timm weights a backbone starts from, for fingerprints and for the workers.

    A run looks a name up once (`fgvr.hub.names_kept`), so what is published while it works is not seen.

    Raises DetectorError if there are none, or the hub does not give them.
    """
    weights = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if weights is None or not weights.hf_hub_id:
        raise DetectorError(f"detect.pretrained: timm has no weights of {name}; take another backbone, or false")
    try:
        return PretrainedWeights(weights.hf_hub_id, hub.commit_of(weights.hf_hub_id, "config.json"))
    except hub.HubError as error:
        raise DetectorError(f"detect.pretrained: the hub did not give {weights.hf_hub_id}: {error}") from error


def _backbone(name: str, weights: PretrainedWeights | None) -> Any:
    if not timm.is_model(name):
        raise DetectorError(f"detect.model.backbone = {name}: timm has no such model")
    # timm takes name@commit; without the registry's URL it does not look for another copy of the weights, either.
    pinned = {} if weights is None else {"hf_hub_id": f"{weights.name}@{weights.commit}", "url": ""}
    try:
        return timm.create_model(
            name, pretrained=weights is not None, pretrained_cfg_overlay=pinned, features_only=True
        )
    except OSError as error:
        raise DetectorError(f"detect.pretrained: the hub did not give {pinned.get('hf_hub_id')}: {error}") from error
    except (RuntimeError, AttributeError, KeyError) as error:
        raise DetectorError(f"detect.model.backbone = {name}: timm gives no feature maps of it ({error})") from error


def _faster_rcnn(spec: DetectorSpec, weights: PretrainedWeights | None) -> Any:
    provide_operators()
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    sizes = spec.model
    pyramid = Pyramid(sizes.backbone, sizes.channels, weights, freeze_norm=sizes.freeze_norm)
    if len(sizes.anchors) != pyramid.levels + 1:
        raise DetectorError(
            f"detect.model.anchors has {len(sizes.anchors)} sizes: {sizes.backbone} has {pyramid.levels} feature maps, "
            f"so {pyramid.levels + 1} are needed"
        )
    pooling = MultiScaleRoIAlign(
        [str(level) for level in range(pyramid.levels)],
        output_size=7,
        sampling_ratio=2,
        canonical_scale=7 * sizes.anchors[0],  # 224 for anchors from 32, as in the pyramid paper
    )
    return FasterRCNN(
        pyramid,
        min_size=sizes.image_size,
        max_size=sizes.max_size,
        rpn_anchor_generator=AnchorGenerator(
            tuple((side,) for side in sizes.anchors), ((0.5, 1.0, 2.0),) * len(sizes.anchors)
        ),
        rpn_pre_nms_top_n_train=2 * sizes.proposals,
        rpn_pre_nms_top_n_test=sizes.proposals,
        rpn_post_nms_top_n_train=sizes.proposals,
        rpn_post_nms_top_n_test=sizes.proposals,
        box_roi_pool=pooling,
        box_head=TwoMLPHead(sizes.channels * 7 * 7, sizes.head_width),
        box_predictor=FastRCNNPredictor(sizes.head_width, len(spec.categories) + 1),
        box_batch_size_per_image=sizes.sampled_boxes,
    )


def save_detector(folder: Path, spec: DetectorSpec, detector: AspectDetector, facts: dict[str, Any]) -> None:
    """Write a model folder: `model.json` and the weights of torchvision's FasterRCNN, without the aspect head."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.rcnn.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    content = {
        "model": spec.model.model_dump(mode="json"),
        "categories": [asdict(category) for category in spec.categories],
        "learned_questions": spec.questions,
        "facts": facts,
    }
    write_model_file(folder, KIND, FORMAT, content)


def load_detector(folder: Path, device: str | torch.device = "cpu") -> tuple[DetectorSpec, Any]:
    """The spec and torchvision's FasterRCNN in eval mode; raises ModelFolderError for a folder of another kind."""
    content = read_file_of_kind(folder, KIND, FORMAT)
    try:
        categories = tuple(Category(**fields) for fields in content["categories"])
        spec = DetectorSpec(Detector(**content["model"]), categories)
        rcnn = AspectDetector(spec).rcnn
        rcnn.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (KeyError, TypeError, ValueError, SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise ModelFolderError(f"{folder} is damaged: {error!r}") from None
    return spec, rcnn.eval().to(device)
