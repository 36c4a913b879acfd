"""zs_wordnet: CLIP picks among all nouns of WordNet."""

from __future__ import annotations

import numpy as np

from cluster.stage import RunContext
from fgvr.baselines.wordnet import read_nouns
from fgvr.clip.classifier import ClassFeatures
from fgvr.clip.model import load_clip
from fgvr.clip.text_table import read_texts
from pipelines.methods.clip_classes import ClipClasses, text_vectors


def classes(context: RunContext) -> ClipClasses:
    """The nouns in the template of zero-shot classification; raises BaselineError without WordNet's file."""
    config = context.config
    table = text_vectors(context, "wordnet", read_nouns(config.baselines.wordnet.path), config.clip.template)

    def load() -> ClassFeatures:
        nouns, vectors = read_texts(table)
        return ClassFeatures(tuple(nouns), vectors.astype(np.float32), load_clip(config.clip).logit_scale)

    return ClipClasses(load, [table])
