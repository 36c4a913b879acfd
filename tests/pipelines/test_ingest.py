import json
import logging
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from cluster.fingerprint import plain
from cluster.parts import TooManyFailures
from cluster.stage import RunContext
from fgvr import storage
from fgvr.config import build
from fgvr.config.data import IMAGE_ENDINGS
from fgvr.images.places import TarPlace
from fgvr.sources.source import SourceError, check_place
from pipelines import ingest
from pipelines.command import stage_main
from pipelines.run_tables import Run
from tests.fgvr.sources.downloads import cub
from tests.untracked import NoTracking


def context(folder, limits=None, **source) -> RunContext:
    config = build({"ingest": {"source": source, "rows_per_part": 2, "limits": limits or {}}})
    return RunContext(config, str(folder / "run"), NoTracking())


def test_samples_in_parts_and_facts_beside_them(tmp_path):
    (tmp_path / "list.csv").write_text(
        "uri,split,class_name\nc.jpg,test,Tern\na.jpg,,Gull\nb.jpg,train,\n,train,Gull\na.jpg,test,Gull\nd.jpg,,\n"
    )
    table = Run(context(tmp_path, kind="table", path=str(tmp_path / "list.csv"))).table("samples")
    rows = table.read().to_pylist()
    assert [(row["image_id"], row["uri"][-5:], row["split"], row["class_id"]) for row in rows] == [
        (0, "a.jpg", "train", 0),
        (1, "b.jpg", "train", None),
        (2, "c.jpg", "test", 1),
        (3, "d.jpg", "train", None),
    ]
    assert (table.rows, table.parts, table.failed) == (4, 2, 0)
    assert table.extra["splits"] == {"train": 3, "test": 1}
    assert (table.extra["duplicates"], table.extra["conflicts"], table.extra["without_uri"]) == (1, 1, 1)
    assert table.take(table.read()["image_id"].to_numpy()[[3, 0]], ["image_id"])["image_id"].to_pylist() == [3, 0]


def test_again_is_the_same_table_an_edited_file_another(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text("uri\na.jpg\n")
    options = {"kind": "table", "path": str(file)}
    first, again = (
        Run(context(tmp_path, **options)).table("samples"),
        Run(context(tmp_path, **options)).table("samples"),
    )
    assert first.uri == again.uri
    file.write_text("uri\nb.jpg\n")
    assert Run(context(tmp_path, **options)).table("samples").uri != first.uri


def test_a_folder_is_listed_again_when_asked(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "b.jpg").write_bytes(b"")
    options = {"kind": "folder", "path": str(photos)}
    assert Run(context(tmp_path, **options)).table("samples").rows == 1
    (photos / "a.jpg").write_bytes(b"")
    assert Run(context(tmp_path, **options)).table("samples").rows == 1
    assert Run(context(tmp_path, **options, snapshot="monday")).table("samples").rows == 2


def tars(folder, count: int, bad: int):
    for n in range(count):
        with tarfile.open(folder / f"{n:02d}.tar", "w") as tar:
            for name in ("a.jpg", "b.jpg"):
                tar.addfile(tarfile.TarInfo(name))
        if n < bad:  # cut in the header of its second member
            (folder / f"{n:02d}.tar").write_bytes((folder / f"{n:02d}.tar").read_bytes()[:700])


def test_one_damaged_tar_of_many_is_a_row_and_a_remark(tmp_path):
    tars(tmp_path, count=12, bad=1)
    table = Run(context(tmp_path, kind="webdataset", path=str(tmp_path))).table("samples")
    uris = table.read(["uri"])["uri"].to_pylist()
    assert table.rows == 12 * 2 - 1 + 1
    assert uris[-1].startswith(f"unlisted+file://{tmp_path}/00.tar#corrupt/")
    assert (table.extra["files"], table.extra["bad_files"]) == (12, 1)
    assert table.extra["remarks"] == [
        f"not read to its end: file://{tmp_path}/00.tar: from byte 512: the archive ends inside a header"
    ]


def test_too_many_damaged_tars_stop_the_run(tmp_path):
    tars(tmp_path, count=12, bad=2)
    with pytest.raises(TooManyFailures, match=r"2 of 12 files .* run.max_error_share = 0.01 allows: .*00\.tar: from"):
        Run(context(tmp_path, kind="webdataset", path=str(tmp_path))).table("samples")


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(SourceError, match="there is no such file"):
        Run(context(tmp_path, kind="table", path=str(tmp_path / "gone.csv"))).table("samples")


def test_what_is_left_out_is_in_the_log_and_the_manifest(tmp_path, caplog):
    photos = tmp_path / "photos"
    for name in ("a.jpg", "b.cr2", "c.CR2", "d.txt", ".e.jpg", "@eaDir/a.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"")
    with caplog.at_level(logging.INFO):
        table = Run(context(tmp_path, kind="folder", path=str(photos))).table("samples")
    assert table.extra["left_out"] == {"ending": {".cr2": 2, ".txt": 1}, "hidden": {".*": 1}, "excluded": {"@eaDir": 1}}
    assert {name: number for name, number in table.extra["metrics"].items() if name.startswith("left_out")} == {
        "left_out_ending": 3.0,
        "left_out_hidden": 1.0,
        "left_out_excluded": 1.0,
    }
    said = {record.getMessage(): record.levelname for record in caplog.records if "left out" in record.getMessage()}
    assert said == {
        "ingest: 3 files were left out by their ending: 2 .cr2, 1 .txt (ingest.source.extensions)": "WARNING",
        "ingest: 1 hidden file or folder was left out": "INFO",
        "ingest: 1 file or folder was left out by its name: 1 @eaDir (ingest.source.exclude)": "INFO",
    }


@pytest.mark.parametrize(("beside", "level"), [("index.json", "INFO"), ("photo.jpg", "WARNING")])
def test_photos_beside_archives_are_warned_of(tmp_path, caplog, beside, level):
    tars(tmp_path, count=1, bad=0)
    (tmp_path / beside).write_bytes(b"")
    with caplog.at_level(logging.INFO):
        Run(context(tmp_path, kind="webdataset", path=str(tmp_path))).table("samples")
    (record,) = [record for record in caplog.records if "beside the archives" in record.getMessage()]
    assert record.levelname == level
    assert record.getMessage() == f"ingest: 1 file beside the archives was not read: 1 {beside[beside.index('.') :]}"


OLD_ENDINGS = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"]


def test_a_listing_by_the_defaults_stays_when_a_later_version_lists_more_by_default(tmp_path, caplog):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"")
    first = Run(context(tmp_path, kind="folder", path=str(photos))).table("samples")
    assert set(ingest.deciding(context(tmp_path, kind="folder", path=str(photos)).config.ingest.source)) == {
        *("kind", "path", "class_from", "split_from", "snapshot")
    }
    assert "earlier version" not in caplog.text
    # Whoever asks for these eight, or for other names, gets another table than whoever asks for the default.
    others = [
        Run(context(tmp_path, kind="folder", path=str(photos), **more)).table("samples").fingerprint
        for more in ({"extensions": OLD_ENDINGS}, {"extensions": [".jpg"]}, {"exclude": []}, {"exclude": ["x"]})
    ]
    assert len({first.fingerprint, *others}) == 5
    # One that an earlier version has listed is kept, and it is said what that means.
    del first.extra["left_out"]
    first.commit()
    assert Run(context(tmp_path, kind="folder", path=str(photos))).table("samples").uri == first.uri
    assert "listed by an earlier version" in caplog.text


def test_a_table_counts_by_its_rows_and_where_relative_ones_start(tmp_path):
    (tmp_path / "list.csv").write_text("uri\na.jpg\n")
    source = build({"ingest": {"source": {"kind": "table", "path": str(tmp_path / "list.csv")}}}).ingest.source
    newer = {"group_column", "test_share", "test_seed"}  # they count where they are used
    expected = source.model_dump(mode="json", exclude={"replaced", *newer}) | {
        "metadata_columns": [],
        "path": [str(tmp_path), ".csv"],
    }
    assert ingest.deciding(source) == expected


def test_a_table_that_an_earlier_version_has_read_is_kept_and_said(tmp_path, caplog):
    (tmp_path / "list.csv").write_text("uri,class_name\na.jpg,NA\n")
    first = Run(context(tmp_path, kind="table", path=str(tmp_path / "list.csv"))).table("samples")
    assert "earlier version" not in caplog.text
    del first.extra["left_out"]
    first.commit()
    assert Run(context(tmp_path, kind="table", path=str(tmp_path / "list.csv"))).table("samples").uri == first.uri
    assert "NA, null and nan for empty cells" in caplog.text
    assert "another run.name lists them again" in caplog.text


def test_what_a_table_lacks_is_logged_and_kept(tmp_path, caplog):
    (tmp_path / "list.csv").write_text("uri,Split,class_name\na.jpg,test,mug\nb.jpg,test,\n")
    table = Run(context(tmp_path, kind="table", path=str(tmp_path / "list.csv"))).table("samples")
    near, missing = table.extra["remarks"]
    assert "is Split meant?" in near
    assert missing == "1 of 2 photos (50%) have no class"
    assert {f"ingest: {near}", f"ingest: {missing}"} <= set(caplog.messages)


def test_a_slip_in_a_column_ends_before_anything_is_started(tmp_path, monkeypatch, capsys):
    (tmp_path / "list.csv").write_text("uri,label\na.jpg,mug\n")
    words = {"kind": "table", "path": str(tmp_path / "list.csv"), "class_column": "lable"}
    flags = [word for name, value in words.items() for word in (f"--ingest.source.{name}", value)]
    monkeypatch.setattr("sys.argv", ["ingest.py", *flags])
    monkeypatch.setattr("cluster.run.open_run", lambda _: pytest.fail("it was started"))
    with pytest.raises(SystemExit) as caught:
        stage_main("ingest", "samples")
    assert caught.value.code == 2
    assert "did you mean label?" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "message"), [("gone", "there is nothing"), ("a.jpg", "is a file")])
def test_a_place_that_cannot_be_a_folder_of_photos_ends_before_anything_is_started(tmp_path, path, message):
    (tmp_path / "a.jpg").write_bytes(b"")
    source = build({"ingest": {"source": {"kind": "folder", "path": str(tmp_path / path)}}}).ingest.source
    with pytest.raises(SourceError, match=message):
        check_place(source)


def test_allowed_roots_count_in_the_listing_and_in_no_other_stage(tmp_path):
    """They decide which rows fail; runs that were finished without them stay finished."""
    (tmp_path / "list.csv").write_text(f"uri\n{tmp_path}/a.jpg\n/elsewhere/b.jpg\n")

    def listed(**limits):
        source = {"kind": "table", "path": str(tmp_path / "list.csv")}
        config = build({"ingest": {"source": source, "limits": limits}})
        return Run(RunContext(config, str(tmp_path / "run"), NoTracking())).table("samples"), plain(
            config.ingest.limits
        )

    (own, before), (given, after) = listed(), listed(allowed_roots=["/photos"])
    assert own.version != given.version
    assert before == after
    assert "allowed_roots" not in before
    assert own.read()["uri"].to_pylist() == ["/elsewhere/b.jpg", f"{tmp_path}/a.jpg"]
    assert [uri.startswith("unlisted+") for uri in given.read()["uri"].to_pylist()] == [False, True]
    assert "1 rows name places" in given.extra["remarks"][0]


def two_photos(folder: Path) -> Path:
    photos = folder / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (photos / name).write_bytes(b"1")
    return photos


def replace_photo(file, data: bytes, seconds: float = 5):
    """Another content under the same name, at another time."""
    file.write_bytes(data)
    then = file.stat().st_mtime + seconds
    os.utime(file, (then, then))


def test_a_renamed_list_is_the_same_source_and_one_of_an_earlier_version_is_found(tmp_path, monkeypatch):
    def listed(name: str) -> str:
        return Run(context(tmp_path, kind="table", path=str(tmp_path / name))).table("samples").uri

    (tmp_path / "list.v1.csv").write_text("uri\na.jpg\n")
    with monkeypatch.context() as earlier:
        now = ingest.deciding
        earlier.setattr(ingest, "deciding", lambda source: ingest._as_before(source, now(source)))
        made = listed("list.v1.csv")
    assert listed("list.v1.csv") == made
    shutil.copy(tmp_path / "list.v1.csv", tmp_path / "list.v2.csv")
    renamed = listed("list.v2.csv")
    assert renamed != made  # nothing says which name it had
    shutil.copy(tmp_path / "list.v1.csv", tmp_path / "list.csv")
    assert listed("list.csv") == listed("list.v2.csv") == renamed
    (tmp_path / "list.v2.csv").rename(tmp_path / "list.v2.tsv")  # the ending says how it is read
    assert listed("list.v2.tsv") != renamed


def test_the_default_endings_count_in_no_order(tmp_path):
    def of(**more) -> dict:
        return ingest.deciding(build({"ingest": {"source": {"kind": "folder", "path": "/p", **more}}}).ingest.source)

    turned = [ending.upper() for ending in reversed(IMAGE_ENDINGS)]
    assert of(extensions=turned) == of()
    assert of(extensions=turned[1:]) != of()


def test_photos_that_were_replaced_under_their_names_are_another_table(tmp_path, caplog):
    photos = two_photos(tmp_path)
    options = {"kind": "folder", "path": str(photos)}
    first = Run(context(tmp_path, **options)).table("samples")
    (photos / "c.jpg").write_bytes(b"new files wait for another snapshot")
    (photos / "notes.txt").write_bytes(b"1")
    assert Run(context(tmp_path, **options)).table("samples") == first
    replace_photo(photos / "b.jpg", b"2")  # of the same size
    assert Run(context(tmp_path, **options, replaced="keep")).table("samples") == first
    assert "replaced" not in caplog.text
    second = Run(context(tmp_path, **options)).table("samples")
    assert (second.uri != first.uri, second.rows) == (True, 3)
    assert "1 of 2 listed files were replaced since (size, time or ETag; " in caplog.text
    assert "b.jpg" in caplog.text
    assert Run(context(tmp_path, **options)).table("samples") == second
    replace_photo(photos / "a.jpg", b"33")
    third = Run(context(tmp_path, **options)).table("samples")
    assert len({first.uri, second.uri, third.uri}) == 3
    (photos / "b.jpg").unlink()  # its row will fail, if it is read at all
    assert Run(context(tmp_path, **options)).table("samples") == third


def test_remarks_in_the_manifest_hold_no_secret_of_the_sources_address(tmp_path):
    token = f"ghp_{'a1B2' * 9}"
    (tmp_path / token).mkdir()
    (tmp_path / token / "list.csv").write_text("uri,Split\na.jpg,test\n")
    remarks = (
        Run(context(tmp_path, kind="table", path=str(tmp_path / token / "list.csv"))).table("samples").extra["remarks"]
    )
    assert any("/***/list.csv has no column split" in remark for remark in remarks)
    assert not any(token in remark for remark in remarks)


def test_photos_behind_a_link_that_is_allowed_are_looked_at_as_well(tmp_path):
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for folder in (photos, elsewhere):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"1")
    (photos / "more").symlink_to(elsewhere)
    options = {"kind": "folder", "path": str(photos)}
    limits = {"allowed_roots": [str(elsewhere)]}
    first = Run(context(tmp_path, limits=limits, **options)).table("samples")
    assert first.rows == 2
    replace_photo(elsewhere / "a.jpg", b"2")
    assert Run(context(tmp_path, limits=limits, **options)).table("samples").uri != first.uri


@pytest.mark.parametrize("path", ["", "/00.tar", "/{00..01}.tar"])
def test_tars_that_were_replaced_are_another_table(tmp_path, path):
    shards = tmp_path / "shards"
    shards.mkdir()
    tars(shards, count=2, bad=0)
    options = {"kind": "webdataset", "path": f"{shards}{path}"}
    first = Run(context(tmp_path, **options)).table("samples")
    assert Run(context(tmp_path, **options)).table("samples") == first
    replace_photo(shards / "00.tar", (shards / "01.tar").read_bytes())
    assert Run(context(tmp_path, **options)).table("samples").uri != first.uri


def test_more_files_than_are_looked_at_are_left_to_snapshot(tmp_path, monkeypatch):
    monkeypatch.setattr("fgvr.sources.marks.MOST", 1)
    photos = two_photos(tmp_path)
    options = {"kind": "folder", "path": str(photos)}
    first = Run(context(tmp_path, **options)).table("samples")
    replace_photo(photos / "b.jpg", b"22")
    assert Run(context(tmp_path, **options)).table("samples") == first
    assert Run(context(tmp_path, **options, snapshot="2")).table("samples").uri != first.uri


def test_objects_that_were_replaced_are_another_table(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        storage.write_bytes(f"memory://replaced/{name}", b"1")
    options = {"kind": "folder", "path": "memory://replaced/"}
    first = Run(context(tmp_path, **options)).table("samples")
    assert Run(context(tmp_path, **options)).table("samples") == first
    storage.write_bytes("memory://replaced/a.jpg", b"2")
    assert Run(context(tmp_path, **options)).table("samples").uri != first.uri


def listed_photos(folder: Path, kind: str) -> tuple[Path, dict[str, str]]:
    """A listed photo on this disk, and the source."""
    if kind == "layout":
        root = cub(folder)
        return next(root.rglob("*.jpg")), {"kind": kind, "name": "cub", "path": str(root)}
    two_photos(folder)
    photos = folder / "photos"
    if kind == "coco":
        empty = {"annotations": [], "categories": [{"id": 1, "name": "owl"}]}
        for split, name in (("train", "a.jpg"), ("test", "b.jpg")):
            images = [{"id": 1, "file_name": name, "width": 8, "height": 8}]
            (folder / f"{split}.json").write_text(json.dumps({"images": images, **empty}))
        named = {f"{split}_annotations": f"{split}.json" for split in ("train", "test")}
        return photos / "a.jpg", {
            "kind": kind,
            "path": str(folder),
            **named,
            "train_images": "photos",
            "test_images": "photos",
        }
    (folder / "list.csv").write_text(
        f"uri\nphotos/a.jpg\nfile://{photos}/b.jpg\nphotos/later.jpg\nhttps://example.org/c.jpg\n"
    )
    return photos / "b.jpg", {"kind": kind, "path": str(folder / "list.csv")}


@pytest.mark.parametrize("kind", ["table", "layout", "coco"])
def test_photos_on_disks_that_a_list_names_are_looked_at(tmp_path, kind, caplog):
    photo, options = listed_photos(tmp_path, kind)
    first = Run(context(tmp_path, **options)).table("samples")
    assert Run(context(tmp_path, **options)).table("samples") == first
    (tmp_path / "photos").mkdir(exist_ok=True)
    (tmp_path / "photos" / "later.jpg").write_bytes(b"was missing when it was listed")
    replace_photo(photo, b"2")
    assert Run(context(tmp_path, **options, replaced="keep")).table("samples") == first
    assert "replaced" not in caplog.text
    second = Run(context(tmp_path, **options)).table("samples")
    assert second.uri != first.uri
    assert f"1 of {2 if kind != 'layout' else 4} listed files were replaced since" in caplog.text
    assert Run(context(tmp_path, **options)).table("samples") == second
    if kind == "table":
        replace_photo(tmp_path / "photos" / "later.jpg", b"and now it is looked at")
        assert Run(context(tmp_path, **options)).table("samples").uri != second.uri


def test_of_photos_inside_of_tars_the_tars_are_looked_at(tmp_path):
    tars(tmp_path, count=2, bad=0)
    inside = [TarPlace((tmp_path / f"{n:02d}.tar").as_uri(), 512, 0, "a.jpg").uri for n in range(2)]
    (tmp_path / "list.csv").write_text("\n".join(["uri", *inside, "tar+file:///x.tar#damaged", "s3://b/a.jpg"]))
    options = {"kind": "table", "path": str(tmp_path / "list.csv")}
    first = Run(context(tmp_path, **options)).table("samples")
    assert Run(context(tmp_path, **options)).table("samples") == first
    replace_photo(tmp_path / "00.tar", (tmp_path / "01.tar").read_bytes())
    assert Run(context(tmp_path, **options)).table("samples").uri != first.uri


def test_of_long_lists_no_photo_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("fgvr.sources.marks.MOST", 1)
    photo, options = listed_photos(tmp_path, "table")
    first = Run(context(tmp_path, **options)).table("samples")
    replace_photo(photo, b"2")
    assert Run(context(tmp_path, **options)).table("samples") == first


@pytest.mark.parametrize("kind", ["table", "layout", "coco"])
def test_a_snapshot_is_the_way_by_hand_for_lists_of_photos(tmp_path, kind):
    named = {"name": "dtd"} if kind == "layout" else {}
    made = [
        build({"ingest": {"source": {"kind": kind, "path": str(tmp_path), **named, **more}}}).ingest.source
        for more in ({}, {"snapshot": "2"})
    ]
    assert ingest.deciding(made[0]) != ingest.deciding(made[1])
