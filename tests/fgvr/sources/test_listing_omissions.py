"""What sources leave out, by ending and by reason, on disks, in object stores and in tars."""

import io
import tarfile
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgvr.config.data import FolderSource, ImageLimits, ParquetSource, WebDatasetSource
from fgvr.images.read import ImageError, read_image_bytes
from fgvr.schemas import Reason
from fgvr.sources.source import SourceError, read_source

# A share as a NAS, a Mac, a PC and a camera leave it: name → whether it is a photo.
SHARE = {
    "mug/IMG_1.jpg": True,
    "mug/IMG_2.JPE": True,
    "mug/IMG_2.CR2": False,
    "mug/IMG_3.heic.txt": False,
    "mug/IMG_4.MOV": False,
    "mug/@eaDir/IMG_1.jpg/SYNOPHOTO_THUMB_XL.jpg": False,
    "mug/@eaDir/IMG_2.JPE/SYNOPHOTO_THUMB_XL.jpg": False,
    "mug/.@__thumb/IMG_1.jpg": False,
    "mug/.@__thumb/IMG_2.jpg": False,
    "mug/._IMG_1.jpg": False,
    "mug/Thumbs.db": False,
    "mug/README": False,
    "cup/a.avif": True,
    "cup/b.jxl": False,
    "cup/__MACOSX/cup/c.jpg": False,
    "#recycle/old.jpg": False,
    "$Recycle.Bin/S-1-5-21/gone.jpg": False,
    "System Volume Information/x.png": False,
    "lost+found/y.png": False,
    "#snapshot/GMT-2026/mug/IMG_1.jpg": False,
    ".DS_Store": False,
}
ENDINGS = {".cr2": 1, ".jxl": 1, ".mov": 1, ".txt": 1, "without ending": 1}
EXCLUDED = {
    "@eaDir": 1,
    "__MACOSX": 1,
    "#recycle": 1,
    "$RECYCLE.BIN": 1,
    "System Volume Information": 1,
    "lost+found": 1,
    "#snapshot": 1,
    "Thumbs.db": 1,
}
HIDDEN = {".*": 3}
"""A folder counts once, and so does all that is in it."""


def as_facts(left_out):
    return {why: dict(sorted(counts.items())) for why, counts in left_out.items()}


def check(listed, root):
    photos = sorted(f"{root}/{name}" for name, photo in SHARE.items() if photo)
    assert listed.rows["uri"].to_pylist() == photos
    assert set(listed.rows["class_name"].to_pylist()) == {"mug", "cup"}
    assert as_facts(listed.left_out) == {
        "ending": dict(sorted(ENDINGS.items())),
        "hidden": HIDDEN,
        "excluded": dict(sorted(EXCLUDED.items())),
    }


def test_a_share_on_a_disk(tmp_path):
    for name in SHARE:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    check(read_source(FolderSource(path=str(tmp_path), class_from="parent"), ""), tmp_path)


def test_the_same_share_in_a_bucket(s3):
    s3.makedirs("share", exist_ok=True)
    for name in SHARE:
        s3.pipe_file(f"share/nas/{name}", b"x")
    check(read_source(FolderSource(path="S3://share/nas", class_from="parent"), ""), "s3://share/nas")


def test_the_same_share_in_another_store():
    place = uuid.uuid4().hex
    for name in SHARE:
        fsspec.filesystem("memory").pipe_file(f"/{place}/{name}", b"x")
    check(read_source(FolderSource(path=f"memory://{place}", class_from="parent"), ""), f"memory:///{place}")


def write_tar(path, names):
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    return path


def test_the_same_share_in_a_tar(tmp_path):
    write_tar(tmp_path / "share.tar", [f"./{name}" for name in SHARE])
    listed = read_source(WebDatasetSource(path=str(tmp_path)), "")
    assert listed.kept.rows == sum(SHARE.values())
    facts = as_facts(listed.left_out)
    assert facts["hidden"] == HIDDEN
    assert facts["excluded"] == dict(sorted(EXCLUDED.items()))
    assert facts["ending"] == dict(sorted(ENDINGS.items()))


def test_what_lies_beside_a_photo_in_a_tar_is_told_from_what_may_be_one(tmp_path):
    names = []
    for n in range(2_500):  # above what waits in memory for a group
        names += [f"{n}.jpg", f"{n}.cls", f"{n}.txt", f"{n}.boxes.json"]
    names += ["lone.txt", "pair.jpg", "pair.heic", "pair.dng", "LICENSE", *(f"many.{n % 3}x" for n in range(2_500))]
    write_tar(tmp_path / "a.tar", names)
    write_tar(tmp_path / "b.tar", ["0.JXL", "0.cls", "1.jpg", "1.cls"])
    for name in ("index.json", "a.idx", "@eaDir/a.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listed = read_source(WebDatasetSource(path=str(tmp_path), class_from="cls", extensions=(".jpg",)), "")
    assert listed.kept.rows == 2_502
    assert listed.files == 2
    assert as_facts(listed.left_out) == {
        "ending": {
            ".0x": 834,
            ".1x": 833,
            ".2x": 833,
            ".dng": 1,
            ".heic": 1,
            ".jxl": 1,
            ".txt": 1,
            "without ending": 1,
        },
        "beside": {".json": 2_500, ".txt": 2_500},
        "excluded": {"@eaDir": 1},
        "no_archive": {".idx": 1, ".json": 1},
    }


def test_resource_forks_between_members_do_not_part_a_photo_from_its_class(tmp_path):
    """As macOS's tar writes them: each member has its `._` file before it."""
    with tarfile.open(tmp_path / "mac.tar", "w") as tar:
        for name, data in [("._0.jpg", b"f"), ("0.jpg", b"x"), ("._0.txt", b"f"), ("0.txt", b"mug")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    listed = read_source(WebDatasetSource(path=str(tmp_path), class_from="txt"), "")
    assert listed.rows["class_name"].to_pylist() == ["mug"]
    assert listed.left_out == {"hidden": {".*": 2}}


def test_parquet_files_in_a_folder_with_others(tmp_path):
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "a.parquet")
    for name in ("_SUCCESS", "README.md", ".a.parquet.crc", "#recycle/b.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listed = read_source(ParquetSource(path=str(tmp_path)), "")
    assert (listed.kept.rows, listed.files) == (1, 1)
    assert as_facts(listed.left_out) == {
        "hidden": {".*": 1},
        "excluded": {"#recycle": 1},
        "no_archive": {".md": 1, "without ending": 1},
    }


def test_a_list_of_ones_own_replaces_the_default(tmp_path):
    for name in ("@eaDir/a.jpg", "raw-2/b.jpg", "RAW-1/c.jpg", "c/d_thumb.jpg", "c/e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    own = FolderSource(path=str(tmp_path), class_from="parent", exclude=("raw-?", "*_thumb.*"))
    listed = read_source(own, "")
    assert listed.rows["class_name"].to_pylist() == ["@eaDir", "c"]
    assert as_facts(listed.left_out) == {"excluded": {"*_thumb.*": 1, "raw-?": 2}}
    everything = read_source(FolderSource(path=str(tmp_path), exclude=()), "")
    assert (everything.kept.rows, everything.left_out) == (5, {})


def test_a_pattern_finds_a_name_as_macos_writes_it(tmp_path):
    for name in ("Ru\u0308ckseite/a.jpg", "b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listed = read_source(FolderSource(path=str(tmp_path), exclude=("r\u00fcck*",)), "")
    assert (listed.kept.rows, listed.left_out) == (1, {"excluded": {"r\u00fcck*": 1}})


def test_names_that_merely_look_alike_are_photos(tmp_path):
    names = ["recycle", "my @eaDir", "System Volume", "lost and found", "Thumbs", "snapshot", "recycled", "MACOSX"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "Thumbs.jpg").write_bytes(b"x")
    listed = read_source(FolderSource(path=str(tmp_path), class_from="parent"), "")
    assert sorted(listed.rows["class_name"].to_pylist()) == sorted(names)
    # Nor does it matter what the source's own folder is called.
    (tmp_path / "@eaDir" / "thumbs").mkdir(parents=True)
    (tmp_path / "@eaDir" / "thumbs" / "a.jpg").write_bytes(b"x")
    assert read_source(FolderSource(path=str(tmp_path / "@eaDir")), "").kept.rows == 1


def test_nothing_but_what_is_left_out(tmp_path):
    (tmp_path / "@eaDir").mkdir()
    (tmp_path / "@eaDir" / "a.jpg").write_bytes(b"x")
    with pytest.raises(
        SourceError, match=r"no file ends in \.jpg.*1 file or folder was left out by its name: 1 @eaDir"
    ):
        read_source(FolderSource(path=str(tmp_path)), "")
    write_tar(tmp_path / "raw.tar", ["0.cr2", "0.xmp"])
    with pytest.raises(SourceError, match=r"no image is listed there .*2 files .* by their ending: 1 .cr2, 1 .xmp"):
        read_source(WebDatasetSource(path=str(tmp_path)), "")


def test_a_link_to_itself_is_a_row_that_fails(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    uris = read_source(FolderSource(path=str(tmp_path)), "").rows["uri"].to_pylist()
    assert [Path(uri).name for uri in uris] == ["a.jpg", "self.jpg"]
    with pytest.raises(ImageError) as caught:
        read_image_bytes(uris[1], ImageLimits())
    assert caught.value.reason is Reason.UNREADABLE
