"""CLIP vectors of many texts as a table: encoded in parts, so that what was done stays done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from fgvr import schemas, tables
from fgvr.clip.model import load_clip
from fgvr.config.models import Clip
from fgvr.precision import Precision
from fgvr.tables import Table, vectors

TEXTS_A_PART = 8192


def write_texts(
    clip: Clip, texts: Sequence[str], template: str, folder: str, precision: Precision | None = None
) -> int:
    """Encode `texts` in `template` and write the parts that `folder` lacks; returns the number of all parts.

    Runs on the GPU where there is one, in the precision in which the table was begun.
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
