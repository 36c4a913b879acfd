import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgvr import schemas, storage, tables
from fgvr.tables import Table


def write(uri: str, rows: pa.Table, size: int, *, failed: int = 0) -> Table:
    parts = range(0, rows.num_rows, size)
    for number, first in enumerate(parts):
        tables.write_part(uri, number, rows.slice(first, size))
    table = Table(uri, "samples", "ab12", rows.num_rows, failed, len(parts), size, seconds=1.5, extra={"dim": 4})
    table.commit()
    return table


@pytest.fixture
def ten(tmp_path: Path) -> Table:
    """Ten rows in parts of 4, 4 and 2."""
    return write(str(tmp_path / "t"), pa.table({"image_id": range(10), "uri": [f"{n}.jpg" for n in range(10)]}), 4)


def test_rows_are_found_across_parts_in_the_asked_order(ten: Table) -> None:
    assert ten.take(np.array([9, 0, 4, 3, 9]))["uri"].to_pylist() == ["9.jpg", "0.jpg", "4.jpg", "3.jpg", "9.jpg"]


def test_only_the_parts_of_the_asked_rows_are_read(ten: Table) -> None:
    storage.remove(ten.path(tables.part_name(1)))
    assert ten.take(np.array([8, 1]), ["image_id"])["image_id"].to_pylist() == [8, 1]
    with pytest.raises(FileNotFoundError):
        ten.take(np.array([8, 5, 1]))


def test_no_rows_asked_gives_an_empty_table_with_the_columns(ten: Table) -> None:
    none = ten.take(np.array([], dtype=np.int64), ["uri"])
    assert none.num_rows == 0
    assert none.schema.names == ["uri"]


@pytest.mark.parametrize("ids", [[10], [-1], [0, 99]])
def test_rows_outside_are_named(ten: Table, ids: list[int]) -> None:
    with pytest.raises(IndexError, match=r"samples has rows 0\.\.9"):
        ten.take(np.array(ids))


def test_a_table_is_loaded_as_it_was_committed_also_after_a_move(ten: Table, tmp_path: Path) -> None:
    assert Table.load(ten.uri) == ten
    (tmp_path / "t").rename(tmp_path / "moved")
    moved = Table.load(str(tmp_path / "moved"))
    assert moved.read().num_rows == 10
    assert moved.extra == {"dim": 4}


def test_there_is_no_table_before_the_manifest(tmp_path: Path) -> None:
    tables.write_part(str(tmp_path), 0, pa.table({"image_id": [0]}))
    assert tables.finished_parts(str(tmp_path)) == {0}
    with pytest.raises(FileNotFoundError):
        Table.load(str(tmp_path))


def test_the_version_changes_when_failed_rows_were_tried_again() -> None:
    first = Table("u", "labels", "ab12", 3, 1, 1, 3, 0.0)
    second = Table("u", "labels", "ab12", 3, 0, 1, 3, 0.0, revision=1)
    assert (first.version, second.version) == ("ab12.0", "ab12.1")


def test_good_rows_are_those_without_an_error(tmp_path: Path) -> None:
    error = {"reason": "corrupt", "detail": "cut off"}
    rows = pa.table({"image_id": [0, 1, 2], "raw": ["a", None, "c"], "error": pa.array([None, error, None])})
    table = write(str(tmp_path), rows, 2, failed=1)
    assert table.good()["image_id"].to_pylist() == [0, 2]
    assert table.good(["raw"]).to_pydict() == {"raw": ["a", "c"]}


def test_vectors_are_read_as_they_were_written_even_from_a_slice(tmp_path: Path) -> None:
    matrix = np.arange(12, dtype="<f2").reshape(4, 3) / 8
    rows = pa.table(
        [
            pa.array(range(4), pa.int64()),
            pa.array([row.tobytes() for row in matrix], pa.binary(6)),
            pa.nulls(4, schemas.ERROR.type),
        ],
        schema=schemas.embeddings(3),
    )
    table = write(str(tmp_path), rows, 4)
    read = table.read()
    np.testing.assert_array_equal(tables.vectors(read["vector"]), matrix)
    np.testing.assert_array_equal(tables.vectors(read["vector"].slice(1, 2)), matrix[1:3])
    assert tables.vectors(read["vector"].slice(0, 0)).shape == (0, 3)
    metadata = tables.part_metadata(table.uri, 0)
    assert metadata[b"dim"] == b"3"
    with pytest.raises(ValueError, match="failed rows"):
        tables.vectors(pa.chunked_array([pa.array([matrix[0].tobytes(), None], pa.binary(6))]))


def test_a_table_lives_on_an_object_store_too() -> None:
    uri = f"memory://{uuid.uuid4().hex}/labels"
    table = write(uri, pa.table({"image_id": range(5), "label": list("abcde")}), 2)
    assert Table.load(uri) == table
    assert table.take(np.array([4, 1]), ["label"])["label"].to_pylist() == ["e", "b"]
    assert [part.num_rows for part in table.batches()] == [2, 2, 1]


def test_rows_of_a_table_that_is_not_dense_are_found_by_id(tmp_path: Path) -> None:
    rows = pa.table({"image_id": pa.array([2, 5, 9], pa.int64()), "label": ["a", "b", "c"]})
    table = write(str(tmp_path), rows, 2)
    assert table.find(np.array([9, 2, 4]), ["label"]).to_pylist() == [
        {"image_id": 2, "label": "a"},
        {"image_id": 9, "label": "c"},
    ]
    assert table.find(np.array([], dtype=np.int64)).num_rows == 0


def test_rows_among_ids() -> None:
    rows = pa.table({"image_id": [7, 2, 9, 4, 11], "n": [0, 1, 2, 3, 4]})
    ids = np.array([2, 3, 9, 10])
    assert tables.rows_among(rows, ids)["n"].to_pylist() == [1, 2]
    assert tables.rows_among(rows, ids[:0]).equals(rows.slice(0, 0))
    assert tables.rows_among(rows.slice(0, 0), ids).num_rows == 0


def test_of_a_large_part_only_the_groups_of_the_asked_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "GROUP_ROWS", 3)
    ids = np.array([0, 1, 5, 6, 7, 20, 21, 22, 23, 40, 41])
    table = write(str(tmp_path), pa.table({"image_id": ids, "uri": [f"{n}.jpg" for n in ids]}), 8)
    read: list[list[int]] = []
    whole = pq.ParquetFile.read_row_groups

    def counted(file: pq.ParquetFile, groups: list[int], **kwargs: Any) -> pa.Table:
        read.append(list(groups))
        return whole(file, groups, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", counted)
    assert table.find(np.array([41, 6, 8, 41, 7]))["uri"].to_pylist() == ["6.jpg", "7.jpg", "41.jpg"]
    assert sorted(read) == [[0], [1]]  # of the part of ids 0 to 22 the rows 3 to 5, of the other one its first three
    read.clear()
    assert tables.read_places(table.uri, 0, np.array([1, 6, 7]), ["image_id"])["image_id"].to_pylist() == [1, 21, 22]
    assert read == [[0, 2]]


def test_parts_without_any_of_the_ids_are_not_opened(tmp_path: Path) -> None:
    rows = pa.table({"image_id": np.arange(100) * 2, "uri": [f"{n}.jpg" for n in range(100)]})
    table = write(str(tmp_path), rows, 10)  # ids of 0 to 198
    for number in range(9):  # of the last part the footer says how large ids may be
        if number not in {4, 5}:
            storage.remove(table.path(tables.part_name(number)))
    # Row 10·p has an id of 10·p at least, and of 198 less the rows behind it at most: 95 and 96 may be in parts 0 to 9.
    with pytest.raises(FileNotFoundError):
        table.find(np.array([96]))
    dense = write(str(tmp_path / "dense"), pa.table({"image_id": range(100)}), 10)
    for number in set(range(9)) - {4, 5}:
        storage.remove(dense.path(tables.part_name(number)))
    assert dense.find(np.array([41, 59, 99, 100, -1]))["image_id"].to_pylist() == [41, 59, 99]


@pytest.mark.parametrize("step", [1, 2, 7])
def test_ids_are_found_wherever_they_lie(tmp_path: Path, step: int) -> None:
    ids = np.arange(60) * step + 3
    table = write(str(tmp_path), pa.table({"image_id": ids}), 7)
    for wanted in ([3], [3, 4, 10, 17], [int(ids[-1])], list(range(0, 500, 3)), [1000], []):
        found = table.find(np.array(wanted, dtype=np.int64), [])
        assert found["image_id"].to_pylist() == sorted(set(wanted) & set(ids.tolist()))
        assert found.schema.names == ["image_id"]
