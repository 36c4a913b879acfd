"""cACC: whether images of one class get one name, whatever the name is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ClusterMatch:
    """The best one-to-one matching of predicted names to true names.

    Attributes:
        name_of: predicted name → the matched true name; surplus predicted names are not included.
        hits: bool [N], images whose predicted name is matched to their true name.
    """

    name_of: dict[str, str]
    hits: npt.NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """cACC: 100 · hits / N; 0 without images."""
        return 100 * float(self.hits.mean()) if self.hits.size else 0.0


def match_clusters(
    predicted: Sequence[str], true: Sequence[str], weights: npt.NDArray[np.int64] | None = None
) -> ClusterMatch:
    """Match names so that as many images as possible agree (FineR `utils/metrics.py`; near.md "Evaluation").

    FineR solves the assignment on a dense D × D count matrix, D = max(#predicted, #true names): every surplus name is
    matched to an empty column and its images are errors. The same optimum is found here on the sparse counts, each
    predicted name having a column of its own that is worth nothing, so that 100,000 names fit in memory.
    Names are compared as exact strings. Empty predictions match nothing.
    """
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} true names: they must be of the same images")
    counts: Counter[tuple[str, str]] = Counter()
    for guess, truth, images in zip(predicted, true, repeat(1) if weights is None else weights.tolist(), strict=False):
        if guess:
            counts[guess, truth] += images
    if not counts:
        return ClusterMatch({}, np.zeros(len(predicted), dtype=bool))
    guesses = sorted({guess for guess, _ in counts})
    truths = sorted({truth for _, truth in counts})
    guess_row = {name: row for row, name in enumerate(guesses)}
    truth_column = {name: column for column, name in enumerate(truths)}
    own = np.arange(len(guesses))
    rows = np.concatenate([[guess_row[guess] for guess, _ in counts], own])
    columns = np.concatenate([[truth_column[truth] for _, truth in counts], len(truths) + own])
    # One is added everywhere, since an explicit zero is not an edge; every row uses one edge, so the optimum is the
    # same.
    weights = np.concatenate([np.fromiter(counts.values(), float), np.zeros(len(guesses))]) + 1
    # Imported here, since reports are also read where nothing is scored, and importing scipy.sparse takes as long as
    # all else.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    graph = coo_array((weights, (rows, columns)), shape=(len(guesses), len(truths) + len(guesses))).tocsr()
    matched_rows, matched_columns = min_weight_full_bipartite_matching(graph, maximize=True)
    name_of = {
        guesses[row]: truths[column]
        for row, column in zip(matched_rows, matched_columns, strict=True)
        if column < len(truths)
    }
    hits = [bool(guess) and name_of.get(guess) == truth for guess, truth in zip(predicted, true, strict=True)]
    return ClusterMatch(name_of, np.array(hits, dtype=bool))
