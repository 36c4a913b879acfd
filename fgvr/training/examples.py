"""A student's training images with everything it learns of them, as one Parquet file that all workers read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.tables import vectors


@dataclass(frozen=True)
class Examples:
    """N images with their targets.

    Attributes:
        image_ids: int64 [N].
        uris: where the images are.
        classes: int64 [N], class targets; −1: none (only the aspects are learned).
        p_yes: float32 [N, Q], p(yes) in 0 … 1; nan where the MLLM gave none, which the loss leaves out.
        held_out: bool [N]: validates instead of training.
        identity: what decides the images' content, see `fgvr.training.image_store`.
    """

    image_ids: npt.NDArray[np.int64]
    uris: list[str]
    classes: npt.NDArray[np.int64]
    p_yes: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.bool_]
    identity: str

    def __post_init__(self) -> None:
        sizes = {len(self.image_ids), len(self.uris), len(self.classes), len(self.p_yes), len(self.held_out)}
        if len(sizes) != 1 or self.p_yes.ndim != 2:
            raise ValueError(f"examples of different lengths: {sorted(sizes)}")
        wrong = ~np.isnan(self.p_yes) & ~((self.p_yes >= 0) & (self.p_yes <= 1))
        if wrong.any():
            row, question = np.argwhere(wrong)[0]
            raise ValueError(
                f"p(yes) of image {self.image_ids[row]}, question {question}: "
                f"{self.p_yes[row, question]} is not in 0 … 1"
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def first_aspects(self, count: int) -> Examples:
        """The same for a student with `count` aspect outputs, the questions of the lowest ranks; 0: without aspects.

        Raises ValueError where fewer questions were asked.
        """
        if count > self.p_yes.shape[1]:
            raise ValueError(f"a student of {count} questions on examples with answers to {self.p_yes.shape[1]}")
        first = self.p_yes[:, :count]
        return Examples(self.image_ids, self.uris, self.classes, first, self.held_out, self.identity)

    def write(self, uri: str) -> None:
        """As a Parquet file."""
        width = self.p_yes.shape[1]
        halves: Any = np.ascontiguousarray(self.p_yes.astype("<f2")).tobytes()
        p_yes = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * width), len(self), [None, pa.py_buffer(halves)])
        columns = {
            "image_id": pa.array(self.image_ids),
            "uri": pa.array(self.uris, pa.string()),
            "class": pa.array(self.classes),
            "held_out": pa.array(self.held_out),
        }
        if width:
            columns["p_yes"] = p_yes
        facts = {"identity": self.identity, "questions": width}
        table = pa.table(columns).replace_schema_metadata({"fgvr.examples": json.dumps(facts)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        storage.write_bytes(uri, sink.getvalue().to_pybytes())

    @classmethod
    def read(cls, uri: str) -> Examples:
        """As `write` left them; p(yes) has gone through fp16 (steps of 5e-4 at most)."""
        table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
        facts = json.loads(table.schema.metadata[b"fgvr.examples"])
        empty = np.zeros((table.num_rows, 0), dtype=np.float32)
        return cls(
            image_ids=table["image_id"].to_numpy(),
            uris=table["uri"].to_pylist(),
            classes=table["class"].to_numpy(),
            p_yes=vectors(table["p_yes"]).astype(np.float32) if facts["questions"] else empty,
            held_out=table["held_out"].to_numpy(),
            identity=facts["identity"],
        )
