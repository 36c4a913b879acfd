"""Predictions of classifiers of vectors from the stored ones: no image is read again.

These are CLIP with class vectors, and heads. A worker of `infer` does the same part by part, and reads only the images
whose vector is not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr.arrays import Floats
from fgvr.clip.vectors import read_vectors
from fgvr.metadata.stored import columns_of, metadata
from fgvr.models.base import Outputs, Texts
from fgvr.models.head import VectorClasses, load_vector_classes, read_head_file
from fgvr.models.infer import InferSettings, InferWorker, Row, costs_of, prediction_rows, predictions_schema
from fgvr.schemas import ENERGY, Failure, Reason
from fgvr.storage import fetch_folder
from fgvr.tables import Table

if TYPE_CHECKING:
    from fgvr.heads.costs import CostFile
    from fgvr.hierarchy.decisions import TreeRule

RULES = 1
"""Increase it when the same vectors would give other predictions; also when class vectors are made differently."""
IMAGES_AT_ONCE = 4096
SCORES_AT_ONCE = 2**26
"""Limit of 256 MB of scores: for a vocabulary of 100,000 names, few images are processed at a time."""


class VectorClassifier(Protocol):
    """A classifier without the encoder of its vectors, such as `ClassFeatures` and `VectorClasses`."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of the C classes, by label id."""
        ...

    def scores(self, image_features: npt.NDArray[Any], /) -> Floats:
        """Softmax probabilities float32 [N, C] of the encoder's vectors [N, d], of any float type."""
        ...


def predictions_from_features(
    embeddings: Table,
    ids: npt.NDArray[np.int64],
    classes: VectorClassifier,
    abstain_below: float = 0.0,
    costs: CostFile | TreeRule | None = None,
    *,
    texts: Texts | None = None,
) -> pa.Table:
    """Rows of the predictions table for `ids`, in order; images without a vector become rows with an error.

    Args:
        embeddings: the table of the encoder that the classes belong to.
        ids: int64 [n].
        classes: the classifier.
        abstain_below: as in infer.
        costs: as in infer.
        texts: the images' metadata, in the order of `ids` (`texts_of`), where the classifier sees columns.

    Raises:
        CostsError, KindsError: the costs are those of other labels.
    """
    decided, schema = costs_of(costs, classes.labels), predictions_schema(costs)
    vectors, found = read_vectors(embeddings, ids)
    missing = no_vector().as_row()
    parts = []
    at_once = min(IMAGES_AT_ONCE, max(1, SCORES_AT_ONCE // max(1, len(classes.labels))))
    for start in range(0, len(ids), at_once):
        here = slice(start, start + at_once)
        scores = scores_of(classes, vectors[here], texts, slice(start, start + at_once))
        outputs = Outputs(scores)
        rows: list[Row] = prediction_rows(ids[here].tolist(), outputs, classes.labels, abstain_below, decided)
        for place in np.flatnonzero(~found[here]):
            rows[place] = {"image_id": int(ids[here][place]), "error": missing}
        parts.append(pa.Table.from_pylist(rows, schema=schema))
    return pa.concat_tables([schema.empty_table(), *parts])


def texts_of(classes: VectorClassifier, samples: Table, ids: npt.NDArray[np.int64]) -> Texts:
    """The metadata of images that a classifier sees beside their vectors; none for most classifiers."""
    columns = classes.columns if isinstance(classes, VectorClasses) else ()
    if not columns:
        return {}
    rows = metadata(samples, ids, columns)
    return {name: rows[name] for name in columns}


def scores_of(classes: VectorClassifier, vectors: npt.NDArray[Any], texts: Texts | None, rows: slice) -> Floats:
    """Probabilities of the images `rows`, whose vectors these are, with their metadata where there is any."""
    if not texts or not isinstance(classes, VectorClasses):
        return classes.scores(vectors)
    mine = {name: column.slice(rows.start, len(vectors)) for name, column in texts.items()}
    return classes.scores_with(vectors, mine)


def no_vector() -> Failure:
    """Why an image has no prediction: its row of the embeddings table is missing or failed."""
    return Failure(Reason.NO_INPUT, "the image has no CLIP vector; the embeddings table says why")


class StoredVectorWorker:
    """The PartWorker of infer for heads: images with a stored vector are classified by it, the others are read.

    Args:
        settings: as in infer; the model is a head.
        embeddings: folder of the table with vectors of the head's encoder.
    """

    def __init__(self, settings: InferSettings, embeddings: str) -> None:
        self.settings, self.embeddings = settings, Table.load(embeddings)
        folder = fetch_folder(settings.model)
        self.classes = load_vector_classes(folder)
        self.has_encoder = read_head_file(folder)["encoder"] is not None
        self._reader: InferWorker | None = None

    def process(self, rows: pa.Table) -> pa.Table:
        """As `InferWorker.process`, in the order of `rows`."""
        ids, settings = rows["image_id"].to_numpy(), self.settings
        texts = columns_of(rows, self.classes.columns)
        decide = (settings.abstain_below, settings.costs)
        found = predictions_from_features(self.embeddings, ids, self.classes, *decide, texts=texts)
        if settings.energy:  # a head's probabilities are not of one softmax
            found = found.append_column(ENERGY, pa.nulls(len(ids), ENERGY.type))
        lacking = found["error"].is_valid()
        if found["error"].null_count == len(ids) or not self.has_encoder:
            return found
        if self._reader is None:
            self._reader = InferWorker(settings)
        read = self._reader.process(rows.filter(lacking))
        both = pa.concat_tables([found.filter(found["error"].is_null()), read])
        return both.take(pa.array(np.argsort(both["image_id"].to_numpy())[np.argsort(np.argsort(ids))]))
