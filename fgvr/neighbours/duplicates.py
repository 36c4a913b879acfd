"""Groups of near-duplicates (rescaled, recompressed or cropped copies), of which the MLLM is asked about one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import schemas, tables
from fgvr.arrays import Floats, Ids
from fgvr.neighbours.found import NOBODY

# The first image that no earlier one has taken takes all images that are as similar to it as asked, in the order of
# their rows. So each image is as similar as asked to the one whose answer it gets, and a chain of images that change
# little by little is cut: a group does not drift from one thing to another. (This is the sequential leader clustering
# of Hartigan, Clustering Algorithms, 1975, chapter 3, on the graph of nearest neighbours.)

RULES = 1
"""Increase it when the same vectors would give other groups."""
NEIGHBOURS = 16
"""How many nearest images are considered. In a larger group, some images may not reach its first one; they are labelled
separately, which costs money but no correctness."""


@dataclass(frozen=True)
class Groups:
    """Which images share an answer.

    Attributes:
        first: row of the first image in each image's group (itself if it is the first); int64 [N].
        similarity: cosine similarity to that first image; float32 [N], 1 for itself.
    """

    first: Ids
    similarity: Floats


def group(ids: Ids, scores: Floats, similarity: float) -> Groups:
    """Group images by their nearest neighbours.

    Args:
        ids: rows of the nearest images of each image, in any order, with or without itself; int64 [N, k], `NOBODY` if
            missing.
        scores: cosine similarities, float32 [N, k].
        similarity: cosine from which two images count as one photo.
    """
    near = (ids != NOBODY) & (scores >= similarity) & (ids != np.arange(len(ids))[:, None])
    one, place = np.nonzero(near)
    other, score = ids[one, place], scores[one, place]
    # Being among the nearest is not mutual; being one photo is.
    left, right = np.concatenate([one, other]), np.concatenate([other, one])
    later = left < right
    left, right, values = left[later], right[later], np.concatenate([score, score])[later]
    order = np.argsort(left, kind="stable")
    left, right, values = left[order], right[order], values[order]
    first, found = np.arange(len(ids), dtype=np.int64), np.ones(len(ids), np.float32)
    rows, starts, counts = np.unique(left, return_index=True, return_counts=True)
    for row, start, end in zip(rows.tolist(), starts.tolist(), (starts + counts).tolist(), strict=True):
        if first[row] != row:
            continue
        mates = right[start:end]
        free = first[mates] == mates
        first[mates[free]], found[mates[free]] = row, values[start:end][free]
    return Groups(first, found)


# Copying the answers about one image of a group to the others.


def shared_rows(given: pa.Table, ids: Ids) -> pa.Table:
    """Rows of the answers schema for the images `ids`; row i of `given` is the answer that image `ids[i]` gets.

    A shared answer cost nothing: its token counts are 0. A shared failure names the image that failed.

    Args:
        given: rows of the answers schema, in the order of `ids`.
        ids: int64 [n].
    """
    given = tables.conform(given, schemas.ANSWERS)
    asked = given["image_id"].to_numpy()
    own = pa.array(asked == ids)
    columns = {name: given[name].combine_chunks() for name in schemas.ANSWERS.names}
    for name in ("prompt_tokens", "output_tokens"):
        columns[name] = pc.if_else(pc.or_(own, pc.is_null(columns[name])), columns[name], pa.scalar(0, pa.int32()))
    errors = columns["error"].to_pylist()
    for row in np.flatnonzero((asked != ids) & columns["error"].is_valid().to_numpy(zero_copy_only=False)).tolist():
        detail = f"as image {asked[row]}, which shows the same: {errors[row]['detail']}"
        errors[row] = {"reason": errors[row]["reason"], "detail": detail[:500]}
    columns["error"] = pa.array(errors, schemas.ERROR.type)
    columns["image_id"] = pa.array(ids, pa.int64())
    return pa.table(columns, schema=schemas.ANSWERS)
