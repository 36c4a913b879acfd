"""Answers about one image of a group, given to the others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import schemas, tables
from fgvr.neighbours import Ids


def shared_rows(given: pa.Table, ids: Ids) -> pa.Table:
    """Rows of the answers schema for the images `ids`, where row i of `given` is the answer that image `ids[i]` gets.

    A shared answer cost nothing: its tokens are 0. A shared failure names the image that failed.

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
