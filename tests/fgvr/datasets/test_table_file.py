import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgvr.config.data import TableSource
from fgvr.datasets import SourceError, read_source, source_state
from fgvr.datasets.table_file import absolute_uris


def test_csv_with_other_column_names(tmp_path):
    path = tmp_path / "shop.csv"
    path.write_text(
        'photo,part,name,price,brand\na.jpg,test,"Gull, herring",007,\n/abs/b.jpg, ,,2.50,"multi\nline"\ns3://bucket/c.jpg,train,Tern,,x\n'
    )
    source = TableSource(
        path=str(path),
        uri_column="photo",
        split_column="part",
        class_column="name",
        metadata_columns=("price", "brand"),
    )
    rows = read_source(source, "").rows.to_pylist()
    assert [(row["uri"], row["split"], row["class_id"], row["class_name"]) for row in rows] == [
        ("/abs/b.jpg", "train", None, None),
        (f"{tmp_path}/a.jpg", "test", 0, "Gull, herring"),
        ("s3://bucket/c.jpg", "train", 1, "Tern"),
    ]
    assert json.loads(rows[1]["metadata"]) == {"price": "007", "brand": None}  # text stays text
    assert json.loads(rows[0]["metadata"])["brand"] == "multi\nline"


def test_parquet_with_its_types(tmp_path):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"uri": ["b.jpg", "a.jpg"], "class_name": [2, 1], "price": [1.5, None]}), path)
    rows = read_source(TableSource(path=str(path), metadata_columns=("price",)), "").rows.to_pylist()
    assert [(row["uri"], row["split"], row["class_name"], row["metadata"]) for row in rows] == [
        (f"{tmp_path}/a.jpg", "train", "1", '{"price": null}'),
        (f"{tmp_path}/b.jpg", "train", "2", '{"price": 1.5}'),
    ]


def test_one_spelling_for_one_file():
    uris = pa.array(
        ["x/../a.jpg", "./a.jpg", "//p//a.jpg", "file:///p/a%20b.jpg", "file:///p/%E9.jpg", "/p/a%20.jpg", None]
    )
    assert absolute_uris(uris, "/p").to_pylist() == [
        "/p/a.jpg",
        "/p/a.jpg",
        "/p/a.jpg",
        "/p/a b.jpg",
        "file:///p/%E9.jpg",
        "/p/a%20.jpg",  # a plain path is taken literally
        "",
    ]


def test_relative_to_a_table_in_a_bucket():
    uris = pa.array(["photos/a.jpg", "https://shop.example/a//b.jpg", "s3://other/./x.jpg"])
    assert absolute_uris(uris, "s3://bucket/data").to_pylist() == [
        "s3://bucket/data/photos/a.jpg",
        "https://shop.example/a//b.jpg",
        "s3://other/./x.jpg",  # keys of an object store are literal
    ]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("l.csv", b"url\na.jpg\n", {}, "uri_column = uri: .* has no such column; it has url"),
        ("l.csv", b"uri\na.jpg\n", {"metadata_columns": ("price",)}, "metadata_columns = price: .*no such column"),
        ("l.csv", b"uri,split\na.jpg\n", {}, "Expected 2 columns, got 1"),
        ("l.csv", b"uri\ncaf\xe9.jpg\n", {}, "invalid UTF8"),
        ("l.csv", b"", {}, "Empty CSV"),
        ("l.csv", b"uri\n", {}, "no image is listed there"),
        ("l.parquet", b"uri\na.jpg\n", {}, "Parquet"),
        ("l.xlsx", b"", {}, "must end in .csv, .tsv or .parquet"),
    ],
)
def test_messages(tmp_path, name, content, options, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_source(TableSource(path=str(tmp_path / name), **options), "")


def test_no_such_file(tmp_path):
    source = TableSource(path=str(tmp_path / "gone.csv"))
    with pytest.raises(SourceError, match="there is no such file"):
        read_source(source, "")
    with pytest.raises(SourceError, match=r"ingest\.source\.path"):
        source_state(source)


def test_an_edited_table_is_another_state(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("uri\na.jpg\n")
    before = source_state(TableSource(path=str(path)))
    path.write_text("uri\nb.jpg\n")
    assert source_state(TableSource(path=str(path))) != before
