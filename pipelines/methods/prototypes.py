"""prototypes, also the classifier of finer and findr: voted names as mixtures of text and image vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fgvr.config import Config
from pipelines.embed import AugmentedStage, Drawn, vectors_at
from pipelines.label import labelled_ids
from pipelines.methods.clip_classes import ClassesStage
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from fgvr.arrays import Ids
    from fgvr.models.near import ClassFeatures


class PrototypeViews(AugmentedStage):
    """Augmented views of each image that votes."""

    table = "prototype_views"

    def consults(self, run: Run) -> Iterable[str]:
        """The labels, which decide the images."""
        return ("labels",)

    def which(self, run: Run) -> Ids:
        """The discovery set."""
        return labelled_ids(run)

    def drawn(self, config: Config) -> Drawn:
        """As the method's own settings say."""
        asked = config.baselines.prototypes
        return Drawn(asked.views, asked.seed, asked.min_crop)


class Prototypes(ClassesStage):
    """Prototypes of the names in the MLLM's label space, for which the discovery images vote.

    Attributes:
        named_by: the table that proposes names, with one row per discovery image.
    """

    table = "eval_prototypes"
    named_by = "labels"

    def made_of(self, run: Run) -> Iterable[str]:
        """The proposed names, and the views of the images that vote."""
        views = ("prototype_views",) if run.config.baselines.prototypes.views else ()
        return (self.named_by, *views)

    def decided_by(self, run: Run) -> dict[str, Any]:
        """How text and image vectors are mixed."""
        config = run.config.baselines.prototypes
        return {"text_weight": config.text_weight, "template": config.template}

    def classes(self, run: Run) -> ClassFeatures:
        """Per name, a mixture of its text vector and the vectors of the images that voted for it."""
        import numpy as np

        from fgvr.baselines.finer_findr import prototypes
        from fgvr.clip.model import load_clip
        from fgvr.clip.vectors import read_vectors
        from fgvr.models.near import zero_shot_classes
        from fgvr.names.label_space import read_label_space

        config, ids = run.config.baselines.prototypes, labelled_ids(run)
        names = read_label_space(run.table(self.named_by)).labels
        plain, good = read_vectors(run.table("embeddings"), ids)
        views = [plain[:, None]]
        if config.views:
            vectors, found = read_vectors(run.table("prototype_views"), ids)
            views.append(vectors.reshape(len(ids), config.views, -1))
            good &= found
        images = np.concatenate(views, axis=1)[good].astype(np.float32)
        texts = zero_shot_classes(load_clip(vectors_at(run.config)), names, config.template)
        return prototypes(texts, images, config.text_weight)
