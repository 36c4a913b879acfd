"""The walk over a tar's headers, against Python's own reader of archives, and what hostile archives come to."""

import io
import tarfile

import numpy as np
import pytest

from fgvr.images.tar import Kind, Member, TarDamage, members, parse_header, shown_name


def walk(data: bytes) -> list[Member]:
    return list(members(lambda start, length: data[start : start + length], len(data)))


def damaged(data: bytes) -> tuple[list[str], str]:
    """Names before the damage, and its message."""
    found = []
    with pytest.raises(TarDamage) as caught:
        found.extend(
            member.name for member in _each(members(lambda start, n: data[start : start + n], len(data)), found)
        )
    return found, str(caught.value)


def _each(walk, found):
    for member in walk:
        found.append(member.name)
    return iter(())


def archive(kind: int = tarfile.USTAR_FORMAT, **files: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def block(name: bytes = b"a.jpg", size: bytes = b"00000000000\0", flag: bytes = b"0", **at: bytes) -> bytes:
    """A header with any bytes in its fields, and the checksum that belongs to them."""
    header = bytearray(512)
    header[:100] = name.ljust(100, b"\0")
    header[124:136] = size
    header[156:157] = flag
    header[257:265] = b"ustar\0" + b"00"
    for place, value in at.items():
        start = int(place.removeprefix("at"))
        header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


END = bytes(1024)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_as_python_reads_it(kind):
    rng = np.random.default_rng(0)
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as tar:
        for n in range(60):
            name = f"d{n % 3}/" * int(rng.integers(1, 8)) + f"{n:04d}" * int(rng.integers(1, 12)) + ".jpg"
            if kind != tarfile.USTAR_FORMAT and n % 5 == 0:
                name = "long/" * 60 + name + " ü夜"
            info = tarfile.TarInfo(name)
            info.type = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE][n % 4 if n % 3 == 0 else 0]
            info.linkname = "x" * (150 if kind != tarfile.USTAR_FORMAT else 20)
            info.size = int(rng.integers(0, 2000)) if info.isreg() else 0
            info.mtime = 1.5
            tar.addfile(info, io.BytesIO(rng.bytes(info.size)))
    data = sink.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        theirs = [(one.name, one.offset_data, one.size, one.isreg()) for one in tar]
    ours = [(one.name.rstrip("/"), one.offset, one.size, one.kind is Kind.FILE) for one in walk(data)]
    assert ours == theirs


def test_every_cut_is_seen():
    """Of an archive that ends too early, at whatever byte, no member is lost without a word."""
    data = archive(**{"a.jpg": b"x" * 700, "b.jpg": b"y" * 10})
    end = 512 + 1024 + 512 + 512
    assert [member.name for member in walk(data)] == ["a.jpg", "b.jpg"]
    for cut in [*range(0, end, 37), 512, 1536, 2048, end]:
        names, message = damaged(data[:cut])
        assert names == (["a.jpg", "b.jpg"] if cut >= 2058 else ["a.jpg"] if cut >= 1212 else []), cut
        assert "the file ends" in message or "the archive ends" in message
    assert len(walk(data[: end + 512])) == 2  # one block of zeros at the very end: some programs write no second


def test_damage_in_the_middle_is_no_end():
    data = bytearray(archive(**{"a.jpg": b"x", "b.jpg": b"y", "c.jpg": b"z"}))
    for wrong in (b"garbage!", bytes(8)):
        data[1024 + 148 : 1024 + 156] = wrong
        assert damaged(bytes(data)) == (["a.jpg"], "from byte 1,024: no header is here")
    data[1024 : 1024 + 512] = bytes(512)
    assert damaged(bytes(data)) == (["a.jpg"], "from byte 1,024: zeros between the members")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "without an end mark"),
        (b"\x1f\x8b\x08" + bytes(600), "gzip-compressed: unpack it"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 600, "zstd-compressed"),
        (b"<html>" * 100, "no header is here"),
        (block(size=b"77777777777\0") + END, "ends at 1,536, in the middle of a member"),
        (block(size=b"\xff" * 12) + END, "an invalid number"),  # -1 in base 256
        (block(size=b"\x80" + b"\x7f" * 11) + END, "an impossible number"),
        (block(size=b"-0000000001\0") + END, "an invalid number"),
        (block(size=b"00000000009\0") + END, "an invalid number"),
        (block(b"././@LongLink", b"\x80" + (2**40).to_bytes(11, "big"), b"L") + END, "an extended header of 1,099,"),
        (block(b"././@LongLink", b"00000001000\0", b"L") + b"a" * 512, "the archive ends inside a header"),
        (block(b"././@LongLink", b"00000001000\0", b"L") + b"a" * 500, "ends in an extended header"),
        (block(flag=b"x", size=b"00000000010\0") + b"99 path=a".ljust(512, b"\0") + END, "a broken pax header"),
        (block(flag=b"x", size=b"00000000010\0") + b"0 path=a\n".ljust(512, b"\0") + END, "a broken pax header"),
        (
            block(flag=b"x", size=b"00000000014\0") + b"11 size=-1\n\0".ljust(512, b"\0") + block() + END,
            "impossible size",
        ),
        (block(flag=b"g", size=b"00000000000\0") + END, "an extended header without a member"),
        (block(flag=b"S", at482=b"\1") + b"\1" * 512, "the map of a sparse file"),
    ],
)
def test_hostile_archives_end_with_a_message(data, message):
    if message == "the archive ends inside a header":
        data += b"x" * 10
    assert message in damaged(data)[1]


def test_many_headers_before_one_member():
    """Each of them makes `tarfile` call itself, until the interpreter's limit."""
    longs = (block(b"././@LongLink", b"00000000006\0", b"L") + b"x.jpg\0".ljust(512, b"\0")) * 5_000
    assert [member.name for member in walk(longs + block() + END)] == ["x.jpg"]


def test_kinds():
    parts = []
    for flag in (b"1", b"2", b"3", b"4", b"6", b"D"):
        parts.append(block(flag=flag, size=b"00000001000\0" if flag == b"D" else b"00000000777\0"))
        if flag == b"D":
            parts.append(bytes(512))
    parts += [block(b"folder/"), block(b"old/", flag=b"\0"), block(b"v7.jpg", flag=b"\0")]
    kinds = [member.kind for member in walk(b"".join(parts) + END)]
    assert kinds == [
        *(Kind.HARD_LINK, Kind.SOFT_LINK, Kind.DEVICE, Kind.DEVICE, Kind.PIPE, Kind.OTHER),
        *(Kind.FOLDER, Kind.FOLDER, Kind.FILE),
    ]


def test_sparse_files_are_known_as_such_and_what_follows_is_found():
    gnu = block(b"hole.jpg", b"00000000003\0", b"S", at482=b"\1") + b"\0" * 504 + b"\1" + bytes(7) + bytes(512)
    gnu += b"abc".ljust(512, b"\0")
    record = b"22 GNU.sparse.major=1\n"
    pax = block(b"pax", b"%011o\0" % len(record), b"x") + record.ljust(512, b"\0") + block(b"p.jpg")
    found = walk(gnu + pax + block(b"next.jpg") + END)
    assert [(member.name, member.kind) for member in found] == [
        ("hole.jpg", Kind.SPARSE),
        ("p.jpg", Kind.SPARSE),
        ("next.jpg", Kind.FILE),
    ]


def test_checksums_of_old_programs():
    header = bytearray(block("café.jpg".encode("latin-1")))
    signed = sum(header[:148]) + 8 * 32 + sum(header[156:]) - 256
    header[148:156] = b"%06o\0 " % signed
    assert shown_name(parse_header(bytes(header)).name) == "caf�.jpg"


def test_random_damage_raises_nothing_else():
    rng = np.random.default_rng(0)
    original = archive(tarfile.PAX_FORMAT, **{f"{'n' * 120}{n}.jpg": b"x" * 600 for n in range(4)})
    for _ in range(300):
        data = bytearray(original)
        for place in rng.integers(len(data), size=rng.integers(1, 10)):
            data[place] = rng.integers(256)
        try:
            walk(bytes(data[: rng.integers(len(data)) + 1]))
        except TarDamage:
            continue
