"""Predictions of CLIP classifiers from precomputed vectors: no image is read again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr import schemas
from fgvr.clip.vectors import read_vectors
from fgvr.models.base import Outputs
from fgvr.models.infer import Row, prediction_rows
from fgvr.models.near import ClassFeatures
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table

RULES = 1
"""Increase it when the same vectors would give other predictions; also when class vectors are made differently."""
IMAGES_AT_ONCE = 4096
SCORES_AT_ONCE = 2**26
"""Limit of 256 MB of scores: for a vocabulary of 100,000 names, few images are processed at a time."""


def predictions_from_features(
    embeddings: Table, ids: npt.NDArray[np.int64], classes: ClassFeatures, abstain_below: float = 0.0
) -> pa.Table:
    """Rows of the predictions table for `ids`, in order; images without a vector become rows with an error.

    Args:
        embeddings: the embeddings table of the CLIP that the classes belong to.
        ids: int64 [n].
        classes: the text side of the classifier.
        abstain_below: as in infer.
    """
    vectors, found = read_vectors(embeddings, ids)
    missing = no_vector().as_row()
    parts = []
    at_once = min(IMAGES_AT_ONCE, max(1, SCORES_AT_ONCE // max(1, len(classes.labels))))
    for start in range(0, len(ids), at_once):
        here = slice(start, start + at_once)
        scores = classes.scores(vectors[here])
        rows: list[Row] = prediction_rows(ids[here].tolist(), Outputs(scores), classes.labels, abstain_below)
        for place in np.flatnonzero(~found[here]):
            rows[place] = {"image_id": int(ids[here][place]), "error": missing}
        parts.append(pa.Table.from_pylist(rows, schema=schemas.PREDICTIONS))
    return pa.concat_tables([schemas.PREDICTIONS.empty_table(), *parts])


def no_vector() -> Failure:
    """Why an image has no prediction: its row of the embeddings table is missing or failed."""
    return Failure(Reason.NO_INPUT, "the image has no CLIP vector; the embeddings table says why")
