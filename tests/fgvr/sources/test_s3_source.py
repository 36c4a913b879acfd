"""Photos in a bucket, against a local S3 server."""

import io
import shutil
import tarfile
from pathlib import Path

import downloads
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.backends import get_backend

from fgvr import storage
from fgvr.config.data import (
    FieldGuideSource,
    FolderSource,
    ImageLimits,
    LayoutSource,
    ParquetSource,
    TableSource,
    WebDatasetSource,
)
from fgvr.images.read import ImageError, read_image, read_image_bytes
from fgvr.schemas import Reason
from fgvr.sources.folder import walk
from fgvr.sources.seeded_splits import CALTECH_COUNTS
from fgvr.sources.source import SourceError, read_source, source_state

LIMITS = ImageLimits()


@pytest.fixture
def bucket(s3):
    s3.makedirs("photos", exist_ok=True)  # moto keeps buckets from one server to the next
    return s3


def test_a_bucket_as_a_source(bucket, tmp_path):
    guide = FieldGuideSource(draw_to="s3://photos/birds", train_per_class=1, test_per_class=1)
    drawn = read_source(guide, str(tmp_path)).rows
    assert drawn["uri"][0].as_py().startswith("s3://photos/birds/images/")
    assert read_image(drawn["uri"][0].as_py(), LIMITS).size == (64, 64)

    bucket.pipe_file("photos/birds/images/zero 100%41.jpg", b"")
    bucket.pipe_file("photos/birds/.hidden/x.jpg", b"x")
    listed = read_source(FolderSource(path="s3://photos/birds/images", split_from="top"), str(tmp_path)).rows
    assert listed.num_rows == drawn.num_rows + 1
    by_uri = dict(zip(listed["uri"].to_pylist(), listed["split"].to_pylist(), strict=True))
    assert by_uri.pop("s3://photos/birds/images/zero 100%41.jpg") == "train"
    assert by_uri == dict(zip(drawn["uri"].to_pylist(), drawn["split"].to_pylist(), strict=True))

    # Whatever a key holds, it is listed and read; a table may spell it otherwise.
    png = bucket.cat_file(drawn["uri"][0].as_py())
    for key in ("a::b.png", "zip://c::d.png", "M\u00fcsli #1?.png", "e f.png"):
        bucket.pipe_file(f"photos/odd/{key}", png)
    uris = read_source(FolderSource(path="S3://photos/odd"), str(tmp_path)).rows["uri"].to_pylist()
    assert len(uris) == 4
    assert {read_image(uri, LIMITS).size for uri in uris} == {(64, 64)}
    for spelling in ("S3://photos/odd/a::b.png", "s3://photos/odd/e%20f.png", "s3://photos/odd/Mu\u0308sli #1?.png"):
        assert read_image(spelling, LIMITS).size == (64, 64)

    table = TableSource(path="s3://photos/birds/samples.csv")
    assert read_source(table, str(tmp_path)).rows["uri"].equals(drawn["uri"])
    before = source_state(table)
    bucket.pipe_file("photos/birds/samples.csv", b"uri\na.jpg\n")
    assert source_state(table) != before

    for uri, limits, reason in [
        ("s3://photos/birds/images/zero 100%41.jpg", LIMITS, Reason.EMPTY_FILE),
        ("s3://photos/birds/gone.jpg", LIMITS, Reason.NOT_FOUND),
        ("s3://photos/birds/images", LIMITS, Reason.NOT_FOUND),  # a prefix is no object
        ("s3://elsewhere/x.jpg", LIMITS, Reason.NOT_FOUND),
        (drawn["uri"][0].as_py(), ImageLimits(max_bytes=50), Reason.TOO_MANY_BYTES),
    ]:
        with pytest.raises(ImageError) as caught:
            read_image(uri, limits)
        assert (uri, caught.value.reason) == (uri, reason)


@pytest.mark.slow
def test_a_prefix_is_listed_page_by_page(bucket, monkeypatch):
    moto = get_backend("s3")["123456789012"]["aws"]
    names = [f"{n % 7}/{n:05d}.jpg" for n in range(2_100)]
    for name in [*names, "3/.hidden.jpg", ".cache/x.jpg", "readme.txt"]:
        moto.put_object("photos", f"many/{name}", b"")
    moto.put_object("photos", "many-others/x.jpg", b"")  # begins alike, and is another folder
    pages = []
    used, _ = storage.resolve("s3://photos")
    ask = used.call_s3
    monkeypatch.setattr(used, "call_s3", lambda *a, **k: pages.append(k) or ask(*a, **k), raising=False)
    found = walk("s3://photos/many/")
    assert next(found).uri == "s3://photos/many/0/00000.jpg"
    assert len(pages) == 1  # 1,000 keys are held, not all
    assert len(list(found)) == 2_100  # the text file is among them: names are looked at later
    assert len(pages) == 3

    rows = read_source(FolderSource(path="s3://photos/many", class_from="parent"), "").rows
    assert rows["uri"].to_pylist() == [f"s3://photos/many/{name}" for name in sorted(names)]
    assert rows["class_id"].to_pylist() == [int(name[0]) for name in sorted(names)]
    with pytest.raises(SourceError, match="no file ends in"):
        read_source(FolderSource(path="s3://photos/man"), "")
    with pytest.raises(SourceError, match=r"ingest.source.path = s3://nowhere/x: .*bucket"):
        read_source(FolderSource(path="s3://nowhere/x"), "")


@pytest.mark.slow
def test_images_inside_files_in_a_bucket(bucket, tmp_path):
    """Both ways of a window: members close together, and a large gap between them."""
    drawn = FieldGuideSource(draw_to=str(tmp_path / "birds"), train_per_class=1, test_per_class=1)
    photos = [Path(uri).read_bytes() for uri in read_source(drawn, "").rows["uri"].to_pylist()[:20]]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for n, data in enumerate(photos):
            for name, content in ((f"{n:02d}.png", data), (f"{n:02d}.bin", bytes(3_000_000 if n % 7 == 3 else 10))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    whole = (tmp_path / "a.tar").read_bytes()
    bucket.pipe_file("photos/tars/train/a.tar", whole)
    bucket.pipe_file("photos/tars/val/b.tar", whole[: len(whole) // 2])
    listed = read_source(WebDatasetSource(path="s3://photos/tars", split_from="top"), "")
    assert (listed.files, len(listed.bad_files)) == (2, 1)
    uris = listed.rows["uri"].to_pylist()
    assert [read_image_bytes(uri, LIMITS) for uri in uris[:20]] == photos
    assert listed.rows["split"].to_pylist()[:21] == ["train"] * 20 + ["val"]
    pq.write_table(pa.table({"image": photos}), tmp_path / "a.parquet", row_group_size=8)
    bucket.pipe_file("photos/rows/a.parquet", (tmp_path / "a.parquet").read_bytes())
    bucket.pipe_file("photos/rows/b.parquet", b"PAR1 no, it is not")
    listed = read_source(ParquetSource(path="s3://photos/rows"), "")
    assert (listed.files, len(listed.bad_files)) == (2, 1)
    assert [read_image_bytes(uri, LIMITS) for uri in listed.rows["uri"].to_pylist()[:20]] == photos


def test_official_downloads_in_a_bucket(bucket, tmp_path, monkeypatch):
    few = {name: count for name, count in CALTECH_COUNTS.items() if name in {"ant", "Faces", "wrench"}}
    monkeypatch.setattr("fgvr.sources.seeded_splits.CALTECH_COUNTS", few)  # a hundred are half a minute
    for name, write in downloads.WRITERS.items():
        local = LayoutSource(name=name, path=str(write(tmp_path / name)))
        for folder in Path(local.path).glob("101_ObjectCategories/*"):
            if folder.name not in {*few, "BACKGROUND_Google"}:
                shutil.rmtree(folder)
        bucket.put(f"{tmp_path}/{name}/", f"photos/{name}/", recursive=True)
        remote = LayoutSource(name=name, path=local.path.replace(str(tmp_path), "s3://photos"))
        here, there = read_source(local, "").rows, read_source(remote, "").rows
        moved = [uri.replace(str(tmp_path), "s3://photos") for uri in here["uri"].to_pylist()]
        assert there.drop(["uri"]).equals(here.drop(["uri"]))
        assert there["uri"].to_pylist() == moved
        assert len(source_state(remote)) == len(source_state(local))
        bucket.rm(moved[0].removeprefix("s3://"))
        with pytest.raises(SourceError, match=f"1 of {len(moved)} listed photos are not there"):
            read_source(remote, "")
