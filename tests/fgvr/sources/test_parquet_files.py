"""Parquet files with image bytes: listed without reading the images, read row by row where they are used."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fgvr.config.data import ImageLimits, ParquetSource
from fgvr.images import parquet as reader
from fgvr.images.places import name_of
from fgvr.images.read import ImageError, read_image
from fgvr.prefetch import read_ahead
from fgvr.schemas import Reason
from fgvr.sources.source import SourceError, read_source

LIMITS = ImageLimits(max_bytes=100_000)


def png(width: int) -> bytes:
    sink = io.BytesIO()
    Image.effect_noise((width, 30), 60).save(sink, "PNG")
    return sink.getvalue()


def outcome(uri: str) -> object:
    try:
        return read_image(uri, LIMITS).width
    except ImageError as error:
        return error.reason


def uris(listed) -> list[str]:
    return listed.rows["uri"].to_pylist()


def test_the_column_of_images_is_found_and_named_like_the_others(tmp_path):
    def listed(*names):
        pq.write_table(pa.table([pa.array([png(31)])] * len(names), names=names), tmp_path / "a.parquet")
        return uris(read_source(ParquetSource(path=str(tmp_path)), ""))

    assert [outcome(uri) for uri in listed("\ufeffimage ")] == [31]
    with pytest.raises(SourceError, match=r"two columns image, and ingest.source.image_column can mean one"):
        listed("image", "image")
    with pytest.raises(SourceError, match=r"no column image; there are id, Photo; did you mean Photo\\?"):
        listed("id", "Photo")


def test_rows_in_the_order_of_the_files(tmp_path):
    for file in range(2):
        table = pa.table({"image": [png(40 + 20 * file + n) for n in range(13)], "place": ["north"] * 13})
        pq.write_table(table, tmp_path / f"p-{file}.parquet", row_group_size=5)
    listed = read_source(ParquetSource(path=str(tmp_path)), "")
    widths = [40 + 20 * file + n for file in range(2) for n in range(13)]
    assert [outcome(uri) for uri in uris(listed)] == widths
    # At random and from threads, too.
    backwards = list(reversed(uris(listed)))
    assert list(read_ahead(outcome, backwards, threads=4)) == widths[::-1]
    assert list(read_ahead(outcome, uris(listed), threads=8)) == widths
    assert name_of(uris(listed)[6]) == "p-0.parquet, row group 1, row 1"
    one = read_source(ParquetSource(path=str(tmp_path / "p-{1..1}.parquet"), metadata_columns=("place",)), "")
    assert uris(one) == uris(listed)[13:]
    assert one.rows["metadata"].to_pylist() == ['{"place": "north"}'] * 13


def test_a_row_group_is_opened_once_for_rows_in_order(tmp_path, monkeypatch):
    pq.write_table(pa.table({"image": [png(40 + n) for n in range(90)]}), tmp_path / "a.parquet", row_group_size=45)
    listed = read_source(ParquetSource(path=str(tmp_path)), "")
    opened = []
    real = reader.open_parquet
    monkeypatch.setattr(reader, "open_parquet", lambda uri: opened.append(uri) or real(uri))
    assert list(read_ahead(outcome, uris(listed), threads=8)) == list(range(40, 130))
    assert len(opened) == 2


def test_columns_as_hugging_face_writes_them(tmp_path):
    images = [{"bytes": png(40), "path": "a.png"}, None, {"bytes": None, "path": "b.png"}, {"bytes": b"", "path": ""}]
    images += [{"bytes": b"no image", "path": ""}, {"bytes": bytes(100_001), "path": ""}]
    facts = {"info": {"features": {"label": {"names": ["tern", "gull"], "_type": "ClassLabel"}}}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array(images, kind),
            "label": [1, 0, 5, -1, None, 1],
            "part": ["test", "", None, " val ", "x", "x"],
        }
    )
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(facts)}), tmp_path / "a.parquet")
    listed = read_source(ParquetSource(path=str(tmp_path), class_column="label", split_column="part"), "")
    assert listed.rows["class_name"].to_pylist() == ["gull", "tern", None, None, None, "gull"]
    assert listed.rows["split"].to_pylist() == ["test", "train", "train", "val", "x", "x"]
    assert [outcome(uri) for uri in uris(listed)] == [
        *(40, Reason.EMPTY_FILE, Reason.EMPTY_FILE, Reason.EMPTY_FILE),
        *(Reason.NOT_AN_IMAGE, Reason.TOO_MANY_BYTES),
    ]


def test_damage(tmp_path):
    good = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": [png(40 + n) for n in range(12)]}),
        good,
        row_group_size=4,
        use_dictionary=False,
        compression="none",
        write_page_checksum=True,
    )
    data = bytearray(good.read_bytes())
    column = pq.ParquetFile(good).metadata.row_group(1).column(0)
    data[column.data_page_offset + column.total_compressed_size - 300] ^= 1  # a flipped bit in its last image
    good.write_bytes(data)
    (tmp_path / "b.parquet").write_bytes(bytes(data[: len(data) // 2]))  # a download that broke off
    (tmp_path / "c.parquet").write_bytes(b"")
    pq.write_table(pa.table({"picture": [b"x"]}), tmp_path / "d.parquet")
    pq.write_table(pa.table({"image": ["text"]}), tmp_path / "e.parquet")
    listed = read_source(ParquetSource(path=str(tmp_path)), "")
    assert (listed.files, len(listed.bad_files)) == (5, 4)
    found = [outcome(uri) for uri in uris(listed)]
    assert found[:4] == [40, 41, 42, 43]
    assert found[8:12] == [48, 49, 50, 51]
    assert all(isinstance(bad, Reason) for bad in [*found[4:8], *found[12:]])  # the page's checksum is wrong
    assert len(found) == 16
    details = " ".join(listed.bad_files)
    assert "no column image; there are picture" in details
    assert "holds string instead of the bytes" in details


def test_a_file_that_was_written_anew(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [png(40), png(41)]}), path)
    before = uris(read_source(ParquetSource(path=str(tmp_path)), ""))
    pq.write_table(pa.table({"image": [png(60), png(61), png(62)]}), path)
    for uri in before:
        with pytest.raises(ImageError, match=r"written anew since it was listed.*snapshot") as caught:
            read_image(uri, LIMITS)
        assert caught.value.reason is Reason.CORRUPT
    path.unlink()
    reader._OPEN.clear()
    assert outcome(before[0]) is Reason.NOT_FOUND


def test_one_large_value_in_a_small_dictionary(tmp_path):
    """4 MB that a page repeats 2,000 times are 8 GB when a batch is made of them."""
    large = pa.array([bytes(4_000_000)])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000), large)
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet", use_dictionary=True, store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 1_000_000
    listed = read_source(ParquetSource(path=str(tmp_path)), "")
    before = pa.total_allocated_bytes()
    assert {outcome(uri) for uri in uris(listed)[:200]} == {Reason.TOO_MANY_BYTES}
    assert pa.default_memory_pool().max_memory() - before < 1_500_000_000


def test_messages(tmp_path):
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "a.parquet")
    for options, message in [
        ({"image_column": "photo"}, "no image can be listed; .*no column photo; there are image"),
        ({"class_column": "label"}, "no column label; there are image"),
    ]:
        with pytest.raises(SourceError, match=message):
            read_source(ParquetSource(path=str(tmp_path), **options), "")


def test_columns_beside_the_images_as_people_name_and_fill_them(tmp_path):
    columns = {
        "image": [png(40 + n) for n in range(4)],
        " label ": ["Tea Cup", "\ufeffTea\u00a0Cup ", "NA", None],
        "part": ["test", "test\t", "NA", ""],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    listed = read_source(ParquetSource(path=str(tmp_path), class_column="label", split_column="part"), "")
    assert listed.rows["class_name"].to_pylist() == ["Tea Cup", "Tea Cup", "NA", None]
    assert listed.rows["split"].to_pylist() == ["test", "test", "NA", "train"]
    assert listed.remarks == (
        "1 of 4 photos (25%) have no class (ingest.source.class_column = label)",
        "1 of 4 photos (25%) have no split: they are in train",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_column": "labels"}, r"no column labels; there are image, label, label2, part; did you mean label\?"),
        ({"class_column": "label2"}, r"column label2 holds list<.*>; a photo has one class$"),
        ({"split_column": "Part"}, r"no column Part; .*did you mean part\? \(ingest\.source\.split_column\)"),
    ],
)
def test_columns_that_cannot_be_taken(tmp_path, options, message):
    columns = {"image": [b"x"], "label": ["mug"], "label2": [["mug", "red"]], "part": ["test"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=message):
        read_source(ParquetSource(path=str(tmp_path), **options), "")
