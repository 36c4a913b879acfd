import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgvr.config.data import TableSource
from fgvr.sources.source import SourceError, check_source, read_source, source_state
from fgvr.sources.table_file import absolute_uris, read_table_file


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


def test_a_name_that_begins_with_a_blank(tmp_path):
    """Blanks are the table's, unless only the name with them is a file's."""
    for name in (" lead.png", "both.png", " both.png", "plain.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "l.csv").write_text('uri\n" lead.png"\n" both.png"\n plain.png \n" none.png"\n')
    pq.write_table(pa.table({"uri": [" lead.png", " both.png", " plain.png ", " none.png"]}), tmp_path / "l.parquet")
    wanted = sorted(f"{tmp_path}/{name}" for name in (" lead.png", "both.png", "plain.png", "none.png"))
    for table in ("l.csv", "l.parquet"):
        assert read_source(TableSource(path=str(tmp_path / table)), "").rows["uri"].to_pylist() == wanted
    whole = f"{tmp_path}/ lead.png"
    assert absolute_uris(pa.array([whole, f" {whole} "]), "/p").to_pylist() == [whole, whole]
    assert absolute_uris(pa.array([" lead.png"] * 1001), str(tmp_path))[0].as_py() == f"{tmp_path}/lead.png"


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


def listed(path, **options):
    rows = read_source(TableSource(path=str(path), **options), "")
    return [(row["uri"].rsplit("/", 1)[-1], row["split"], row["class_name"]) for row in rows.rows.to_pylist()], rows


WORDS = ["NA", "N/A", "NULL", "null", "NaN", "nan", "None", "#N/A", "-nan", "TRUE", "1e5", "0012", "1.50", "inf"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_words_of_other_programs_are_text(tmp_path, ending):
    table = pa.table({"uri": [f"{n:02d}.jpg" for n in range(len(WORDS))], "class_name": WORDS, "brand": WORDS})
    file = tmp_path / f"list.{ending}"
    if ending == "parquet":
        pq.write_table(table, file)
    else:
        between = "," if ending == "csv" else "\t"
        cells = [table.column_names, *zip(*table.to_pydict().values(), strict=True)]
        quoted = [[f'"{cell}"' if number % 2 else cell for number, cell in enumerate(row)] for row in cells]
        file.write_text("".join(between.join(row) + "\n" for row in quoted))
    found, rows = listed(file, metadata_columns=("brand",))
    assert [name for _, _, name in found] == WORDS
    assert [json.loads(text)["brand"] for text in rows.rows["metadata"].to_pylist()] == WORDS
    assert rows.remarks == ()


def test_words_are_text_in_uris_and_splits_too(tmp_path):
    (tmp_path / "list.csv").write_text('uri,split\nNA,null\n"nan",NA\n"",test\n')
    found, rows = listed(tmp_path / "list.csv")
    assert found == [("NA", "null", None), ("nan", "NA", None)]
    assert rows.without_uri == 1


def test_names_that_look_alike_are_one_class_and_one_split(tmp_path):
    names = ["Tea Cup", " Tea Cup", "Tea\u00a0Cup", "\ufeffTea  Cup\t", "Te\u200ba Cup", "\u00a0"]
    splits = ["test", "\ufeff test "]
    rows = "".join(f"{n}.jpg,{splits[n % 2]},{name}\n" for n, name in enumerate(names))
    (tmp_path / "list.csv").write_text("\ufeffuri, split,class_name\u00a0\n" + rows)
    found, listing = listed(tmp_path / "list.csv")
    assert [name for _, _, name in found] == ["Tea Cup"] * 5 + [None]
    assert listing.splits == {"test": 6}
    assert listing.classes == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_tables_of_spreadsheets_in_other_encodings(tmp_path, encoding):
    (tmp_path / "list.tsv").write_bytes('uri\tclass_name\nä.jpg\t"19"" Regal"\n'.encode(encoding))
    assert listed(tmp_path / "list.tsv")[0] == [("ä.jpg", "train", '19" Regal')]


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        (
            "uri,fold,label",
            {"split_column": "folds"},
            "split_column = folds: .*it has uri, fold, label; did you mean fold",
        ),
        ("uri,species,x", {"class_column": "Spezies"}, r"class_column = Spezies: .*did you mean species\?"),
        ("uri,label", {"class_column": "class_name"}, r"class_column = class_name: .*did you mean label\?"),
        ("Image URL,b", {}, "uri_column = uri: .*did you mean Image URL"),
        ("uri,b", {"metadata_columns": ("Price",)}, "metadata_columns = Price: .* no such column; it has uri, b$"),
        ("uri;class_name", {}, "semicolons stand between its columns"),
        ("uri\tclass_name", {}, "tabs stand between its columns"),
        ("uri,class_name, class_name ", {}, r"list\.csv: it has two columns class_name"),
        ("uri,split,uri", {}, "two columns uri"),
        ("uri,a,a,a", {"metadata_columns": ("a",)}, "it has 3 columns a"),
    ],
)
def test_columns_that_cannot_be_taken(tmp_path, header, options, message):
    """Known before anything is started, and when the table is read."""
    (tmp_path / "list.csv").write_text(header + "\n")
    source = TableSource(path=str(tmp_path / "list.csv"), **options)
    for ask in (check_source, lambda source: read_source(source, "")):
        with pytest.raises(SourceError, match=message):
            ask(source)


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        ("uri,Split,Class_Name", ["Split", "Class_Name"]),
        ("uri,SPLIT,class-names", ["SPLIT", "class-names"]),
        ("uri,subset,Labels", ["subset", "Labels"]),
        ("uri,spilt,clas_name", ["spilt", "clas_name"]),
        ("uri,colour,price", []),
    ],
)
def test_a_column_that_may_be_meant_is_named(tmp_path, header, meant):
    (tmp_path / "list.csv").write_text(f"{header}\na,test,mug\n")
    found, rows = listed(tmp_path / "list.csv")
    assert found == [("a", "train", None)]
    assert [remark.split("; is ")[1].split(" meant?")[0] for remark in rows.remarks] == meant


def test_columns_twice_that_nobody_reads_do_no_harm(tmp_path):
    (tmp_path / "list.csv").write_text("uri,,class_name,,price,price\na,1,mug,2,3,4\n")
    assert listed(tmp_path / "list.csv")[0] == [("a", "train", "mug")]


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (pa.array([7, None], pa.int16()), ["7", None]),
        (pa.array([7.0, float("nan")]), ["7", None]),
        (pa.array([2.5, 1], pa.float16()), ["2.5", "1"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["mug ", None]).dictionary_encode(), ["mug", None]),
        (pa.array([3, 4]).dictionary_encode(), ["3", "4"]),
        (pa.array(["nan", ""], pa.large_string()), ["nan", None]),
        (pa.array([b"mug", "Küken".encode()]), ["mug", "Küken"]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_classes_of_any_plain_type(tmp_path, column, names):
    pq.write_table(pa.table({"uri": ["a", "b"], "class_name": column}), tmp_path / "list.parquet")
    assert [name for _, _, name in listed(tmp_path / "list.parquet")[0]] == names


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"uri": ["a"], "class_name": [["mug", "red"]]},
            r"column class_name holds list<.*string>; a photo has one class$",
        ),
        ({"uri": ["a"], "class_name": [{"id": 1}]}, "column class_name holds struct<id: int64>; a photo has one class"),
        ({"uri": ["a"], "split": [["test"]]}, "column split holds list<.*>; a photo has one split"),
        ({"uri": [["a"]]}, "column uri holds list<.*>; a photo has one URI"),
        ({"uri": [{"bytes": b"\xff", "path": ""}]}, "a photo has one URI; `ingest.source.kind: parquet` reads images"),
        ({"uri": [b"\xff\xd8"]}, "column uri holds binary that is no UTF-8 text; `ingest.source.kind: parquet`"),
    ],
)
def test_columns_that_hold_something_else(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(SourceError, match=message):
        read_source(TableSource(path=str(tmp_path / "list.parquet")), "")


def test_metadata_is_json_whatever_its_type(tmp_path):
    columns = {
        "uri": ["a", "b"],
        "price": [float("nan"), 2.5],
        "seen": pa.array([1, None], pa.timestamp("ns")),  # Python's times have no nanoseconds
        "sizes": [[1.0, float("inf")], []],
    }
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    _, rows = listed(tmp_path / "list.parquet", metadata_columns=("price", "seen", "sizes"))
    assert [json.loads(text, parse_constant=pytest.fail) for text in rows.rows["metadata"].to_pylist()] == [
        {"price": None, "seen": "1970-01-01 00:00:00.000000001", "sizes": [1.0, None]},
        {"price": 2.5, "seen": None, "sizes": []},
    ]


def test_paths_of_windows(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"")
    (tmp_path / "here.csv").write_text("uri\nphotos\\a.png\nphotos\\b.png\nphotos/c.png\n")
    found, rows = listed(tmp_path / "here.csv")
    assert rows.rows["uri"].to_pylist() == [f"{tmp_path}/photos/{name}.png" for name in "abc"]
    assert rows.remarks[0].startswith("2 paths are written as on Windows, e.g. photos\\a.png: read with /")
    (tmp_path / "gone.csv").write_text("uri\nC:\\photos\\a.png\nC:/b.png\n")
    found, rows = listed(tmp_path / "gone.csv")
    assert found == [("b.png", "train", None), ("C:\\photos\\a.png", "train", None)]
    assert "2 paths are written as on Windows, e.g. C:\\photos\\a.png: there is no such file" in rows.remarks[0]
    (tmp_path / "a\\b.png").write_bytes(b"")  # a name that has one
    (tmp_path / "name.csv").write_text("uri\na\\b.png\n")
    assert listed(tmp_path / "name.csv")[1].remarks == ()


def test_photos_without_class_or_split_are_said_with_their_share(tmp_path):
    (tmp_path / "list.csv").write_text("uri,split,class_name\na,Test,mug\nb,test,\nc,,\nd,test,cup\n")
    assert listed(tmp_path / "list.csv", class_column="class_name")[1].remarks == (
        "2 of 4 photos (50%) have no class (ingest.source.class_column = class_name)",
        "1 of 4 photos (25%) have no split: they are in train",
        "splits that differ only in capitals are different splits: Test (1), test (2)",
    )
    (tmp_path / "none.csv").write_text("uri,kind\na,\nb,\n")
    assert listed(tmp_path / "none.csv", class_column="kind")[1].remarks == (
        "no photo has a class (ingest.source.class_column = kind)",
    )
    (tmp_path / "long.csv").write_text(f'uri,class_name\na,"two\nlines"\nb,{"x" * 121}\nc,mug\n')
    (remark,) = listed(tmp_path / "long.csv")[1].remarks
    assert remark.startswith("2 names of classes go over several lines or beyond 120 characters (“two lines…”)")


def test_a_column_whose_name_has_a_dot_beside_a_struct_of_that_name(tmp_path):
    place = tmp_path / "list.parquet"
    pq.write_table(pa.table({"uri": ["x.jpg"], "a": [{"b": "inner"}], "a.b": ["heron"]}), place)
    rows = pa.concat_tables(read_table_file(TableSource(path=str(place), class_column="a.b")))
    assert rows["class_name"].to_pylist() == ["heron"]
