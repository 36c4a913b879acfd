"""Tables of CLIP vectors: reading those of the images that a stage works on, and writing those of many texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from fgvr import schemas, tables
from fgvr.arrays import Ids
from fgvr.clip.model import load_clip
from fgvr.config.models import Clip
from fgvr.precision import Precision
from fgvr.schemas import Failure
from fgvr.tables import Table, vectors

# CLIP vectors of many texts as a table: encoded in parts, so that an interrupted run can resume.

TEXTS_A_PART = 8192


def write_texts(
    clip: Clip, texts: Sequence[str], template: str, folder: str, precision: Precision | None = None
) -> int:
    """Encode `texts` in `template` and write the parts that `folder` lacks; returns the total number of parts.

    Runs on the GPU if there is one, in the precision in which the table was begun.
    """
    starts = range(0, len(texts), TEXTS_A_PART)
    missing = sorted(set(range(len(starts))) - tables.finished_parts(folder))
    model = load_clip(clip, "cuda" if torch.cuda.is_available() else "cpu", precision) if missing else None
    for part in missing:
        here = list(texts[starts[part] : starts[part] + TEXTS_A_PART])
        assert model is not None  # noqa: S101 - for mypy: there is something missing
        features = model.encode_names(here, template).astype("<f2")
        columns: dict[str, Any] = {
            "text_id": np.arange(starts[part], starts[part] + len(here)),
            "text": here,
            "vector": pa.array([row.tobytes() for row in features], pa.binary(2 * features.shape[1])),
        }
        tables.write_part(folder, part, pa.table(columns, schema=schemas.texts(features.shape[1])))
    return len(starts)


def read_texts(table: Table) -> tuple[list[str], npt.NDArray[np.float16]]:
    """All texts and their L2-normalised vectors, fp16 [M, d], in order."""
    rows = table.read(["text", "vector"])
    return rows["text"].to_pylist(), vectors(rows["vector"])


# The embeddings table as arrays.

Halfs = npt.NDArray[np.float16]


def embedding_rows(ids: Ids, features: npt.NDArray[np.float32], failures: Sequence[Failure | None]) -> pa.Table:
    """Rows of the embeddings schema.

    Args:
        ids: image ids, int64 [N].
        features: L2-normalised, float32 [N, d]; rows of failed images are ignored.
        failures: why an image has no vector; None if it has one.
    """
    dim = features.shape[1]
    halfs = features.astype("<f2")
    cells = [None if failure else row.tobytes() for row, failure in zip(halfs, failures, strict=True)]
    return pa.table(
        {
            "image_id": pa.array(ids, pa.int64()),
            "vector": pa.array(cells, pa.binary(2 * dim)),
            "error": pa.array([failure.as_row() if failure else None for failure in failures], schemas.ERROR.type),
        },
        schema=schemas.embeddings(dim),
    )


def read_vectors(embeddings: Table, ids: Ids) -> tuple[Halfs, npt.NDArray[np.bool_]]:
    """Vectors of the images `ids`, fp16 [N, d] (zeros if missing), and whether each exists, bool [N].

    Needs memory for the result and the few parts being read: only parts, and row groups in them, that hold some of the
    images are read at all. Images that are not in the table count as without a vector.
    """
    ids = np.asarray(ids, dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    ascending = ids[order]
    found = np.zeros(len(ids), dtype=bool)
    result: Halfs | None = None
    for rows in embeddings.batches_of(ascending, ["image_id", "vector"]):
        if result is None:
            result = np.zeros((len(ids), rows.schema.field("vector").type.byte_width // 2), np.float16)
        good = rows.filter(rows["vector"].is_valid())
        here = good["image_id"].to_numpy()
        # Both are ascending: this part's ids form one contiguous range of `ascending`.
        first, last = np.searchsorted(ascending, [here[0], here[-1] + 1]) if len(here) else (0, 0)
        wanted = ascending[first:last]
        at = np.searchsorted(here, wanted)
        hit = here[np.minimum(at, len(here) - 1)] == wanted if len(here) else np.zeros(0, bool)
        places = order[first:last][hit]
        result[places] = vectors(good["vector"])[at[hit]]
        found[places] = True
    return (result if result is not None else np.zeros((len(ids), 0), np.float16)), found
