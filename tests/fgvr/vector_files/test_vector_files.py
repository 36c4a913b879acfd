"""Files of vectors: read from every format, matched with the photos, checked, and of unit length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgvr import schemas, tables
from fgvr.config import FileVectors
from fgvr.tables import Table, vectors
from fgvr.vector_files import vector_file
from fgvr.vector_files.vector_file import VectorFileError, open_vectors
from fgvr.vector_files.vector_rows import MatchedVectors, check_encoder, file_decides, matched

DIM = 3
RAW = np.array([[3, 0, 4], [0, 5, 0], [1, 2, 2], [0, 0, -7], [1e30, 0, 0]], np.float64)
UNIT = np.array([[0.6, 0, 0.8], [0, 1, 0], [1 / 3, 2 / 3, 2 / 3], [0, 0, -1], [1, 0, 0]])


@pytest.fixture
def samples(tmp_path: Path) -> Table:
    """Photos a to e below /photos, with the ids 0 to 4, in three parts."""
    columns: dict[str, Any] = {name: pa.nulls(5, schemas.SAMPLES.field(name).type) for name in schemas.SAMPLES.names}
    columns |= {"image_id": np.arange(5), "uri": [f"/photos/{c}.jpg" for c in "abcde"], "split": ["train"] * 5}
    rows = pa.table(columns, schema=schemas.SAMPLES)
    for number in range(3):
        tables.write_part(str(tmp_path / "samples"), number, rows.slice(2 * number, 2))
    return Table(str(tmp_path / "samples"), "samples", "f", 5, 0, 3, 2, 0.0)


def uris(letters: str = "abcde") -> np.ndarray:
    return np.array([f"{letter}.jpg" for letter in letters])


def read(source: FileVectors, samples: Table, ids: Any = range(5)) -> tuple[pa.Table, MatchedVectors]:
    """The embeddings rows of a file."""
    with matched(open_vectors(source), np.array(ids, np.int64), samples, "/photos") as found:
        parts = list(found.parts(2))
        assert all(part.schema.equals(schemas.embeddings(DIM)) for part in parts)
        return pa.concat_tables(parts), found


def reasons(rows: pa.Table) -> list[str | None]:
    return [error and error["reason"] for error in rows["error"].to_pylist()]


@pytest.mark.parametrize(
    "kind", ["npz", "small npz", "npz bytes", "npz ids", "parquet", "fixed parquet", "parquet ids"]
)
def test_shuffled_vectors_reach_their_photos_with_length_one(tmp_path: Path, samples: Table, kind: str) -> None:
    order = np.array([3, 0, 4, 2, 1])
    file = tmp_path / f"v.{'parquet' if 'parquet' in kind else 'npz'}"
    raw, names = RAW[order], uris()[order]
    if kind == "npz":
        np.savez(file, vectors=raw, uri=names, other=np.zeros(2))
    elif kind == "small npz":
        np.savez_compressed(file, vector=np.minimum(raw, 60_000).astype(np.float16), uri=names)
    elif kind == "npz bytes":
        np.savez(file, vectors=raw.astype(np.float32), uri=np.char.encode(names))
    elif kind == "npz ids":
        np.savez(file, vectors=raw.astype(np.float32), image_id=order.astype(np.int32))
    else:
        wide = pa.FixedSizeListArray.from_arrays(pa.array(raw.ravel()), DIM)
        column = wide if "fixed" in kind else pa.array(raw.tolist(), pa.list_(pa.float32()))
        key = {"image_id": order} if "ids" in kind else {"uri": names}
        pq.write_table(pa.table({**key, "vector": column}), file, row_group_size=2)
    rows, found = read(FileVectors(path=str(file)), samples)
    assert rows["image_id"].to_pylist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(vectors(rows["vector"]).astype(float), UNIT, atol=1e-3)
    assert found.remarks() == ()


def test_blocks_smaller_than_the_file_change_nothing(tmp_path: Path, samples: Table, monkeypatch: Any) -> None:
    monkeypatch.setattr(vector_file, "BLOCK_BYTES", 2 * DIM * 8)
    monkeypatch.setattr(vector_file, "KEY_ROWS", 2)
    np.savez(tmp_path / "v.npz", vectors=RAW[::-1].copy(), uri=uris("edcba"))
    rows, _ = read(FileVectors(path=str(tmp_path / "v.npz")), samples)
    np.testing.assert_allclose(vectors(rows["vector"]).astype(float), UNIT, atol=1e-3)


def test_an_array_in_the_order_of_the_samples(tmp_path: Path, samples: Table) -> None:
    np.save(tmp_path / "v.npy", RAW)
    rows, _ = read(FileVectors(path=str(tmp_path / "v.npy"), order="samples"), samples, ids=[1, 3])
    np.testing.assert_allclose(vectors(rows["vector"]).astype(float), UNIT[[1, 3]], atol=1e-3)
    np.save(tmp_path / "v.npy", RAW[:4])
    with pytest.raises(VectorFileError, match=r"4 vectors for 5 photos; in the order of the samples"):
        read(FileVectors(path=str(tmp_path / "v.npy"), order="samples"), samples)


def test_vectors_that_are_none_fail_their_photo_alone(tmp_path: Path, samples: Table) -> None:
    raw = RAW.copy()
    raw[0], raw[1, 2], raw[3, 0] = 0, np.nan, np.inf
    np.savez(tmp_path / "v.npz", vectors=raw[:4], uri=uris("abcd"))
    rows, _ = read(FileVectors(path=str(tmp_path / "v.npz")), samples)
    assert reasons(rows) == ["bad_vector", "bad_vector", None, "bad_vector", "not_in_file"]
    lists = [[1.0, 2.0, 2.0], None, [1.0, None, 0.0]]
    pq.write_table(pa.table({"uri": uris("abc"), "vector": lists}), tmp_path / "v.parquet")
    rows, _ = read(FileVectors(path=str(tmp_path / "v.parquet")), samples, ids=[0, 1, 2])
    assert reasons(rows) == [None, "bad_vector", "bad_vector"]


def test_vectors_of_other_photos_and_repeated_ones(tmp_path: Path, samples: Table) -> None:
    raw, names = np.concatenate([RAW, RAW[[0, 0, 2]]]), uris("abcdeabz")
    np.savez(tmp_path / "v.npz", vectors=raw, uri=names)
    rows, found = read(FileVectors(path=str(tmp_path / "v.npz")), samples)
    assert reasons(rows) == [None, "contradiction", None, None, None]
    assert found.counts() == {"unknown_rows": 1, "repeated_rows": 1}
    assert found.remarks() == (
        "embed.vectors.path: 1 vectors of photos that the samples do not have, e.g. 'z.jpg', read as /photos/z.jpg; "
        "the samples have e.g. '/photos/a.jpg'",
        "embed.vectors.path: 1 vectors are there again, left out",
    )
    np.savez(tmp_path / "v.npz", vectors=raw[:2], uri=np.array(["photos/a.jpg", "photos/b.jpg"]))
    with pytest.raises(
        VectorFileError, match=r"none of its 2 vectors .*'photos/a\.jpg', read as /photos/photos/a\.jpg"
    ):
        read(FileVectors(path=str(tmp_path / "v.npz")), samples)


@pytest.mark.parametrize(
    ("name", "arrays", "fields", "message"),
    [
        ("v.txt", {}, {}, r"the name must end in \.npy"),
        ("v.npy", {"": RAW}, {}, r"a \.npy does not say which vector is of which photo"),
        ("v.npz", {"vectors": RAW}, {}, r"uri_column = uri: .* has only vectors, and nothing says which"),
        ("v.npz", {"x": RAW, "uri": uris()}, {}, r"vector_column = vector: .* has only x, uri"),
        ("v.npz", {"vectors": RAW, "uri": uris("abc")}, {}, r"uri has the shape \[3\] for 5 vectors"),
        ("v.npz", {"vectors": RAW[0], "uri": uris("abc")}, {}, r"vectors has the shape \[3\]; a row of numbers"),
        ("v.npz", {"vectors": np.ones((5, 3), int), "uri": uris()}, {}, r"holds int64; vectors are floats"),
        ("v.npz", {"vectors": RAW.astype(object), "uri": uris()}, {}, r"a pickle that is not read"),
        ("v.npz", {"vectors": RAW, "uri": uris().astype(object)}, {}, r"uri holds Python objects"),
        ("v.npz", {"vectors": np.asfortranarray(RAW), "uri": uris()}, {}, r"Fortran's order"),
        ("v.npz", {"vectors": RAW[:0], "uri": uris("")}, {}, r"it holds no vector \(0 rows of 3\)"),
        ("v.npz", {"vectors": RAW, "uri": np.arange(5)}, {}, r"uri holds int64, where URIs are text"),
        ("v.npz", {"vectors": RAW, "image_id": uris()}, {}, r"image_id holds <U5, where image ids are whole numbers"),
        ("v.npz", {"vectors": RAW, "uri": uris()}, {"uri_column": "path"}, r"uri_column = path: .* has only"),
    ],
)
def test_what_is_no_file_of_vectors_is_refused(
    tmp_path: Path, samples: Table, name: str, arrays: dict[str, Any], fields: dict[str, str], message: str
) -> None:
    file = tmp_path / name
    if name.endswith("npz"):
        np.savez(file, **arrays)
    elif arrays:
        np.save(file, arrays[""])
    else:
        file.write_bytes(b"")
    with pytest.raises(VectorFileError, match=message):
        read(FileVectors(path=str(file), **fields), samples)


def test_damaged_files_are_refused_with_their_name(tmp_path: Path, samples: Table) -> None:
    np.save(tmp_path / "v.npy", RAW)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "v.npy").read_bytes()[:-30])
    (tmp_path / "v.npz").write_bytes(b"no archive")
    (tmp_path / "v.parquet").write_bytes(b"no parquet")
    for name, message in (
        ("cut.npy", r"cut\.npy: it ends in row 4"),
        ("v.npz", r"v\.npz: File is not a zip file"),
        ("v.parquet", r"v\.parquet: "),
        ("none.npz", r"there is no such file"),
    ):
        with pytest.raises(VectorFileError, match=message):
            read(FileVectors(path=str(tmp_path / name), order="samples"), samples)
    ragged = pa.table({"uri": uris("ab"), "vector": [[1.0, 2.0, 3.0], [1.0, 2.0]]})
    pq.write_table(ragged, tmp_path / "r.parquet")
    with pytest.raises(VectorFileError, match=r"row 2: a vector of 2 numbers, the first has 3"):
        read(FileVectors(path=str(tmp_path / "r.parquet")), samples)
    pq.write_table(pa.table({"uri": uris("ab"), "vector": [1.0, 2.0]}), tmp_path / "s.parquet")
    with pytest.raises(VectorFileError, match=r"column vector holds double; vectors are lists"):
        open_vectors(FileVectors(path=str(tmp_path / "s.parquet")))


def test_vectors_of_another_model_or_order_are_found_by_embedding_a_few_again() -> None:
    source = FileVectors(path="v.npz")
    own = UNIT.astype(np.float32)
    check_encoder(source, own, own)
    check_encoder(source, own[:0], own[:0])
    with pytest.raises(VectorFileError, match=r"is of another model, or in another order"):
        check_encoder(source, own, own[[1, 2, 3, 4, 0]])
    with pytest.raises(VectorFileError, match=r"its vectors have 2 numbers, those of v\.npz 3"):
        check_encoder(source, own, own[:, :2])


def test_content_and_columns_decide(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", vectors=RAW, uri=uris())
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    first = file_decides(FileVectors(path=str(tmp_path / "a.npz")))
    assert file_decides(FileVectors(path=str(tmp_path / "b.npz"))) == first
    assert file_decides(FileVectors(path=str(tmp_path / "a.npz"), uri_column="path")) != first
