"""Photos with their names as a dataset of Hugging Face: Parquet files and a card.

Sources: the documentation of `datasets` (the image and class label features, the metadata `huggingface` of a Parquet
schema) and of the Hub's dataset cards (the YAML header with `configs`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import ExitStack
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from fgvr.config.data import ImageLimits
from fgvr.export.photos import NamedPhotos, PhotoFile, photo_files
from fgvr.export.places import Destination
from fgvr.redact import masked

SHARD_BYTES: Final = 400 * 2**20
"""Bytes of photos in one Parquet file; Hugging Face recommends up to 500 MB."""
GROUP_ROWS: Final = 100
"""Rows per row group: viewers read single groups, and so many photos are held in memory per split."""


def export_dataset(
    photos: NamedPhotos, to: Destination, limits: ImageLimits, *, shard_bytes: int = SHARD_BYTES
) -> dict[str, Any]:
    """`data/<split>-NNNNN.parquet` and a card, README.md; `datasets.load_dataset(folder)` reads them.

    Args:
        photos: what is written.
        to: where.
        limits: of reading a photo.
        shard_bytes: bytes of photos after which the next file begins.

    Raises:
        ExportError: no photo has a name.
    """
    names = photos.names()
    numbers = {name: number for number, name in enumerate(names)}
    schema, shards, written = _schema(names), dict[str, _Shards](), Counter[str]()
    with ExitStack() as stack:
        for file in photo_files(photos, limits):
            split = split_name(file.photo.split)
            if split not in shards:
                shards[split] = stack.enter_context(_Shards(to, split, schema, shard_bytes))
            shards[split].add(_row(file, numbers), len(file.data))
            written[split] += 1
    facts = photos.facts(written.total()) | {"names": len(names), "splits": dict(written)}
    to.write("README.md", _card(written, facts).encode())
    return to.finish(facts)


def split_name(split: str) -> str:
    """A split as a file name and as Hugging Face's name of one: letters, digits and underscores."""
    return re.sub(r"\W+", "_", split, flags=re.ASCII).strip("_") or "train"


def _row(file: PhotoFile, numbers: dict[str, int]) -> dict[str, Any]:
    photo = file.photo
    return {
        "image": {"bytes": file.data, "path": file.file_name},
        "label": numbers[photo.name],
        "score": photo.score,
        "source": photo.source,
        "true_name": photo.true_name,
        "image_id": photo.image_id,
        "uri": masked(photo.uri),
    }


class _Shards:
    """The Parquet files of one split, of which one is open: a context manager."""

    def __init__(self, to: Destination, split: str, schema: pa.Schema, shard_bytes: int) -> None:
        self._to, self._split, self._schema, self._most = to, split, schema, shard_bytes
        self._rows: list[dict[str, Any]] = []
        self._number = self._bytes = 0
        self._open: ExitStack | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any], size: int) -> None:
        """Add a row whose photo has `size` bytes."""
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= GROUP_ROWS or self._bytes >= self._most:
            self._write()
        if self._bytes >= self._most:
            self._close()

    def _write(self) -> None:
        if self._writer is None:
            self._open = ExitStack()
            file = self._open.enter_context(self._to.writing(f"data/{self._split}-{self._number:05}.parquet"))
            # Photos are compressed already.
            self._writer = pq.ParquetWriter(file, self._schema, compression={"label": "ZSTD", "uri": "ZSTD"})
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def _close(self) -> None:
        if self._writer is not None and self._open is not None:
            self._writer.close()
            self._open.close()
        self._writer, self._open = None, None
        self._number, self._bytes = self._number + 1, 0

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            if self._rows:
                self._write()
            self._close()
        elif self._open is not None:
            self._open.__exit__(kind, *rest)  # type: ignore[arg-type]  # nothing half-written gets a file's name


def _schema(names: list[str]) -> pa.Schema:
    fields = {"label": "int64", "score": "float32", "source": "string", "true_name": "string", "image_id": "int64"}
    fields["uri"] = "string"
    features: dict[str, Any] = {name: {"dtype": kind, "_type": "Value"} for name, kind in fields.items()}
    features["label"] = {"names": names, "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, **features}
    image = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns = [image, *(pa.field(name, pa.type_for_alias(kind)) for name, kind in fields.items())]
    return pa.schema(columns, {"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)})


def _card(written: Counter[str], facts: dict[str, Any]) -> str:
    """README.md: a YAML header that says which files are which split, and what a reader must know."""
    lines = ["---", "task_categories:", "- image-classification", "configs:", "- config_name: default", "  data_files:"]
    for split in sorted(written):
        lines += [f"  - split: {json.dumps(split)}", f"    path: data/{split}-*.parquet"]
    counts = "\n".join(f"| {split} | {count:,} |" for split, count in sorted(written.items()))
    left_out = "\n".join(f"- {count:,}: {reason}" for reason, count in facts["left_out"].items()) or "- none"
    return (
        "\n".join(lines)
        + f"""
---

# Photos named by fgvr

{facts["photos"]:,} photos with {facts["names"]:,} names. The names were given by models, and some by people; no one has
checked all of them. They are those of the table `{facts["table"]}` of a run (`{facts["fingerprint"]}`).

| split | photos |
|---|---|
{counts}

| column | what it is |
|---|---|
| `image` | the photo's file, unchanged |
| `label` | its name |
| `score` | the model's probability of this name; null where it states none, or a person gave the name |
| `source` | the run's table that says so, or `person` |
| `true_name` | the true name, where the source of the photos has one |
| `image_id`, `uri` | which photo of the run it is |

Photos of the run that are not here:

{left_out}
"""
    )
