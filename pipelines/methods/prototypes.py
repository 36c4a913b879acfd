"""prototypes, and the classifier of finer and findr: voted names as vectors of text and images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.stage import RunContext
from fgvr.baselines.prototypes import prototypes
from fgvr.clip.classifier import ClassFeatures, zero_shot_classes
from fgvr.clip.model import load_clip
from fgvr.clip.source import pinned
from fgvr.embeddings import read_vectors
from fgvr.mllm.label_space import read_label_space
from fgvr.tables import Table
from pipelines import embed
from pipelines.embed import Views
from pipelines.flow import Flow
from pipelines.methods.clip_classes import ClipClasses, Ids


def of_mllm_names(context: RunContext, flow: Flow) -> ClipClasses:
    """Prototypes of the MLLM's label space."""
    return of_names(context, flow, read_label_space(flow.labels).labels, flow.labels)


def of_names(context: RunContext, flow: Flow, names: Sequence[str], named_by: Table) -> ClipClasses:
    """Prototypes of names for which the discovery images vote.

    Args:
        context: the run.
        flow: its tables.
        names: proposed names.
        named_by: the table that they come from, with a row for each discovery image.
    """
    config, clip_of_vectors = context.config.baselines.prototypes, pinned(context.config.clip)
    ids: Ids = np.sort(named_by.read(["image_id"])["image_id"].to_numpy())
    made_of = [named_by]
    if config.views:
        drawn = Views(config.views, config.seed, config.min_crop)
        made_of.append(embed.augmented(context, "prototype_views", flow.samples, ids, drawn))

    def load() -> ClassFeatures:
        clip = load_clip(clip_of_vectors)
        plain, good = read_vectors(flow.embeddings, ids)
        views = [plain[:, None]]
        for table in made_of[1:]:
            vectors, found = read_vectors(table, ids)
            views.append(vectors.reshape(len(ids), config.views, -1))
            good &= found
        images = np.concatenate(views, axis=1)[good].astype(np.float32)
        return prototypes(zero_shot_classes(clip, names, config.template), images, config.text_weight)

    return ClipClasses(load, made_of, {"text_weight": config.text_weight, "template": config.template})
