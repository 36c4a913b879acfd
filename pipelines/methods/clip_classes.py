"""Methods that compare the vectors of the embed stage with vectors of classes: no image is read again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.once import run_once
from cluster.settled import settled_precision
from cluster.stage import RunContext, StageFolder, StageSummary, digest_of_ids
from fgvr import storage
from fgvr.clip.classifier import ClassFeatures, load_classes, zero_shot_classes
from fgvr.clip.from_features import RULES, predictions_from_features
from fgvr.clip.model import load_clip
from fgvr.clip.source import find_clip, pinned
from fgvr.clip.text_table import TEXTS_A_PART, write_texts
from fgvr.mllm.label_space import read_label_space
from fgvr.precision import of_workers
from fgvr.tables import Table
from pipelines.flow import Flow

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClipClasses:
    """The text side of a CLIP classifier.

    Attributes:
        load: gives it.
        made_of: tables that it comes from.
        decides: what else decides it.
    """

    load: Callable[[], ClassFeatures]
    made_of: Sequence[Table]
    decides: dict[str, Any] = field(default_factory=dict)


def from_features(context: RunContext, flow: Flow, name: str, ids: Ids, classes: ClipClasses) -> Table:
    """Predictions of a CLIP classifier for the images `ids`."""
    threshold = context.config.infer.abstain_below

    def compute(folder: StageFolder) -> StageSummary:
        return folder.write_table(predictions_from_features(flow.embeddings, ids, classes.load(), threshold))

    decides = {"rules": RULES, **classes.decides, "ids": digest_of_ids(ids), "abstain_below": threshold}
    return context.stage(name, decides=decides, inputs=[flow.embeddings, *classes.made_of], compute=compute)


def mllm_names(context: RunContext, flow: Flow) -> ClipClasses:
    """ZS-CLIP: the names that the MLLM gave, in the configured template."""
    clip = pinned(context.config.clip)

    def load() -> ClassFeatures:
        return zero_shot_classes(load_clip(clip), read_label_space(flow.labels).labels, clip.template)

    return ClipClasses(load, [flow.labels], {"clip": find_clip(clip).identity(), "template": clip.template})


def learned(flow: Flow) -> ClipClasses:
    """NeaR: the prompts that it learned."""
    return ClipClasses(lambda: load_classes(storage.fetch_folder(flow.near.path("model"))), [flow.near])


def text_vectors(context: RunContext, name: str, texts: Sequence[str], template: str) -> Table:
    """CLIP vectors of many texts: the table `name`, found again by its content, computed where the images' are."""
    clip, workers = pinned(context.config.clip), context.config.embed.workers

    def compute(folder: StageFolder) -> StageSummary:
        precision = settled_precision(folder, workers) if workers.num_gpus else None
        parts = run_once(write_texts, clip, list(texts), template, folder.uri, precision, workers=workers)
        return StageSummary(rows=len(texts), parts=parts, rows_per_part=TEXTS_A_PART)

    content = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    decides = {"texts": content, "template": template, "clip": find_clip(clip).identity()}
    decides["precision"] = of_workers(workers)
    return context.stage(name, decides=decides, inputs=[], compute=compute, workers=workers)
