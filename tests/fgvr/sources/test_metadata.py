"""Metadata as columns: the same from a CSV and a Parquet file, null for what is absent, numbers where there are any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgvr import tables
from fgvr.config.data import FolderSource, TableSource
from fgvr.metadata.stored import metadata, missing, numbers
from fgvr.sources.metadata import MetadataError, check_columns
from fgvr.sources.source import read_source
from fgvr.tables import Table

COLUMNS = ("price", "kids", "sender", "when")
CSV = 'uri,price,kids,sender,when\na.jpg,3.5,true,007,2024-05-01\nb.jpg,,false, 12 ,\nc.jpg,1e3,,"ü, ß",soon\n'


def samples(folder: Path, source: TableSource) -> Table:
    """The samples table of a source, in parts of two rows."""
    rows = read_source(source, str(folder))
    for number, part in enumerate(rows.parts(2)):
        tables.write_part(str(folder / "table"), number, part)
    table = Table(str(folder / "table"), "samples", "f", rows.kept.rows, 0, 2, 2, 0.0)
    table.commit()
    return table


def test_a_csv_gives_texts_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "photos.csv").write_text(CSV)
    table = samples(tmp_path, TableSource(path=str(tmp_path / "photos.csv"), metadata_columns=COLUMNS))
    rows = metadata(table, None, COLUMNS)
    assert rows["image_id"].to_pylist() == [0, 1, 2]
    assert rows["sender"].to_pylist() == ["007", "12", "ü, ß"]
    assert rows["kids"].to_pylist() == ["true", "false", None]
    assert rows["when"].to_pylist() == ["2024-05-01", None, "soon"]
    assert numbers(rows["price"]).tolist() == pytest.approx([3.5, np.nan, 1000], nan_ok=True)
    assert missing(rows["price"]).tolist() == [False, True, False]


def test_a_parquet_file_gives_the_same_for_the_same_values(tmp_path: Path) -> None:
    listed = {
        "uri": ["a.jpg", "b.jpg", "c.jpg"],
        "price": [3.5, None, float("nan")],
        "kids": [True, False, None],
        "sender": [7, 12, 2**60],
        "when": ["2024-05-01", "", "soon"],
    }
    pq.write_table(pa.table(listed), tmp_path / "photos.parquet")
    table = samples(tmp_path, TableSource(path=str(tmp_path / "photos.parquet"), metadata_columns=COLUMNS))
    rows = metadata(table, np.array([0, 2]), COLUMNS)
    assert rows["image_id"].to_pylist() == [0, 2]
    assert rows["sender"].to_pylist() == ["7", str(2**60)]
    assert rows["kids"].to_pylist() == ["true", None]
    assert rows["price"].to_pylist() == ["3.5", None]
    assert rows["when"].to_pylist() == ["2024-05-01", "soon"]


def test_numbers_are_finite_or_missing() -> None:
    texts = pa.array(["1", "-2.5", "true", "False", "inf", "nan", "1_000", "12 EUR", None])
    assert numbers(texts).tolist() == pytest.approx([1, -2.5, 1, 0, *[np.nan] * 5], nan_ok=True)


def test_a_column_that_is_not_kept_is_an_error_with_a_proposal() -> None:
    source = TableSource(path="photos.csv", metadata_columns=("sender_id", "kids"))
    check_columns(source, ["kids"], "evaluate.slice_by")
    with pytest.raises(MetadataError, match=r"evaluate.slice_by: sender is not .*sender_id, kids.*is sender_id meant"):
        check_columns(source, ["sender"], "evaluate.slice_by")
    with pytest.raises(MetadataError, match="kind folder have no columns"):
        check_columns(FolderSource(path="photos"), ["kids"], "evaluate.slice_by")
    check_columns(FolderSource(path="photos"), [], "evaluate.slice_by")
