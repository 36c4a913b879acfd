"""A member's name can stand in six places; whoever wrote the archive, what was listed is what is read."""

import io
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from fgvr.config.data import WebDatasetSource
from fgvr.images.inside import InsideError, read_inside
from fgvr.images.places import TarPlace, file_of
from fgvr.images.tar import Kind, Member, TarDamage, members, shown_name
from fgvr.schemas import Reason
from fgvr.sources.source import read_source

END = bytes(1024)
NAMES = (
    *("plain.jpg", "café.jpg", "米/鳥.jpg", unicodedata.normalize("NFD", "Élan é.jpg"), "n" * 101 + ".jpg"),
    *("d/" * 40 + "x.jpg", "ü/" * 150 + "y" * 90 + ".jpg", "z" * 250 + ".jpg", "long/" * 60 + "🐦.jpg"),
)


def block(name: bytes, size: int, flag: bytes = b"0", prefix: bytes = b"", size_field: bytes = b"") -> bytes:
    """A ustar header with its checksum."""
    header = bytearray(512)
    header[: len(name[:100])] = name[:100]
    header[100:124] = b"0000644\0" * 3
    header[124:136] = size_field or b"%011o\0" % size
    header[136:148] = b"00000000000\0"
    header[156:157] = flag
    header[257:265] = b"ustar\x0000"
    header[345 : 345 + len(prefix)] = prefix
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: tuple[str, bytes], flag: bytes = b"x") -> bytes:
    """A pax header: each record's length counts its own digits."""
    content = b""
    for key, value in records:
        rest = b" " + key.encode() + b"=" + value + b"\n"
        length = len(rest) + 1
        while length != len(str(length)) + len(rest):
            length = len(str(length)) + len(rest)
        content += str(length).encode() + rest
    return block(b"PaxHeader/x", len(content), flag) + padded(content)


def gnu_long(name: bytes) -> bytes:
    return block(b"././@LongLink", len(name) + 1, b"L") + padded(name + b"\0")


def bsd(name: str, data: bytes, attribute: bytes) -> bytes:
    """As libarchive writes it on a Mac: a resource fork beside it, and attributes in two spellings, one of them raw."""
    fork = pax(("path", f"._{name}".encode()), ("mtime", b"1.5"))
    fork += block(b"._x", 8) + padded(b"\0\5\x16\7\0\2\0\0")
    said = pax(
        ("mtime", b"1700000000.123"),
        ("LIBARCHIVE.creationtime", b"1700000000"),
        ("LIBARCHIVE.xattr.com.apple.quarantine", b"MDA4MTs2"),
        ("SCHILY.xattr.com.apple.FinderInfo", attribute),
        ("path", name.encode()),
    )
    return fork + said + block(name.encode("ascii", "replace"), len(data)) + padded(data)


def walk(data: bytes) -> list[Member]:
    return list(members(lambda start, length: data[start : start + length], len(data)))


def read_back(path: Path, archive: bytes) -> list[tuple[str, bytes]]:
    """Every file that is listed, read by its URI."""
    path.write_bytes(archive)
    files = [member for member in walk(archive) if member.kind is Kind.FILE]
    uris = [TarPlace(file_of(str(path)), member.offset, member.size, shown_name(member.name)).uri for member in files]
    return [(shown_name(member.name), read_inside(uri, 10**6)) for member, uri in zip(files, uris, strict=True)]


def python_tar(kind: int, names=NAMES, **options) -> tuple[bytes, list[tuple[str, bytes]]]:
    sink, files = io.BytesIO(), []
    with tarfile.open(fileobj=sink, mode="w", format=kind, **options) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 10 + 300 * number, 1.25 * number
            try:
                tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
            except ValueError:  # ustar has no room for it
                continue
            files.append((name, bytes([number]) * info.size))
    return sink.getvalue(), files


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_python_tars(tmp_path, kind, encoding):
    if encoding == "ascii" and kind != tarfile.PAX_FORMAT:
        encoding = "utf-8"
    archive, files = python_tar(kind, encoding=encoding, errors="replace" if encoding == "ascii" else "strict")
    assert len(files) >= 5
    assert read_back(tmp_path / "a.tar", archive) == files


def test_names_in_a_code_page_of_windows(tmp_path):
    """Bytes that are not UTF-8 have no text: they are shown as such, and read all the same."""
    archive, files = python_tar(tarfile.GNU_FORMAT, ("夜鷺.jpg", "夜鷺" * 40 + ".jpg"), encoding="cp932")
    found = read_back(tmp_path / "a.tar", archive)
    assert [data for _, data in found] == [data for _, data in files]
    assert all("\ufffd" in name for name, _ in found)


@pytest.mark.parametrize("attribute", [b"\0\n=\xff 9 path=other.jpg\n", b"x" * 3_000, bytes(200_000)])
def test_archives_of_macs(tmp_path, attribute):
    names = ["plain.jpg", "café.jpg", unicodedata.normalize("NFD", "Élan.jpg"), "ö" * 120 + ".jpg"]
    archive = b"".join(bsd(name, name.encode() * 9, attribute) for name in names) + END
    files = dict(read_back(tmp_path / "a.tar", archive))
    assert {name: files[name] for name in names} == {name: name.encode() * 9 for name in names}
    source = WebDatasetSource(path=str(tmp_path / "a.tar"))
    listed = read_source(source, "").rows["uri"].to_pylist()
    assert len(listed) == len(names)  # the resource forks are hidden


def test_every_place_of_a_name_and_which_one_wins(tmp_path):
    data, name = b"photo" * 50, "Fluß/vögel.jpg"
    raw = name.encode()
    by = {
        "block": block(b"a.jpg", len(data)),
        "prefix": block(b"a.jpg", len(data), prefix=b"folder"),
        "gnu": gnu_long(raw) + block(b"cut", len(data)),
        "pax": pax(("path", raw)) + block(b"Flu?/v?gel.jpg", len(data)),
        "solaris": pax(("path", raw), flag=b"X") + block(b"x", len(data)),
        "both": gnu_long(b"long.jpg") + pax(("path", raw)) + block(b"x", len(data)),
        "both turned": pax(("path", raw)) + gnu_long(b"long.jpg") + block(b"x", len(data)),
        "empty path": pax(("path", b"")) + block(b"own.jpg", len(data)),
        "size": pax(("path", raw), ("size", b"%d" % len(data))) + block(b"x", 0),
        "size alone": pax(("size", b"%d" % len(data))) + block(b"b.jpg", 0),
        "base 256": block(b"c.jpg", 0, size_field=b"\x80" + len(data).to_bytes(11, "big")),
        "link's name": block(b"././@LongLink", 5, b"K")
        + padded(b"link\0")
        + pax(("path", raw))
        + block(b"x", len(data)),
    }
    expected = {
        **dict.fromkeys(by, name),
        "block": "a.jpg",
        "prefix": "folder/a.jpg",
        "empty path": "own.jpg",
        "size alone": "b.jpg",
        "base 256": "c.jpg",
    }
    for place, headers in by.items():
        archive = (
            block(b"before.jpg", 5) + padded(b"bytes") + headers + padded(data) + block(b"z.jpg", 1) + padded(b"z")
        )
        found = read_back(tmp_path / "a.tar", archive + END)
        assert found == [("before.jpg", b"bytes"), (expected[place], data), ("z.jpg", b"z")], place


def test_a_header_for_all_members(tmp_path):
    """Git archive writes one with a comment; POSIX lets it name the members, too, until the next one."""
    archive = pax(("comment", b"0123abcd"), flag=b"g") + block(b"a.jpg", 1) + padded(b"a") + END
    assert read_back(tmp_path / "a.tar", archive) == [("a.jpg", b"a")]
    archive = pax(("path", "für alle.jpg".encode()), flag=b"g") + block(b"a.jpg", 1) + padded(b"a")
    archive += pax(("path", b"mine.jpg")) + block(b"b.jpg", 1) + padded(b"b") + block(b"c.jpg", 1) + padded(b"c") + END
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        theirs = tar.getnames()
    assert theirs == ["für alle.jpg", "mine.jpg", "für alle.jpg"]
    assert read_back(tmp_path / "a.tar", archive) == list(zip(theirs, [b"a", b"b", b"c"], strict=True))
    with pytest.raises(TarDamage, match="gives all members one size"):
        walk(pax(("size", b"5"), flag=b"g") + block(b"a.jpg", 1) + padded(b"a") + END)


def test_archives_that_were_joined(tmp_path):
    """`cat a.tar b.tar`: other programs stop at the first one's end, and the rest is lost without a word."""
    first, files = python_tar(tarfile.PAX_FORMAT)
    second, more = python_tar(tarfile.GNU_FORMAT, ("b/1.jpg", "b/ö.jpg"))
    assert read_back(tmp_path / "a.tar", first + second + first) == files + more + files
    assert read_back(tmp_path / "b.tar", first + b"a signature that is no archive") == files
    with pytest.raises(TarDamage, match=r"in the middle of a member|ends without an end mark"):
        walk(first + second[:700])


def test_sparse_files_are_no_photos():
    head = pax(("GNU.sparse.major", b"1"), ("GNU.sparse.name", "löcher.jpg".encode()), ("GNU.sparse.realsize", b"9999"))
    star = pax(("SCHILY.realsize", b"9999"))
    archive = head + block(b"GNUSparseFile.0/x", 4) + padded(b"data") + star + block(b"s.jpg", 4) + padded(b"data")
    found = walk(archive + block(b"next.jpg", 1) + padded(b"n") + END)
    assert [(member.name, member.kind) for member in found] == [
        ("löcher.jpg", Kind.SPARSE),
        ("s.jpg", Kind.SPARSE),
        ("next.jpg", Kind.FILE),
    ]


@pytest.mark.parametrize(
    "key",
    [
        "SCHILY.xattr.user." + "k" * 238,
        "LIBARCHIVE.xattr.user." + "k" * 3_000,
        "SCHILY.xattr.user.a=b",
        "path" + "x" * 5_000,
    ],
)
def test_attributes_of_long_names(tmp_path, key):
    """Linux allows names of 255 bytes, and the key is longer than the name."""
    archive = pax((key, b"v" * 600), ("path", "Möwe.jpg".encode())) + block(b"M?we.jpg", 1) + padded(b"m")
    archive += block(b"b.jpg", 1) + padded(b"b") + END
    assert read_back(tmp_path / "a.tar", archive) == [("Möwe.jpg", b"m"), ("b.jpg", b"b")]


def test_a_record_without_a_key_is_damage():
    with pytest.raises(TarDamage, match="a broken pax header"):
        walk(block(b"x", 8, b"x") + padded(b"8 path \n") + block(b"a.jpg", 1) + padded(b"a") + END)


@pytest.mark.parametrize("long", [False, True])
def test_hard_links_with_bytes_and_without(tmp_path, long):
    """`pax -o linkdata` and star write the bytes again; other programs write no bytes, but some state a size."""
    name = "link" * 30 + ".jpg" if long else "b.jpg"
    before = pax(("path", name.encode())) if long else b""
    data = b"photo" * 200
    a, c = block(b"a.jpg", len(data)) + padded(data), block(b"c.jpg", 1) + padded(b"c")
    link = before + block(b"cut" if long else b"b.jpg", len(data), b"1")
    assert read_back(tmp_path / "a.tar", a + link + padded(data) + c + END) == [
        ("a.jpg", data),
        (name, data),
        ("c.jpg", b"c"),
    ]
    for last in (END, c + END):
        kinds = [(member.name, member.kind) for member in walk(a + link + last)]
        assert kinds[:2] == [("a.jpg", Kind.FILE), (name, Kind.HARD_LINK)]
    assert walk(a + link + padded(data) + END)[1].kind is Kind.FILE
    with pytest.raises(TarDamage, match="no header is here"):
        walk(a + link + padded(b"x") + c + END)
    # Written anew, without the link's bytes: what lies there now is another member.
    place = walk(a + link + padded(data) + c + END)[1]
    (tmp_path / "a.tar").write_bytes(a + link + c + padded(data) + END)
    with pytest.raises(InsideError, match="was written anew"):
        read_inside(TarPlace(file_of(str(tmp_path / "a.tar")), place.offset, place.size, name).uri, 10**6)


@pytest.mark.parametrize("name", ["a.jpg", "café.jpg", "n" * 150 + ".jpg"])
def test_an_archive_that_was_written_anew_is_noticed(tmp_path, name):
    """Another name, another size, or other bytes at the place of the listed ones: never another photo's bytes."""
    path = tmp_path / "a.tar"
    archive, _ = python_tar(tarfile.PAX_FORMAT, (name,))
    path.write_bytes(archive)
    member = walk(archive)[0]
    uri = TarPlace(file_of(str(path)), member.offset, member.size, shown_name(member.name)).uri
    assert read_inside(uri, 10**6) == bytes(10)
    for other in ("b.jpg", "cafè.jpg", "n" * 151 + ".jpg", "m" + "n" * 149 + ".jpg"):
        path.write_bytes(python_tar(tarfile.PAX_FORMAT, (other,))[0])
        with pytest.raises(InsideError, match="was written anew") as caught:
            read_inside(uri, 10**6)
        assert caught.value.reason is Reason.CORRUPT
    for wrong in (bytes(len(archive)), archive[: member.offset - 1], np.random.default_rng(0).bytes(len(archive))):
        path.write_bytes(wrong)
        with pytest.raises(InsideError, match="was written anew"):
            read_inside(uri, 10**6)
    path.write_bytes(archive[: member.offset + 3])
    with pytest.raises(InsideError, match="ends in the middle"):
        read_inside(uri, 10**6)


def test_folders_with_backslashes(tmp_path):
    """Some programs on Windows write them between folders; a dot in a folder's name is not a key's end."""
    files = [(r"v1.0\a.jpg", b"x"), (r"v1.0\a.txt", b"first"), (r"v1.0\b.jpg", b"y"), (r"v1.0\b.txt", b"second")]
    archive = b"".join(block(name.encode(), len(data)) + padded(data) for name, data in files) + END
    (tmp_path / "a.tar").write_bytes(archive)
    rows = read_source(WebDatasetSource(path=str(tmp_path / "a.tar"), class_from="txt"), "").rows
    assert rows["class_name"].to_pylist() == ["first", "second"]
