"""A detector's images with all targets, as one Parquet file that all workers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fgvr import storage
from fgvr.detection.coco import CocoImage, Objects


@dataclass(frozen=True)
class DetectionExamples:
    """N images.

    Attributes:
        image_ids: int64 [N], ids in the samples table, ascending.
        uris: URIs of the images.
        images: what the annotations file says about each image.
        p_yes: float32 [N, Q], p(yes) of the whole image; nan if missing, which the loss ignores.
    """

    image_ids: npt.NDArray[np.int64]
    uris: list[str]
    images: Sequence[CocoImage]
    p_yes: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        sizes = {len(self.image_ids), len(self.uris), len(self.images), len(self.p_yes)}
        if len(sizes) != 1 or self.p_yes.ndim != 2:
            raise ValueError(f"examples of different lengths: {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.image_ids)

    def write(self, uri: str) -> None:
        """Write a Parquet file."""
        columns: dict[str, Any] = {
            "image_id": pa.array(self.image_ids),
            "uri": pa.array(self.uris, pa.string()),
            "coco_id": pa.array([image.id for image in self.images], pa.int64()),
            "file_name": pa.array([image.file_name for image in self.images], pa.string()),
            "width": pa.array([image.width for image in self.images], pa.int32()),
            "height": pa.array([image.height for image in self.images], pa.int32()),
            "boxes": pa.array([image.objects.boxes.ravel() for image in self.images], pa.list_(pa.float32())),
            "classes": pa.array([image.objects.classes for image in self.images], pa.list_(pa.int64())),
            "crowd": pa.array([image.objects.crowd.tolist() for image in self.images], pa.list_(pa.bool_())),
            "areas": pa.array([image.objects.areas for image in self.images], pa.list_(pa.float32())),
            "p_yes": pa.array(list(self.p_yes), pa.list_(pa.float32())),
        }
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd")
        storage.write_bytes(uri, sink.getvalue().to_pybytes())

    @classmethod
    def read(cls, uri: str) -> DetectionExamples:
        """Read what `write` wrote."""
        table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
        images = [
            CocoImage(
                row["coco_id"],
                row["file_name"],
                row["width"],
                row["height"],
                Objects(
                    boxes=np.array(row["boxes"], dtype=np.float32).reshape(-1, 4),
                    classes=np.array(row["classes"], dtype=np.int64),
                    crowd=np.array(row["crowd"], dtype=bool),
                    areas=np.array(row["areas"], dtype=np.float32),
                ),
            )
            for row in table.drop_columns(["image_id", "uri", "p_yes"]).to_pylist()
        ]
        p_yes = np.array(table["p_yes"].to_pylist(), dtype=np.float32).reshape(len(images), -1)
        return cls(table["image_id"].to_numpy(), table["uri"].to_pylist(), images, p_yes)
