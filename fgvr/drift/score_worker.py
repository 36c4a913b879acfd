"""Scores of new photos, part by part: the PartWorker of the stage `drift_scores`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fgvr import schemas, storage
from fgvr.arrays import Doubles, Ids
from fgvr.clip.vectors import read_vectors
from fgvr.drift.reference import Reference
from fgvr.drift.scores import fit, unsureness
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table


class ScoreWorker:
    """See fgvr.part_worker.PartWorker.

    Args:
        reference: URI of the reference's file.
        embeddings: folder of the table of the photos' vectors.
        predictions: folder of the table of their predictions.
        threads: number of cores that may be used.
    """

    def __init__(self, reference: str, embeddings: str, predictions: str, threads: int = 1) -> None:
        self.reference = Reference.from_bytes(storage.read_bytes(reference), reference)
        self.learned = self.reference.learned(threads)
        self.embeddings, self.predictions = Table.load(embeddings), Table.load(predictions)

    def process(self, rows: pa.Table) -> pa.Table:
        """Scores for rows with `image_id`; a photo without a vector becomes a row with `error`."""
        ids = rows["image_id"].to_numpy()
        vectors, found = read_vectors(self.embeddings, ids)
        distance = self.learned.distances(np.where(found[:, None], vectors, np.nan), self.reference.k)
        doubt, labels = doubts(self.predictions, ids, energy=self.reference.has_energy)
        missing = Failure(Reason.NO_INPUT, "the photo has no vector; the embeddings table says why").as_row()
        columns: dict[str, Any] = {
            "image_id": ids,
            "distance": _known(distance),
            "doubt": _known(doubt),
            "label": pa.array(labels, pa.string()),
            "fit": _known(fit(distance, self.reference.distance)),
            "error": pa.array([missing if np.isnan(one) else None for one in distance], schemas.ERROR.type),
        }
        return pa.table(columns, schema=schemas.DRIFT_SCORES)


def doubts(predictions: Table, ids: Ids, *, energy: bool) -> tuple[Doubles, npt.NDArray[Any]]:
    """How unsure the model is of the photos `ids`, int64 [n]: float64 [n], NaN without a prediction; and their names.

    Args:
        predictions: table with the column `energy` where `energy` is true.
        ids: ascending.
        energy: whether it is the energy of the logits; else −log of the highest probability.
    """
    doubt, labels = np.full(len(ids), np.nan), np.full(len(ids), None, object)
    wanted = ["image_id", "label", "energy" if energy else "top_scores"]
    for rows in predictions.batches_of(ids, wanted):
        good = rows.filter(rows["label"].is_valid())
        places = np.searchsorted(ids, good["image_id"].to_numpy())
        labels[places] = good["label"].to_pylist()
        if energy:
            doubt[places] = good["energy"].to_numpy()
        else:
            doubt[places] = unsureness(np.array([one[0] for one in good["top_scores"].to_pylist()], np.float64))
    return doubt, labels


def _known(values: Doubles) -> pa.Array:
    """A column with null for NaN."""
    return pa.array(values, pa.float64(), from_pandas=True)
