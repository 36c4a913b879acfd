"""The compared methods: each gives a table with one predicted name for each of the same images.

A further method is a name in `evaluate.methods`, a branch here, a title in `fgvr.report.methods` and the stages that it
pays for in `fgvr.report.costs`. docs/methods.md says where each comes from.
"""

from __future__ import annotations

import numpy as np

from cluster.stage import RunContext
from fgvr.config.run import Method
from fgvr.report.results import EVALUATION
from fgvr.tables import Table
from pipelines import infer, label
from pipelines.flow import Flow
from pipelines.methods import cased, clip_classes, findr, finer, prototypes, wordnet
from pipelines.methods.clip_classes import ClipClasses, Ids, from_features


def predict(context: RunContext, flow: Flow, method: Method, ids: Ids) -> Table:
    """Predictions of one method for the images `ids` (ascending); the table is a stage of its own.

    Rows have the columns image_id, label, error at least; `label` is null where the method failed on an image.
    """
    name = f"{EVALUATION}{method}"
    match method:
        case "mllm":
            return _mllm(context, flow, name, ids)
        case "cased":
            return cased.predict(context, flow, name, ids)
        case "base" | "makd":
            trained = flow.base if method == "base" else flow.makd
            return infer.classify(context, name, flow.samples, ids, trained=trained)
        case _:
            return from_features(context, flow, name, ids, _classes(context, flow, method))


def _mllm(context: RunContext, flow: Flow, name: str, ids: Ids) -> Table:
    if np.isin(ids, flow.labels.read(["image_id"])["image_id"].to_numpy()).all():
        return flow.labels  # discovery images: they have been named
    return label.name_images(context, flow.samples, ids, flow.labels, name=name)


def _classes(context: RunContext, flow: Flow, method: Method) -> ClipClasses:
    """The class vectors of the methods that compare them with the vectors of the embed stage."""
    classes = {
        "zs_clip": lambda: clip_classes.mllm_names(context, flow),
        "zs_wordnet": lambda: wordnet.classes(context),
        "prototypes": lambda: prototypes.of_mllm_names(context, flow),
        "finer": lambda: finer.classes(context, flow),
        "findr": lambda: findr.classes(context, flow),
        "near": lambda: clip_classes.learned(flow),
    }
    return classes[method]()
