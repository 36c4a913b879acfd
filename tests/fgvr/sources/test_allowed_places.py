"""What a source may name: a person's own table what he likes, a stranger's one nothing of this machine."""

import io
import json
import tarfile
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fgvr import storage
from fgvr.config import build
from fgvr.config.data import CocoSource, FolderSource, ImageLimits, LayoutSource, TableSource, WebDatasetSource
from fgvr.images.places import is_inside
from fgvr.images.read import ImageError, read_image, read_image_bytes
from fgvr.schemas import Reason
from fgvr.sources.allowed_places import AllowedPlaces
from fgvr.sources.source import read_source

LIMITS = ImageLimits()


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(path)
    return path


def refused(uri: str) -> bool:
    """Whether a row fails, with the reason and the remedy."""
    if not uri.startswith("unlisted+"):
        return False
    with pytest.raises(ImageError, match=r"ingest\.limits\.allowed_roots") as caught:
        read_image_bytes(uri, LIMITS)
    assert caught.value.reason is Reason.NOT_ALLOWED
    return True


def listed(table: str, uris: list[str], roots: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """(URIs that may be read, remarks) of a table at a place."""
    storage.write_bytes(table, "\n".join(["uri", *uris]).encode())
    found = read_source(TableSource(path=table), "", roots)
    rows = found.rows["uri"].to_pylist()
    assert len(rows) == len(uris)
    return [uri for uri in rows if not refused(uri)], list(found.remarks)


def test_a_persons_own_table_names_what_he_likes(tmp_path):
    """Absolute paths on the same machine, other disks, buckets and the web: as ever, without any flag."""
    elsewhere = photo(tmp_path / "disk2/photos/a.jpg")
    uris = [str(elsewhere), "b.jpg", "../disk2/photos/c.jpg", f"file://{tmp_path}/d%20e.jpg", "/data/photos/f.jpg"]
    uris += ["s3://my-bucket/g.jpg", "https://shop.example/h.jpg", "/run/media/me/card/i.jpg", "/dev/shm/j.jpg"]  # noqa: S108
    fine, remarks = listed(str(tmp_path / "lists/mine.csv"), uris)
    assert len(fine) == len(uris)
    assert f"{tmp_path}/disk2/photos/c.jpg" in fine
    assert read_image(str(elsewhere), LIMITS).size == (40, 30)
    # Where files of this machine stand beside other people's addresses, somebody may have slipped them in.
    assert any("6 rows" in remark and "allowed_roots" in remark for remark in remarks), remarks
    assert listed(str(tmp_path / "lists/local.csv"), uris[:5])[1] == []
    odd = ["/data/100%.jpg", "/data/M%C3%BCsli.jpg", "/data/a\\b.jpg", "/home/x/.fastai/data/pets/a.jpg"]
    assert len(listed(str(tmp_path / "lists/odd.csv"), odd)[0]) == 4
    hidden = ["/home/x/.photos/a.jpg"]
    assert listed(str(tmp_path / "lists/hidden.csv"), hidden)[0] == []
    assert listed(str(tmp_path / "lists/hidden.csv"), hidden, ("/home/x/.photos",))[0] == hidden


@pytest.mark.parametrize(
    "uri",
    [
        *("/etc/passwd", "/proc/self/environ", "/sys/kernel/x.png", "/dev/zero", "/dev/sda", "/boot/x.jpg", "/dev/x"),
        *("/home/x/.kaggle/kaggle.json", "file:///home/x/%2ecache/huggingface/token", "/home/x/.env", "/data/app/.env"),
        *("/home/x/.ssh/id.png", "/root/.aws/credentials", "file:///etc/passwd", "file://localhost/proc/1/environ"),
        *(
            "../../../../../../../../../../../../etc/passwd",
            "/photos/../etc/x.jpg",
            "FILE:///proc/kmsg",
            "file:///%65tc/x",
        ),
        *("/%65tc/passwd", "/data/..\\..\\etc\\passwd", "/%2e%2e/proc/x", "/data/%2E%2e/%2E%2e/etc/x"),
        *("tar+file:///etc/x.tar#000000000000512+9/a.jpg", "parquet+file:///proc/x#000000.000000000/00000000/image"),
    ],
)
def test_no_table_names_the_systems_files(tmp_path, uri):
    fine, remarks = listed(str(tmp_path / "mine.csv"), [uri, "a.jpg"])
    assert fine == [f"{tmp_path}/a.jpg"]
    assert "1 rows name places" in remarks[-1]


@pytest.fixture
def bucket():
    name = f"memory://b{uuid.uuid4().hex[:8]}"
    yield name
    storage.remove(name)


def test_a_table_in_a_bucket_names_that_bucket_and_the_web(bucket):
    uris = ["a.jpg", "sub/b.jpg", f"{bucket}/other/c.jpg", "https://shop.example/d.jpg", "HTTP://shop.example/e.jpg"]
    bad = ["/home/x/scan.png", "file:///home/x/s%20.png", "s3://private/f.jpg", f"{bucket}2/g.jpg", "memory://b/h.jpg"]
    bad += [f"tar+file:///data/x.tar#{512:015d}+9/a.jpg", f"tar+s3://private/x.tar#{512:015d}+9/a.jpg"]
    fine, remarks = listed(f"{bucket}/lists/theirs.csv", uris + bad)
    assert len(fine) == len(uris)
    assert f"{len(bad)} rows name places" in remarks[-1]

    roots = ("/home/x", "s3://private/", f"{bucket}2")
    fine, _ = listed(f"{bucket}/lists/theirs.csv", uris + bad, roots)
    assert {uri for uri in fine if uri not in uris and "lists/" not in uri} == {
        *("/home/x/scan.png", "/home/x/s .png", "s3://private/f.jpg", f"{bucket}2/g.jpg", bad[6])
    }


def test_the_same_bucket_by_another_name_of_its_scheme():
    places = AllowedPlaces("s3a://photos/list.csv", "s3a://photos")
    for uri in ("s3://photos/a.jpg", "S3A://photos/x/b.jpg"):
        assert places.allows(uri)
    for uri in ("s3://photos2/a.jpg", "s3://photo/a.jpg", "gs://photos/a.jpg", "/photos/a.jpg"):
        assert not places.allows(uri)
    web = AllowedPlaces("https://host.example/list.csv", "https://host.example")
    assert web.allows("https://other.example/a.jpg")
    assert not any(map(web.allows, ["/data/a.jpg", "s3://bucket/a.jpg", "file:///data/a.jpg"]))
    hub = AllowedPlaces("hf://datasets/me/birds/list.csv", "hf://datasets/me/birds")
    assert hub.allows("hf://datasets/me/birds/a.jpg")
    assert not hub.allows("hf://datasets/me/secret/a.jpg")


@pytest.mark.parametrize("own", ["hf://datasets/me/birds", "az://photos", "s3://photos"])
def test_no_key_leads_up_to_another_bucket_or_repository(own):
    """Keys become parts of web addresses, in which `..` is a step upwards: other places of the same credentials."""
    places = AllowedPlaces(f"{own}/lists/list.csv", f"{own}/lists")
    bad = [f"{own}/../secret/a.jpg", f"{own}/a/../../../secret/a.jpg", f"{own}/./a.jpg", f"{own}/a/.."]
    bad += [f"tar+{own}/../x.tar#{512:015d}+9/a.jpg"]
    fine = [f"{own}/a..jpg", f"{own}/..a/.b/c.jpg", f"{own}/a//b.jpg"]
    uris = places.checked(pa.array(fine + bad)).to_pylist()
    assert uris[: len(fine)] == fine
    assert all(uri.startswith("unlisted+") for uri in uris[len(fine) :])
    assert places.refused == len(bad)


def test_given_roots_are_the_only_ones(tmp_path):
    """Who was given a table by somebody else says what it may name."""
    secret, fine = photo(tmp_path / "home/scan.png"), photo(tmp_path / "photos/a.png")
    photo(tmp_path / "lists/own.png")
    (tmp_path / "photos/link.png").symlink_to(secret)
    (tmp_path / "photos/folder").symlink_to(tmp_path / "home")
    (tmp_path / "alias").symlink_to(tmp_path / "photos")
    uris = [str(fine), str(secret), "own.png", f"{tmp_path}/photos/link.png", f"{tmp_path}/photos/folder/scan.png"]
    uris += [
        f"{tmp_path}/photos/../home/scan.png",
        f"{tmp_path}/photos2/x.png",
        "s3://bucket/a.jpg",
        "https://h.example/a",
    ]
    uris[5] = f"{tmp_path}/photos/sub/../../home/scan2.png"
    expected = [f"{tmp_path}/lists/own.png", str(fine), "https://h.example/a"]
    for root in (f"{tmp_path}/photos", f"{tmp_path}/photos/", f"file://{tmp_path}/photos", f"{tmp_path}/alias"):
        assert listed(str(tmp_path / "lists/theirs.csv"), uris, (root,))[0] == sorted(expected)
    everything, _ = listed(str(tmp_path / "lists/theirs.csv"), uris, ("/", "s3://bucket"))
    assert len(everything) == len(uris)


def test_millions_of_rows_are_looked_at_as_columns(tmp_path):
    """A table in Parquet, with nulls; only what is refused changes."""
    uris = pa.array(["/data/a.jpg", None, "", "/etc/x.jpg", "b.jpg"] * 2000)
    pq.write_table(pa.table({"uri": uris}), tmp_path / "list.parquet")
    found = read_source(TableSource(path=str(tmp_path / "list.parquet")), "")
    rows = found.rows["uri"].to_pylist()
    assert rows[:2] == ["/data/a.jpg", f"{tmp_path}/b.jpg"]
    assert len(rows) == 3
    assert found.without_uri == 4000
    assert refused(rows[2])


def test_coco_files_name_images_below_their_folder(tmp_path):
    photo(tmp_path / "coco/train/a.png")
    secret = photo(tmp_path / "secret.png")
    (tmp_path / "coco/train/link.png").symlink_to(secret)
    names = [
        "a.png",
        "../../secret.png",
        "link.png",
        "../train/a.png",
        "..\\..\\secret.png",
        "%2e%2e/%2e%2e/secret.png",
    ]
    nothing_on_them = {"annotations": [], "categories": [{"id": 1, "name": "bird"}]}
    images = [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names)]
    for split in ("train", "test"):
        (tmp_path / f"coco/{split}.json").write_text(
            json.dumps({"images": images if split == "train" else images[:1], **nothing_on_them})
        )
    source = CocoSource(
        path=str(tmp_path / "coco"),
        train_annotations="train.json",
        test_annotations="test.json",
        train_images="train",
        test_images="train",
    )
    found = read_source(source, "")
    assert sum(map(refused, found.rows["uri"].to_pylist())) == 4
    assert any("4 rows name places" in remark for remark in found.remarks)
    allowed = read_source(source, "", (str(tmp_path),))
    assert not any(map(is_inside, allowed.rows["uri"].to_pylist()))


def test_links_to_archives_elsewhere(tmp_path):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    for place in ("shards/1.tar", "elsewhere/2.tar"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(sink.getvalue())
    (tmp_path / "shards/2.tar").symlink_to(tmp_path / "elsewhere/2.tar")
    source = WebDatasetSource(path=str(tmp_path / "shards"))
    found = read_source(source, "")
    assert [refused(uri) for uri in found.rows["uri"].to_pylist()] == [False, True]
    assert "allowed_roots" in found.bad_files[0]
    assert len(read_source(source, "", (str(tmp_path / "elsewhere"),)).bad_files) == 0


def test_a_link_that_is_the_source_itself_is_followed(tmp_path):
    photo(tmp_path / "real/a.png")
    (tmp_path / "real/b.png").symlink_to("a.png")
    (tmp_path / "photos").symlink_to(tmp_path / "real")
    rows = read_source(FolderSource(path=str(tmp_path / "photos")), "").rows["uri"].to_pylist()
    assert rows == [f"{tmp_path}/photos/a.png", f"{tmp_path}/photos/b.png"]


@pytest.mark.parametrize("lists_own_files", [False, True])
def test_a_list_in_a_home_folder_names_none_of_its_keys(lists_own_files):
    """What lies below the list's own folder may be named, but keys do not belong to it because it lies in ~."""
    keys = ["/home/x/.ssh/id.png", "/home/x/.kaggle/kaggle.json", "/home/x/app/.env"]
    home = AllowedPlaces("/home/x/list.csv", "/home/x", lists_own_files=lists_own_files)
    photos = ["/home/x/a.jpg", "/home/x/b/.c.jpg", "/home/x/.cache/fgvr/d.jpg"]
    checked = home.checked(pa.array([*photos, *keys])).to_pylist()
    assert checked[:3] == photos
    assert all(map(refused, checked[3:]))
    hidden = AllowedPlaces("/home/x/.photos/list.csv", "/home/x/.photos", lists_own_files=lists_own_files)
    assert hidden.checked(pa.array(["/home/x/.photos/a/b.jpg"])).to_pylist() == ["/home/x/.photos/a/b.jpg"]
    assert refused(hidden.checked(pa.array([keys[0]]))[0].as_py())
    root = AllowedPlaces("/list.csv", "/", lists_own_files=lists_own_files)
    assert refused(root.checked(pa.array(["/etc/passwd"]))[0].as_py())


def test_layouts_name_photos_below_their_folder(tmp_path):
    """Pets' lists name photos without folders; one that was tampered with leads out of it."""
    root = tmp_path / "pets"
    photo(tmp_path / "Secret_1.jpg")
    photo(root / "images/Abyssinian_1.jpg")
    (root / "annotations").mkdir()
    for name, lines in (("trainval", ["Abyssinian_1 1 1 1", "../../Secret_1 2 1 1"]), ("test", ["Abyssinian_1 1 1 1"])):
        (root / f"annotations/{name}.txt").write_text("\n".join(lines))
    found = read_source(LayoutSource(name="pets", path=str(root)), "")
    assert sorted(map(refused, found.rows["uri"].to_pylist())) == [False, True]


def test_the_setting():
    config = build({"ingest": {"limits": {"allowed_roots": ["/data/photos", "s3://bucket/2024"]}}})
    assert config.ingest.limits.allowed_roots == ("/data/photos", "s3://bucket/2024")
    assert build({}).ingest.limits.allowed_roots == ()
