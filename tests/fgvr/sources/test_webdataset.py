"""WebDataset tars: what is listed, how it is read where it is used, and what a hostile one comes to."""

import io
import json
import os
import tarfile
from pathlib import Path
from unicodedata import normalize

import pytest
from PIL import Image

from fgvr.config.data import ImageLimits, WebDatasetSource
from fgvr.images import tar_links
from fgvr.images.places import Unlisted, name_of, parse
from fgvr.images.read import ImageError, read_image, read_image_bytes
from fgvr.schemas import Reason
from fgvr.sources.source import SourceError, read_source

LIMITS = ImageLimits(max_bytes=100_000)


def jpeg(width: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (width, 30), (200, 30, 30)).save(sink, "JPEG")
    return sink.getvalue()


def write_tar(path: Path, *files: tuple[str, bytes | tarfile.TarInfo], kind: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in files:
            if isinstance(data, bytes):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                data.name = name
                tar.addfile(data)
    return path


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def rows(source: WebDatasetSource) -> list[dict[str, object]]:
    return read_source(source, "").rows.to_pylist()


def outcome(uri: str) -> object:
    try:
        return read_image(uri, LIMITS).width
    except ImageError as error:
        return error.reason


def test_shards_in_order_images_in_order(tmp_path):
    for shard in range(3):
        images = [(f"{n:03d}.jpg", jpeg(40 + 10 * shard + n)) for n in range(4)]
        write_tar(tmp_path / f"s#{shard}.tar", *images, ("notes.md", b"x"), (".hidden.jpg", b"x"), ("._0.jpg", b"x"))
    found = rows(WebDatasetSource(path=str(tmp_path)))
    assert [outcome(row["uri"]) for row in found] == [40 + 10 * shard + n for shard in range(3) for n in range(4)]
    assert [row["image_id"] for row in found] == list(range(12))
    assert [name_of(row["uri"]) for row in found[:4]] == ["000.jpg", "001.jpg", "002.jpg", "003.jpg"]
    assert {row["split"] for row in found} == {"train"}
    # A tar by itself, and numbered ones, of which one is not there.
    assert rows(WebDatasetSource(path=str(tmp_path / "s#1.tar"))) == [
        {**row, "image_id": n} for n, row in enumerate(found[4:8])
    ]
    some = read_source(WebDatasetSource(path=str(tmp_path / "s#{1..3}.tar")), "")
    assert some.kept.rows == 9
    assert (some.files, len(some.bad_files)) == (3, 1)
    assert outcome(some.rows["uri"][8].as_py()) is Reason.NOT_FOUND


@pytest.mark.parametrize("source", ["cls", "txt", "json", "named"])
def test_classes(tmp_path, source):
    beside = {
        "cls": [b"1", b" 0\n", b"x", None],
        "txt": [b"gull", "Küken\n".encode(), b"  ", None],
        "json": [json.dumps({"label": "gull", "w": 3}).encode(), b'{"label": 7}', b"[1", None],
        "named": [b"1", b"0", b"2", b"\xff"],
    }[source]
    ending = "cls" if source == "named" else source
    members = []
    for n, label in enumerate(beside):
        both = [(f"d/{n}.jpg", jpeg(40)), (f"d/{n}.{ending.upper() if n else ending}", label)]
        members += [pair for pair in (reversed(both) if n % 2 else both) if pair[1] is not None]  # either order
    members.append(("d/9.left.jpg", jpeg(41)))
    members.append(("d/9.right.png", jpeg(42)))
    write_tar(tmp_path / "a.tar", *members)
    (tmp_path / "names.txt").write_text("tern\ngull\n")
    names = str(tmp_path / "names.txt") if source == "named" else None
    listed = read_source(WebDatasetSource(path=str(tmp_path), class_from=ending, class_names=names), "")
    assert (
        listed.rows["class_name"].to_pylist()[:4]
        == {
            "cls": ["1", "0", "x", None],
            "txt": ["gull", "Küken", None, None],
            "json": ["gull", "7", None, None],
            "named": ["gull", "tern", None, None],
        }[source]
    )
    assert listed.rows["class_name"].to_pylist()[4:] == [None, None]
    unread = {"cls": 0, "txt": 1, "json": 1, "named": 2}[source]
    *of_members, of_photos = listed.remarks
    assert [remark.split()[0] for remark in of_members] == [str(unread)] * bool(unread)
    missing = 3 if source == "cls" else 4
    assert of_photos.startswith(f"{missing} of 6 photos ({'50' if missing == 3 else '66.7'}%) have no class")


def test_splits_by_folder(tmp_path):
    write_tar(tmp_path / "train/x/a.tar", ("1.jpg", jpeg(40)))
    write_tar(tmp_path / "val/a.tar", ("1.jpg", jpeg(40)))
    write_tar(tmp_path / "top.tar", ("1.jpg", jpeg(40)))
    found = rows(WebDatasetSource(path=str(tmp_path), split_from="top"))
    assert sorted(row["split"] for row in found) == ["train", "train", "val"]


def test_a_hostile_archive(tmp_path):
    """Names, links, devices, sizes: each has a defined outcome, and nothing is written anywhere."""
    shards = tmp_path / "shards"
    (tmp_path / "secret.jpg").write_bytes(jpeg(77))
    huge = tarfile.TarInfo()
    huge.size = 0
    write_tar(
        shards / "evil.tar",
        ("../../up.jpg", jpeg(40)),
        ("/etc/absolute.jpg", jpeg(41)),
        ("a/\n<script>alert(1)</script>#%2e\x1b[31m.jpg", jpeg(42)),
        ("x" * 3000 + ".jpg", jpeg(43)),
        ("hard.jpg", special(tarfile.LNKTYPE, str(tmp_path / "secret.jpg"))),
        ("soft.jpg", special(tarfile.SYMTYPE, str(tmp_path / "secret.jpg"))),
        ("device.jpg", special(tarfile.CHRTYPE)),
        ("pipe.jpg", special(tarfile.FIFOTYPE)),
        ("folder.jpg", special(tarfile.DIRTYPE)),
        ("large.jpg", bytes(100_001)),
        ("empty.jpg", b""),
        ("text.jpg", b"no image"),
        ("twice.jpg", jpeg(44)),
        ("twice.jpg", jpeg(45)),
    )
    before = sorted(path for path in tmp_path.rglob("*"))
    listed = read_source(WebDatasetSource(path=str(shards)), "")
    found = {
        name_of(row["uri"]) if not isinstance(parse(row["uri"]), Unlisted) else parse(row["uri"]).detail: row["uri"]
        for row in listed.rows.to_pylist()
    }
    outcomes = [outcome(uri) for uri in listed.rows["uri"].to_pylist()]
    assert outcomes == [
        *(40, 41, 42, 43),
        *(Reason.TOO_MANY_BYTES, Reason.EMPTY_FILE, Reason.NOT_AN_IMAGE, 44, 45),
        *[Reason.UNREADABLE] * 4,
    ]
    assert all(uri.isprintable() and "<" not in uri for uri in listed.rows["uri"].to_pylist())
    assert sum("in an archive is not read" in text for text in found) == 4
    assert any(text.startswith("a symbolic link in an archive is not read: soft.jpg") for text in found)
    assert listed.bad_files == ()
    assert sorted(path for path in tmp_path.rglob("*")) == before
    # Neither a device in the place of a tar, nor a link that leads nowhere, holds anybody.
    os.mkfifo(shards / "pipe.tar")
    (shards / "lost.tar").symlink_to("nowhere")
    listed = read_source(WebDatasetSource(path=str(shards)), "")
    assert len(listed.bad_files) == 2
    assert [outcome(uri) for uri in listed.rows["uri"].to_pylist()[-2:]] == [Reason.NOT_FOUND, Reason.UNREADABLE]


def test_a_member_above_the_limit_is_not_read(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", ("a.jpg", bytes(100_001)))
    (row,) = rows(WebDatasetSource(path=str(tmp_path)))
    monkeypatch.setattr("fgvr.images.inside.read_range", lambda *_: pytest.fail("it was read"))
    assert outcome(row["uri"]) is Reason.TOO_MANY_BYTES


def test_a_tar_that_ends_too_early(tmp_path):
    whole = write_tar(tmp_path / "b.tar", *((f"{n}.jpg", jpeg(40 + n)) for n in range(5))).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[:5_000])
    write_tar(tmp_path / "a.tar", ("0.jpg", jpeg(99)))
    listed = read_source(WebDatasetSource(path=str(tmp_path)), "")
    outcomes = [outcome(uri) for uri in listed.rows["uri"].to_pylist()]
    good = (5_000 // (512 + 1024)) if len(jpeg(40)) > 512 else 5_000 // 1024
    assert outcomes == [99, *range(40, 40 + good), Reason.CORRUPT]
    assert (listed.files, len(listed.bad_files)) == (2, 1)
    assert "b.tar: from byte" in listed.remarks[0]


def test_a_tar_that_was_written_anew(tmp_path):
    write_tar(tmp_path / "a.tar", ("0.jpg", jpeg(40)), ("1.jpg", jpeg(40)))
    uris = [row["uri"] for row in rows(WebDatasetSource(path=str(tmp_path)))]
    write_tar(tmp_path / "a.tar", ("1.jpg", jpeg(40)), ("0.jpg", jpeg(40)))  # same sizes, other order
    for uri in uris:
        with pytest.raises(ImageError, match=r"written anew since it was listed.*snapshot"):
            read_image_bytes(uri, LIMITS)
    (tmp_path / "a.tar").unlink()
    assert outcome(uris[0]) is Reason.NOT_FOUND


def test_uris_that_no_listing_wrote():
    for inside in ("", "x", "#0+10/a.jpg", "#-5+10/a.jpg", "#99999999999999999999+1/a", "#600+1"):
        assert outcome(f"tar+file:///etc/passwd{inside}") is Reason.NOT_FOUND
    assert outcome("tar+file:///etc/passwd#512+10/a.jpg") is Reason.CORRUPT
    assert outcome("unlisted+x#nonsense/y") is Reason.NOT_FOUND


def test_messages(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"")
    (tmp_path / "b.tar").write_bytes(b"no tar")
    for path, message in {
        tmp_path: r"1 compressed archives \(.*a.tar.gz.*unpack each",
        tmp_path / "a.tar.gz": "compressed",
        tmp_path / "b.tar": "no image can be listed; .*b.tar: from byte 0: the archive ends inside a header",
        tmp_path / "x{5..2}.tar": "must rise",
        "https://host.example/a.tar": "download them",
        tmp_path / "nowhere": "is not there",
    }.items():
        with pytest.raises(SourceError, match=message):
            read_source(WebDatasetSource(path=str(path)), "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no file ends in \.tar"):
        read_source(WebDatasetSource(path=str(tmp_path / "empty")), "")
    write_tar(tmp_path / "c/c.tar", ("a.jpg", jpeg(40)))
    with pytest.raises(SourceError, match=r"class_names = .*no such file"):
        read_source(WebDatasetSource(path=str(tmp_path / "c"), class_from="cls", class_names=str(tmp_path / "n")), "")


def test_classes_of_names_with_points(tmp_path):
    """By WebDataset's rule the key of v2.0.jpg is v2, one of many images; their classes stand beside each of them."""
    photos = [f"v2.{n:04d}" for n in range(2_500)]  # more than wait for one another
    members = [
        pair for n, name in enumerate(photos) for pair in ((f"{name}.cls", b"%d" % (n % 7)), (f"{name}.jpg", b"x"))
    ]
    write_tar(tmp_path / "before.tar", *members)
    write_tar(tmp_path / "behind.tar", *(member for n in range(0, 5_000, 2) for member in reversed(members[n : n + 2])))
    for tar in ("before.tar", "behind.tar"):
        listed = read_source(WebDatasetSource(path=str(tmp_path / tar), class_from="cls"), "")
        assert listed.remarks == ()
        assert [(name_of(row["uri"]), row["class_name"]) for row in listed.rows.to_pylist()] == [
            (f"{name}.jpg", str(n % 7)) for n, name in enumerate(photos)
        ]


def test_a_class_of_all_images_of_a_key_and_one_of_its_own(tmp_path):
    members = [
        ("9.cls", b"mug"),
        ("9.left.jpg", b"x"),
        ("9.right.jpg", b"x"),
        ("9.left.cls", b"cup"),
        ("._9.cls", b"z"),
    ]
    write_tar(tmp_path / "a.tar", *members, ("9.meta.cls", b"of nobody"))
    listed = read_source(WebDatasetSource(path=str(tmp_path), class_from="cls"), "")
    assert listed.rows["class_name"].to_pylist() == ["cup", "mug"]
    assert listed.remarks == ()


def test_hidden_members_do_not_part_a_sample(tmp_path):
    """As tar on a Mac packs them."""
    members = [
        ("._0.jpg", b"m"),
        ("0.jpg", b"x"),
        ("._0.txt", b"m"),
        ("0.txt", b"mug"),
        ("d", special(tarfile.DIRTYPE)),
    ]
    write_tar(tmp_path / "a.tar", *members)
    assert rows(WebDatasetSource(path=str(tmp_path), class_from="txt"))[0]["class_name"] == "mug"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_labels_of_windows(tmp_path, encoding):
    def written(text: str) -> bytes:
        return text.encode(encoding)

    names = tmp_path / "names.txt"
    names.write_bytes(written("mug\r\ntea\u00a0cup\r\n"))
    for ending, labels in {
        "txt": ["mug\r\n", "tea cup"],
        "cls": ["0", "1"],
        "json": ['{"label": "mug"}', '{"label": 1.0}'],
    }.items():
        members = [(f"{n}.jpg", b"x") for n in range(2)], [(f"{n}.{ending}", written(x)) for n, x in enumerate(labels)]
        write_tar(tmp_path / ending / "a.tar", *(member for pair in zip(*members, strict=True) for member in pair))
        source = WebDatasetSource(path=str(tmp_path / ending), class_from=ending, class_names=str(names))
        listed = read_source(source, "")
        assert (listed.rows["class_name"].to_pylist(), listed.remarks) == (["mug", "tea cup"], ())


def link(target: str) -> tarfile.TarInfo:
    return special(tarfile.LNKTYPE, target)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_hard_links_are_photos_with_the_bytes_of_an_earlier_member(tmp_path, kind):
    """As tar packs what rdfind or rsync --link-dest linked: equal photos and equal classes."""
    long = "Möwe/" * 25 + "7.jpg" if kind != tarfile.USTAR_FORMAT else "Möwe/7.jpg"
    members = [
        *(("0.jpg", jpeg(40)), ("0.cls", b"gull"), ("1.jpg", link("0.jpg")), ("1.cls", link("0.cls"))),
        *(("2.cls", link("0.cls")), ("2.jpg", jpeg(42)), (long, jpeg(43)), ("8=9.jpg", link(long))),
        *(("3.jpg", link("1.jpg")), ("3.cls", b"tern")),
    ]
    names = [name for name, _ in members if name.endswith(".jpg")]
    write_tar(tmp_path / "a.tar", *members, kind=kind)
    listed = read_source(WebDatasetSource(path=str(tmp_path), class_from="cls"), "")
    found = {parse(row["uri"]).name: row for row in listed.rows.to_pylist()}
    assert sorted(found) == sorted(names)
    assert {name: outcome(row["uri"]) for name, row in found.items()} == dict(
        zip(names, [40, 40, 42, 43, 43, 40], strict=True)
    )
    assert [found[f"{n}.jpg"]["class_name"] for n in range(4)] == ["gull", "gull", "gull", "tern"]
    assert name_of(found["1.jpg"]["uri"]) == "1.jpg"
    # Written anew, with another photo in its place.
    write_tar(tmp_path / "a.tar", ("9.jpg", jpeg(40)), *members[1:], kind=kind)
    assert outcome(found["1.jpg"]["uri"]) is Reason.CORRUPT


def test_hard_links_that_lead_nowhere(tmp_path):
    """Out of the archive, to a later member, to each other, to no file: rows that say so, and nothing is opened."""
    (tmp_path / "secret.jpg").write_bytes(jpeg(77))
    members = {
        "out.jpg": link(str(tmp_path / "secret.jpg")),
        "up.jpg": link("../secret.jpg"),
        "later.jpg": link("z.jpg"),
        "self.jpg": link("self.jpg"),
        "ring.jpg": link("ring2.jpg"),
        "ring2.jpg": link("ring.jpg"),
        "soft.jpg": special(tarfile.SYMTYPE, "z.jpg"),
        "of_soft.jpg": link("soft.jpg"),
        "z.jpg": jpeg(40),
    }
    write_tar(tmp_path / "shards/a.tar", *members.items())
    uris = [row["uri"] for row in rows(WebDatasetSource(path=str(tmp_path / "shards")))]
    assert [outcome(uri) for uri in uris] == [40, *[Reason.UNREADABLE] * 8]
    with pytest.raises(ImageError, match=r"later\.jpg before byte .*; no file before it is called z\.jpg"):
        read_image(next(uri for uri in uris if "later" in uri), LIMITS)


def test_of_files_with_one_name_a_link_leads_to_the_last_one_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_links, "RUN", 2)
    files = [(f"{n}.jpg", jpeg(40 + n)) for n in range(7)]
    again = [("1.jpg", jpeg(60)), ("x.jpg", link("1.jpg")), ("y.jpg", link("6.jpg")), ("1.jpg", jpeg(61))]
    write_tar(
        tmp_path / "a.tar", *files, *again, ("z.jpg", link("1.jpg")), ("y.jpg", jpeg(62)), ("w.jpg", link("y.jpg"))
    )
    found = {parse(row["uri"]).name: outcome(row["uri"]) for row in rows(WebDatasetSource(path=str(tmp_path)))}
    assert [found[f"{name}.jpg"] for name in "xyzw"] == [60, 62, 61, 62]


@pytest.mark.parametrize(
    ("encoding", "kind", "names"),
    [
        ("gbk", tarfile.USTAR_FORMAT, ["鸟", "花", "鱼"]),
        ("cp1252", tarfile.GNU_FORMAT, ["ä", "ö", "ü"]),
        ("cp932", tarfile.GNU_FORMAT, ["ソ1", "ソ2", "鷺" * 60]),
    ],
)
def test_names_in_a_code_page_are_keys_of_their_own(tmp_path, encoding, kind, names):
    """Shown as one name, they were one key: neighbouring photos had the last one's class."""
    with tarfile.open(tmp_path / "a.tar", "w", format=kind, encoding=encoding) as tar:
        for number, name in enumerate(names):
            for ending, data in ((".jpg", jpeg(40 + number)), (".cls", b"%d" % number), (".box", b"x")):
                info = tarfile.TarInfo(name + ending)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    listed = read_source(WebDatasetSource(path=str(tmp_path), class_from="cls"), "")
    assert listed.rows["class_name"].to_pylist() == ["0", "1", "2"]
    assert [outcome(uri) for uri in listed.rows["uri"].to_pylist()] == [40, 41, 42]
    assert all("%EF%BF%BD" in uri for uri in listed.rows["uri"].to_pylist())  # as ever
    assert listed.left_out == {"beside": {".box": 3}}


def test_both_forms_of_an_accent_are_one_key(tmp_path):
    """A photo from a Mac and its class from another system, or the other way round."""
    composed, apart = normalize("NFC", "Éclair café"), normalize("NFD", "Éclair café")
    members = [
        (f"{composed}.jpg", b"x"),
        (f"{apart}.cls", b"7"),
        (f"b/{apart}.1.cls", b"8"),
        (f"b/{composed}.1.jpg", b"x"),
    ]
    write_tar(tmp_path / "a.tar", *members)
    listed = read_source(WebDatasetSource(path=str(tmp_path), class_from="cls"), "")
    assert listed.rows["class_name"].to_pylist() == ["7", "8"]
    assert [parse(uri).name for uri in listed.rows["uri"].to_pylist()] == [members[0][0], members[3][0]]


def test_classes_that_are_not_found_are_said(tmp_path):
    write_tar(tmp_path / "none/a.tar", ("0.jpg", b"x"), ("0.txt", b"mug"), ("1.jpg", b"x"))
    assert read_source(WebDatasetSource(path=str(tmp_path / "none"), class_from="cls"), "").remarks == (
        "no member of the tars ends in .cls (ingest.source.class_from)",
        "no photo has a class (ingest.source.class_from = cls)",
    )
    apart = [(f"{n}.jpg", b"x") for n in range(8)] + [(f"{n}.cls", b"1") for n in range(7, 12)]
    write_tar(tmp_path / "apart/a.tar", *apart)
    alone, missing = read_source(WebDatasetSource(path=str(tmp_path / "apart"), class_from="cls"), "").remarks
    assert alone.startswith("4 .cls members belong to no photo: the members of a sample are neighbours in a tar")
    assert missing == "7 of 8 photos (87.5%) have no class (ingest.source.class_from = cls)"


def test_a_member_that_says_its_class_twice_says_none(tmp_path):
    twice, once = ("0.json", b'{"label": "mug", "label": "cup"}'), ("1.json", b'{"label": "cup"}')
    write_tar(tmp_path / "a.tar", ("0.jpg", b"x"), twice, ("1.jpg", b"x"), once)
    listed = read_source(WebDatasetSource(path=str(tmp_path), class_from="json"), "")
    assert listed.rows["class_name"].to_pylist() == [None, "cup"]
    assert listed.remarks[0] == "1 .json members say no class (ingest.source.class_from)"


def test_a_key_that_is_named_and_in_no_member(tmp_path):
    members = [(f"{n}.jpg", b"x") for n in range(3)], [(f"{n}.json", b'{"labels": "mug", "id": 7}') for n in range(3)]
    write_tar(tmp_path / "a.tar", *(member for pair in zip(*members, strict=True) for member in pair))
    source = WebDatasetSource(path=str(tmp_path), class_from="json", class_key="clas")
    with pytest.raises(
        SourceError, match=r"class_key = clas: no \.json member has it; there are id, labels; did you mean"
    ):
        read_source(source, "")
    # One that has it is enough: the others are counted.
    write_tar(tmp_path / "b.tar", ("9.jpg", b"x"), ("9.json", b'{"clas": "cup"}'))
    assert read_source(source, "").remarks == (
        "3 .json members say no class (ingest.source.class_from)",
        "3 of 4 photos (75%) have no class (ingest.source.class_from = json)",
    )
