"""label_prototypes, heads: classifiers of stored vectors name the images; no image is read again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fgvr import storage
from fgvr.config import Config
from pipelines.compared import compared_images
from pipelines.heads import propagates
from pipelines.infer import check_costs, costs_at
from pipelines.methods.clip_classes import ClassesStage
from pipelines.run_tables import Run
from pipelines.train_stage import MODEL_FOLDER

if TYPE_CHECKING:
    from cluster.stage import StageFolder, StageSummary
    from fgvr.models.from_features import VectorClassifier


class EvalHeads(ClassesStage):
    """Names by the trained head.

    Attributes:
        made_by: the table beside which the model lies.
    """

    table = "eval_heads"
    made_by = "heads"

    def check(self, config: Config) -> None:
        """Heads need no texts; their costs must be readable."""
        check_costs(config)

    def made_of(self, run: Run) -> Iterable[str]:
        """The table with the model."""
        return (self.made_by,)

    def classes(self, run: Run) -> VectorClassifier:
        """The model without its encoder."""
        from fgvr.models.head import load_vector_classes

        return load_vector_classes(storage.fetch_folder(run.table(self.made_by).path(MODEL_FOLDER)))


class EvalPrototypes(EvalHeads):
    """Names by prototypes of the labels, with label propagation where there are few answers per name."""

    table = "eval_label_prototypes"
    made_by = "label_prototypes"

    def made_of(self, run: Run) -> Iterable[str]:
        """The prototypes, and the propagated names where these count."""
        yield self.made_by
        if propagates(run):
            yield "propagated"

    def compute(self, run: Run, folder: StageFolder) -> StageSummary:
        """The propagated names of the images, or those of their stored vectors."""
        if not propagates(run):
            return super().compute(run, folder)
        import numpy as np
        import pyarrow as pa

        from fgvr.models.from_features import no_vector
        from fgvr.models.infer import predictions_schema

        ids = compared_images(run).predicted
        found = run.table("propagated").find(ids)
        lacking = np.setdiff1d(ids, found["image_id"].to_numpy())
        failed = [{"image_id": int(image), "error": no_vector().as_row()} for image in lacking]
        schema = predictions_schema(costs_at(run))
        both = pa.concat_tables([found.cast(schema), pa.Table.from_pylist(failed, schema=schema)])
        return folder.write_table(both.sort_by("image_id"))
