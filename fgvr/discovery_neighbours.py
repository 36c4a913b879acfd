"""Vectors and nearest labelled images of the discovery images, each photo once."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from fgvr.candidates import NONE, Ids
from fgvr.embeddings import read_vectors
from fgvr.neighbours import Neighbours, Vectors, Wanted, nearest
from fgvr.tables import Table

Flags = npt.NDArray[np.bool_]


def discovery_vectors(embeddings: Table, ids: Ids) -> tuple[npt.NDArray[np.float16], Flags]:
    """As `read_vectors`; a vector that is not finite is none, so such an image is nobody's neighbour."""
    vectors, embedded = read_vectors(embeddings, ids)
    return vectors, embedded & np.isfinite(vectors).all(axis=1)


def labelled_neighbours(
    vectors: Vectors, embedded: Flags, labelled: Flags, k: int, wanted: Wanted | None = None
) -> Neighbours:
    """The k nearest labelled images of each, as row numbers of the discovery set; itself first if it has a label.

    Images with identical vectors are one photo: it counts once in a neighbourhood, with the label of its first labelled
    copy, and an image's own copies are not its neighbours. A photo that was uploaded ten times would else fill the
    neighbourhoods around it with one opinion of the MLLM as if ten had agreed. (Copies that were scaled or compressed
    anew have other vectors and count as photos of their own.)

    Args:
        vectors: L2-normalised, [N, d]; rows of images that are not `embedded` are ignored.
        embedded: bool [N], has a vector.
        labelled: bool [N], has a label.
        k: at least 1.
        wanted: what the search must reach and may cost.

    Returns:
        ids int64 [N, k] and scores float32 [N, k]: `NONE` and −inf for images without a vector and in places for
        which there are too few labelled photos.
    """
    queries = np.flatnonzero(embedded)
    photo = _photos(vectors[queries])
    with_label = np.flatnonzero(labelled[queries])
    database, first = np.unique(photo[with_label], return_index=True)  # photos with a label, and their first such copy
    members = queries[with_label[first]]
    place = np.full(int(photo.max(initial=-1)) + 1, NONE, np.int64)
    place[database] = np.arange(len(database))
    threads = len(os.sched_getaffinity(0))
    found = nearest(vectors[queries], vectors[members], k, own=place[photo], threads=threads, wanted=wanted or Wanted())
    ids, scores = np.full((len(vectors), k), NONE, np.int64), np.full((len(vectors), k), -np.inf, np.float32)
    ids[queries] = np.where(found.ids == NONE, NONE, members[found.ids] if len(members) else NONE)
    ids[queries[with_label], 0] = queries[with_label]  # itself, in place of the first of its copies
    scores[queries] = found.scores
    return Neighbours(ids, scores, found.method, found.recall, found.facts)


def _photos(vectors: Vectors) -> Ids:
    """A number for each distinct vector: int64 [N]."""
    rows = np.ascontiguousarray(vectors)
    if not rows.size:
        return np.zeros(len(rows), np.int64)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return np.asarray(np.unique(keys, return_inverse=True)[1], dtype=np.int64)
