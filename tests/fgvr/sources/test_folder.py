import os
from pathlib import Path

import pytest

from fgvr.config.data import FolderSource, ImageLimits
from fgvr.images.read import ImageError, read_image_bytes
from fgvr.schemas import Reason
from fgvr.sources.omissions import sentences
from fgvr.sources.source import SourceError, read_source, source_state


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def rows(source, columns=("uri", "split", "class_name"), root=""):
    table = read_source(source, "").rows
    return [
        tuple(str(value).removeprefix(str(root)) for value in row.values()) for row in table.select(columns).to_pylist()
    ]


def test_recursive_any_case_other_files_left_out(tmp_path):
    touch(tmp_path, "a.jpg", "sub/deep/b.PNG", "c.txt", ".d.jpg", ".cache/e.jpg")
    assert rows(FolderSource(path=str(tmp_path)), root=tmp_path) == [
        ("/a.jpg", "train", "None"),
        ("/sub/deep/b.PNG", "train", "None"),
    ]


def test_classes_and_splits_from_folders(tmp_path):
    touch(tmp_path, "train/Azure Finch/1.jpg", "test/Azure Finch/1.jpg", "test/Gull/2.jpg", "test/3.jpg", "4.jpg")
    by_both = FolderSource(path=str(tmp_path), class_from="parent", split_from="top")
    assert rows(by_both, root=tmp_path) == [
        ("/4.jpg", "train", "None"),
        ("/test/3.jpg", "test", "None"),
        ("/test/Azure Finch/1.jpg", "test", "Azure Finch"),
        ("/test/Gull/2.jpg", "test", "Gull"),
        ("/train/Azure Finch/1.jpg", "train", "Azure Finch"),
    ]
    by_class = FolderSource(path=str(tmp_path), class_from="parent")
    assert [row[2] for row in rows(by_class)] == ["None", "test", "Azure Finch", "Gull", "Azure Finch"]


def test_links_are_followed_once_where_they_may_lead(tmp_path):
    touch(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photos/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/circle").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/b2.jpg").symlink_to(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "photos/a2.jpg").symlink_to("a.jpg")
    source = FolderSource(path=str(tmp_path / "photos"))
    followed = read_source(source, "", allowed_roots=[str(tmp_path / "elsewhere")])
    names = [uri.removeprefix(str(tmp_path)) for uri in followed.rows["uri"].to_pylist()]
    assert len(names) == 4
    assert {"/photos/a.jpg", "/photos/a2.jpg", "/photos/b2.jpg"} < set(names)
    assert followed.left_out == {}

    # A folder may have come out of a stranger's archive: by itself it leads nowhere else.
    kept = read_source(source, "")
    *inside, refused = kept.rows["uri"].to_pylist()
    assert inside == [f"{tmp_path}/photos/a.jpg", f"{tmp_path}/photos/a2.jpg"]
    with pytest.raises(ImageError, match=r"allowed_roots names no place of .*elsewhere/b\.jpg") as caught:
        read_image_bytes(refused, ImageLimits())
    assert caught.value.reason is Reason.NOT_ALLOWED
    assert kept.left_out == {"link": {"folders": 2}}
    assert "2 links to folders outside of the source were not followed" in sentences(kept.left_out)["link"]


@pytest.mark.parametrize("path", ["photos", "file://{root}/photos", "{root}/photos/"])
def test_spellings_of_the_same_folder(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "photos/a.jpg")
    assert rows(FolderSource(path=path.format(root=tmp_path))) == [(f"{tmp_path}/photos/a.jpg", "train", "None")]


def test_messages(tmp_path, without_heif):
    touch(tmp_path, "notes.txt", "a.heic", "b.heic")
    with pytest.raises(SourceError, match=r"ingest.source.path = .*no file ends in .jpg.*found: 2 .heic, 1 .txt"):
        read_source(FolderSource(path=str(tmp_path)), "")
    with pytest.raises(SourceError, match="is a file; `kind: table` reads lists"):
        read_source(FolderSource(path=str(tmp_path / "notes.txt")), "")
    with pytest.raises(SourceError, match="is not there"):
        read_source(FolderSource(path=str(tmp_path / "nowhere")), "")


def test_a_new_photo_does_not_renumber_a_run(tmp_path):
    touch(tmp_path, "b.jpg")
    before = source_state(FolderSource(path=str(tmp_path)))
    touch(tmp_path, "a.jpg")
    assert source_state(FolderSource(path=str(tmp_path))) == before


def test_folders_that_look_alike_are_one_class(tmp_path):
    for number, name in enumerate(["Mu\u0308sli", "Müsli", "Müsli ", "Tea\u00a0Cup"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{number}.jpg").write_bytes(b"")
    (tmp_path / "9.jpg").write_bytes(b"")
    listed = read_source(FolderSource(path=str(tmp_path), class_from="parent"), "")
    by_file = {row["uri"].rsplit("/", 1)[-1]: row["class_name"] for row in listed.rows.to_pylist()}
    assert by_file == {"0.jpg": "Müsli", "1.jpg": "Müsli", "2.jpg": "Müsli", "3.jpg": "Tea Cup", "9.jpg": None}
    assert listed.remarks == ("1 of 5 photos (20%) have no class (ingest.source.class_from = parent)",)


def test_folders_in_a_code_page_are_classes_of_their_own(tmp_path):
    for name in (b"\xe4", b"\xf6"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"x")
    listed = read_source(FolderSource(path=str(tmp_path), class_from="parent"), "")
    assert listed.rows["class_name"].to_pylist() == [r"\xe4", r"\xf6"]
