"""Vectors and nearest labelled neighbours of the discovery images, in which each photo counts once.

Images with identical vectors are one photo: it counts once in a neighbourhood, with the label of its first labelled
copy, and an image's own copies are not its neighbours. Otherwise a photo uploaded ten times would fill the
neighbourhoods around it with one opinion of the MLLM, as if ten had agreed. Rescaled or recompressed copies have
other vectors; they count as separate photos unless they were recognised as near-duplicates
(`fgvr.neighbours.duplicates`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr.arrays import NONE, Floats, Ids
from fgvr.clip.vectors import read_vectors
from fgvr.neighbours import Neighbours, Plan, Vectors, Wanted, nearest
from fgvr.neighbours.machine import this_machine
from fgvr.tables import Table
from fgvr.tables import vectors as vectors_of

Flags = npt.NDArray[np.bool_]
Digests = npt.NDArray[Any]  # 16 bytes per photo

DIGEST = "V16"


@dataclass(frozen=True)
class Layout:
    """Queries and database of the search, as row numbers of the discovery set.

    Attributes:
        queries: images with a vector, int64 [n], ascending.
        members: the database: the first labelled copy of each photo, int64 [m], ascending.
        own: for each query, the position of its own photo in `members`, or −1; int64 [n].
        labelled: bool [n], whether a query has a label of its own.
    """

    queries: Ids
    members: Ids
    own: Ids
    labelled: Flags

    def spread(self, images: int, found: Neighbours) -> Neighbours:
        """Search results for the queries in the database, converted to rows of all `images`."""
        k = found.ids.shape[1]
        ids, scores = np.full((images, k), NONE, np.int64), np.full((images, k), -np.inf, np.float32)
        if len(self.members):
            ids[self.queries] = np.where(found.ids == NONE, NONE, self.members[found.ids])
        ids[self.queries[self.labelled], 0] = self.queries[self.labelled]  # itself, in place of its first copy
        scores[self.queries] = found.scores
        return Neighbours(ids, scores, found.method, found.recall, found.facts)


def layout(digests: Digests, embedded: Flags, labelled: Flags) -> Layout:
    """Who is searched for, and among whom.

    Args:
        digests: equal for equal vectors, V16 [N].
        embedded: bool [N], has a vector.
        labelled: bool [N], has a label.
    """
    queries = np.flatnonzero(embedded)
    photo = np.asarray(np.unique(digests[queries], return_inverse=True)[1], dtype=np.int64)
    with_label = np.flatnonzero(labelled[queries])
    first = np.sort(np.unique(photo[with_label], return_index=True)[1])
    rows = with_label[first]
    place = np.full(int(photo.max(initial=-1)) + 1, NONE, np.int64)
    place[photo[rows]] = np.arange(len(rows))
    return Layout(queries, queries[rows], place[photo], labelled[queries])


def digests_of(vectors: Vectors) -> Digests:
    """A 16-byte digest per vector [n, d]: equal for equal vectors, and practically always different otherwise."""
    rows = np.ascontiguousarray(vectors)
    return np.frombuffer(b"".join(blake2b(row, digest_size=16).digest() for row in rows), DIGEST)


def discovery_vectors(embeddings: Table, ids: Ids) -> tuple[npt.NDArray[np.float16], Flags]:
    """As `read_vectors`, but a vector that is not finite counts as missing: such an image is nobody's neighbour."""
    vectors, embedded = read_vectors(embeddings, ids)
    return vectors, embedded & np.isfinite(vectors).all(axis=1)


def vector_blocks(embeddings: Table, ids: Ids) -> Iterator[tuple[Ids, npt.NDArray[np.float16]]]:
    """The same, part by part: which of `ids` (int64, ascending) have a vector, and those vectors."""
    for rows in embeddings.batches_of(ids, ["image_id", "vector"]):
        good = rows.filter(rows["vector"].is_valid())
        vectors = vectors_of(good["vector"])
        finite = np.isfinite(vectors).all(axis=1)
        yield good["image_id"].to_numpy()[finite], vectors[finite]


def streamed_layout(embeddings: Table, ids: Ids, labelled: Flags, photos: Ids | None = None) -> Layout:
    """`layout` of the discovery images `ids` (int64, ascending) without holding their vectors in memory.

    Args:
        embeddings: the vectors.
        ids: int64 [N], ascending.
        labelled: bool [N], has a label.
        photos: int64 [N], row of the first image of the same photo; None: equal vectors are one photo.
    """
    digests, embedded = np.zeros(len(ids), DIGEST), np.zeros(len(ids), bool)
    for here, vectors in vector_blocks(embeddings, ids):
        rows = np.searchsorted(ids, here)
        digests[rows], embedded[rows] = digests_of(vectors), True
    return layout(digests if photos is None else digests[photos], embedded, labelled)


def labelled_neighbours(
    vectors: Vectors,
    embedded: Flags,
    labelled: Flags,
    k: int,
    *,
    photos: Ids | None = None,
    wanted: Wanted | None = None,
    how: Plan | None = None,
) -> Neighbours:
    """The k nearest labelled images of each image, as row numbers of the discovery set; itself first if it is labelled.

    Args:
        vectors: L2-normalised, [N, d]; rows of images that are not `embedded` are ignored.
        embedded: bool [N], has a vector.
        labelled: bool [N], has a label.
        k: at least 1.
        photos: as in `streamed_layout`.
        wanted: what the search must achieve and may cost.
        how: the plan, if there is one. A plan for another device runs on the CPU: this process may have no GPU, or one
            that Ray gave to another process.

    Returns:
        ids int64 [N, k] and scores float32 [N, k]: `NONE` and −inf for images without a vector, and in positions for
        which there are too few labelled photos.
    """
    digests = digests_of(vectors)
    who = layout(digests if photos is None else digests[photos], embedded, labelled)
    threads = len(os.sched_getaffinity(0))
    if how is not None and how.product.device != "cpu":
        reasons = (*how.reasons, f"planned for {how.product.device}, and done on the CPU, since it is done here")
        how = replace(how, product=this_machine("cpu", threads).product, reasons=reasons)
    queries, database = vectors[who.queries], vectors[who.members]
    found = nearest(queries, database, k, own=who.own, threads=threads, wanted=wanted or Wanted(), how=how)
    return who.spread(len(vectors), found)


def from_rows(found_ids: Ids, scores: Floats, who: Layout, ids: Ids, facts: dict[str, Any]) -> Neighbours:
    """Results of a search in tasks, given by image id, in the form of `labelled_neighbours`.

    Args:
        found_ids: image ids, int64 [n, k]; −1 in unused positions.
        scores: float32 [n, k].
        who: the n queries and the database.
        ids: ids of all N discovery images, int64, ascending.
        facts: facts about the search.
    """
    known = found_ids != NONE
    places = np.where(known, np.searchsorted(ids[who.members], np.where(known, found_ids, 0)), NONE)
    return who.spread(len(ids), Neighbours(places, scores, facts["method"], facts["recall"], facts))
