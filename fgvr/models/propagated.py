"""Label propagation over stored vectors, as rows of the predictions table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from fgvr.arrays import NONE, Ids
from fgvr.heads.networks import CosineHead
from fgvr.heads.propagation import NEIGHBOURS, Spread, graph, propagate, propagated_scores
from fgvr.heads.prototypes import Prototypes
from fgvr.models.base import Outputs
from fgvr.models.from_features import IMAGES_AT_ONCE, SCORES_AT_ONCE, no_vector
from fgvr.models.head import VectorClasses
from fgvr.models.infer import Row, costs_of, prediction_rows, predictions_schema
from fgvr.neighbours import nearest
from fgvr.neighbours.discovery import discovery_vectors
from fgvr.tables import Table

if TYPE_CHECKING:
    from fgvr.heads.costs import CostFile
    from fgvr.hierarchy.decisions import TreeRule

log = logging.getLogger(__name__)


def propagated_rows(
    embeddings: Table,
    ids: Ids,
    classes: VectorClasses,
    labelled: Mapping[int, str],
    *,
    abstain_below: float = 0.0,
    costs: CostFile | TreeRule | None = None,
    threads: int = 1,
) -> tuple[pa.Table, dict[str, float]]:
    """A row of the predictions table per photo, in order, and metrics.

    Memory: the vectors as float32, twice, and 20 neighbours and 20 names per photo.

    Args:
        embeddings: the vectors.
        ids: photos of the graph, int64 [N], ascending. Those without a vector get a row with the reason.
        classes: prototypes.
        labelled: image id → own label. Labels of photos that are not in the graph, or that have no prototype, are left
            out.
        abstain_below: as in infer.
        costs: as in infer.
        threads: number of cores that may be used.
    """
    network = classes.members[0]
    if not isinstance(network, CosineHead):
        raise TypeError("labels are propagated beside prototypes, which are a cosine head")
    raw, embedded = discovery_vectors(embeddings, ids)
    raw[~embedded] = 0
    seen = raw.astype(np.float32) if classes.whitening is None else classes.whitening.apply(raw)
    places = np.flatnonzero(seen.any(axis=1))
    z = np.ascontiguousarray(seen[places])
    del raw, seen
    column = {name: place for place, name in enumerate(classes.labels)}
    labels = np.array([column.get(labelled.get(image, ""), NONE) for image in ids[places].tolist()], np.int64)
    found = nearest(z, z, NEIGHBOURS + 1, own=np.arange(len(z)), threads=threads)
    spread = propagate(graph(found.ids, found.scores), labels, len(classes.labels))
    reached = float((spread.mass.sum(axis=1) > 0).mean()) if len(z) else 0.0
    log.info("propagated: labels reach %.1f%% of %s photos", 100 * reached, f"{len(z):,}")
    directions = network.weight.detach().numpy()
    count = np.arange(len(directions))
    made = Prototypes(count, directions, np.ones_like(count), count[:0])
    decided = costs_of(costs, classes.labels)
    rows: list[Row | None] = [None] * len(ids)
    at_once = min(IMAGES_AT_ONCE, max(1, SCORES_AT_ONCE // max(1, len(count))))
    for at in range(0, len(z), at_once):
        here = slice(at, at + at_once)
        part = Spread(spread.label_ids[here], spread.mass[here])
        scores = propagated_scores(z[here], made, part, classes.scale / classes.temperature)
        mine = ids[places[here]].tolist()
        named = prediction_rows(mine, Outputs(scores), list(classes.labels), abstain_below, decided)
        for place, row in zip(places[here].tolist(), named, strict=True):
            rows[place] = row
    missing = no_vector().as_row()
    filled = [{"image_id": int(ids[place]), "error": missing} if row is None else row for place, row in enumerate(rows)]
    return pa.Table.from_pylist(filled, schema=predictions_schema(costs)), {"reached": reached, "recall": found.recall}
