"""zs_wordnet: CLIP picks among all nouns of WordNet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fgvr.config import Config
from pipelines.embed import vectors_at
from pipelines.methods.clip_classes import ClassesStage, TextStage
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from fgvr.models.near import ClassFeatures


class Nouns(TextStage):
    """The nouns, in the template of zero-shot classification."""

    table = "wordnet"

    def texts(self, config: Config) -> Sequence[str]:
        """All nouns of WordNet's file; raises BaselineError without it."""
        from fgvr.baselines.vocabularies import read_nouns

        return read_nouns(config.baselines.wordnet.path)

    def template(self, config: Config) -> str:
        """The template of CLIP."""
        return config.clip.template


class WordNet(ClassesStage):
    """Names chosen among the nouns."""

    table = "eval_zs_wordnet"

    def made_of(self, run: Run) -> Iterable[str]:
        """The vectors of the nouns."""
        return ("wordnet",)

    def classes(self, run: Run) -> ClassFeatures:
        """Every noun."""
        import numpy as np

        from fgvr.clip.model import load_clip
        from fgvr.clip.vectors import read_texts
        from fgvr.models.near import ClassFeatures

        nouns, vectors = read_texts(run.table("wordnet"))
        return ClassFeatures(tuple(nouns), vectors.astype(np.float32), load_clip(vectors_at(run.config)).logit_scale)
