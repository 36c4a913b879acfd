"""The compared methods: each gives a table with one predicted name for each of the same images.

A further method is a name in `evaluate.methods` and a branch in `predict`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr import storage
from fgvr.clip.classifier import ClassFeatures, load_classes, zero_shot_classes
from fgvr.clip.from_features import predictions_from_features
from fgvr.clip.model import load_clip
from fgvr.clip.source import find_clip
from fgvr.config.run import Method
from fgvr.mllm.label_space import LabelSpace
from fgvr.report.results import EVALUATION
from fgvr.tables import Table
from pipelines import infer, label
from pipelines.flow import Flow

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _ClipClasses:
    """The text side of a CLIP classifier: how to load it, the table it comes from, and what else decides it."""

    load: Callable[[], ClassFeatures]
    made_of: Table
    decides: dict[str, Any] = field(default_factory=dict)


def predict(context: RunContext, flow: Flow, method: Method, ids: Ids) -> Table:
    """Predictions of one method for the images `ids` (ascending); the table is a stage of its own.

    Rows have the columns image_id, label, error at least; `label` is null where the method failed on an image.
    """
    name = f"{EVALUATION}{method}"
    match method:
        case "mllm":
            if np.isin(ids, flow.labels.read(["image_id"])["image_id"].to_numpy()).all():
                return flow.labels  # discovery images: they have been named
            return label.name_images(context, flow.samples, ids, flow.labels, name=name)
        case "zs_clip":
            clip = context.config.clip
            decides = {"clip": find_clip(clip).identity(), "template": clip.template}
            zero_shot = _ClipClasses(lambda: _zero_shot(context, flow), flow.labels, decides)
            return _from_features(context, flow, name, ids, zero_shot)
        case "near":
            return _from_features(context, flow, name, ids, _ClipClasses(lambda: _near(flow), flow.near))
        case "base" | "makd":
            trained = flow.base if method == "base" else flow.makd
            return infer.classify(context, name, flow.samples, ids, trained=trained)


def _from_features(context: RunContext, flow: Flow, name: str, ids: Ids, clip_classes: _ClipClasses) -> Table:
    """CLIP classifiers need no image again: the vectors of the embed stage are there."""
    threshold = context.config.infer.abstain_below

    def compute(folder: StageFolder) -> StageSummary:
        return folder.write_table(predictions_from_features(flow.embeddings, ids, clip_classes.load(), threshold))

    decides = {**clip_classes.decides, "ids": hashlib.sha256(ids.tobytes()).hexdigest(), "abstain_below": threshold}
    return context.stage(name, decides=decides, inputs=[flow.embeddings, clip_classes.made_of], compute=compute)


def _zero_shot(context: RunContext, flow: Flow) -> ClassFeatures:
    space = LabelSpace.from_json(storage.read_bytes(flow.labels.path("label_space.json")))
    return zero_shot_classes(load_clip(context.config.clip), space.labels, context.config.clip.template)


def _near(flow: Flow) -> ClassFeatures:
    return load_classes(storage.fetch_folder(flow.near.path("model")))
