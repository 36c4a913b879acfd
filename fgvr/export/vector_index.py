"""The vectors of a run as a FAISS index, whose ids are the photos' ids, with a table of where the photos are."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fgvr.export.places import Destination, ExportError
from fgvr.redact import masked
from fgvr.tables import Table, vectors

FLAT_UP_TO: Final = 200_000
"""Vectors up to which the index compares with all of them; beyond that it is an inverted file."""
TRAINED_PER_LIST: Final = 40
"""Vectors per list from which the lists are learned; FAISS asks for 39."""
PROBED: Final = 32
"""Lists that a query looks into, as stored in the index; raise `nprobe` for more recall."""
INDEX_FILE, PHOTOS_FILE = "index.faiss", "photos.parquet"


def export_index(embeddings: Table, samples: Table, to: Destination, *, flat_up_to: int = FLAT_UP_TO) -> dict[str, Any]:
    """`index.faiss` and `photos.parquet` (image_id, uri, split), whose rows are read and written part by part.

    Vectors are L2-normalised, and inner products are cosines. A large index keeps them in half precision: FAISS holds
    all of it in memory, 10 GB for ten million vectors of 512 numbers.

    Args:
        embeddings: the vectors.
        samples: where the photos are.
        to: where the index is written.
        flat_up_to: number of vectors up to which the index is exact.

    Raises:
        ExportError: no photo has a vector.
    """
    import faiss

    count = embeddings.rows - embeddings.failed
    if not count:
        raise ExportError("no photo has a vector: every row of the table embeddings failed")
    index = _inverted_file(embeddings, count) if count > flat_up_to else None
    schema = pa.schema({"image_id": pa.int64(), "uri": pa.string(), "split": pa.string()})
    with to.writing(PHOTOS_FILE) as file, pq.ParquetWriter(file, schema, compression="ZSTD") as photos:
        for part in embeddings.batches(["image_id", "vector", "error"]):
            rows = part.filter(pc.is_null(part["error"]))
            if not rows.num_rows:
                continue
            found = np.ascontiguousarray(vectors(rows["vector"]), np.float32)
            if index is None:
                index = faiss.IndexIDMap2(faiss.IndexFlatIP(found.shape[1]))
            ids = rows["image_id"].to_numpy()
            index.add_with_ids(found, ids)
            places = samples.take(ids, ["uri", "split"])
            uris = [masked(uri) for uri in places["uri"].to_pylist()]
            photos.write_table(pa.table([ids, uris, places["split"].to_pylist()], schema=schema))
    assert index is not None  # noqa: S101  # there is a vector
    with to.writing(INDEX_FILE) as file:
        # mypy sees only some of FAISS's names.
        faiss.write_index(index, getattr(faiss, "PyCallbackIOWriter")(file.write))  # noqa: B009
    return to.finish(
        {
            "vectors": int(index.ntotal),
            "dim": int(index.d),
            "metric": "inner product of unit vectors: cosine",
            "index": "exact" if count <= flat_up_to else f"inverted file: {index.nlist} lists, {index.nprobe} probed",
            "left_out": embeddings.failures,
            "encoder": embeddings.extra.get("encoder") or embeddings.extra.get("clip") or {},
        }
    )


def _inverted_file(embeddings: Table, count: int) -> Any:
    """An empty inverted file whose lists are the clusters of a sample of the vectors."""
    import faiss

    wanted = int(2 * count**0.5)
    step = max(1, count // (TRAINED_PER_LIST * wanted))
    sample = []
    for part in embeddings.batches(["vector", "error"]):
        rows = part.filter(pc.is_null(part["error"]))
        if rows.num_rows:
            sample.append(vectors(rows["vector"])[::step].astype(np.float32))
    learned = np.concatenate(sample)
    dim, lists = learned.shape[1], min(wanted, len(learned))
    quantizer = faiss.IndexFlatIP(dim)
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(quantizer, dim, lists, half, faiss.METRIC_INNER_PRODUCT)
    index.train(learned)
    index.nprobe = min(PROBED, lists)
    return index
