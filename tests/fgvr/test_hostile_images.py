"""Everything that a folder of photos can hold: each file has a defined outcome, and none stops the others."""

import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from fgvr.config.data import FolderSource, ImageLimits, TableSource
from fgvr.images.read import ImageError, read_image
from fgvr.schemas import Reason
from fgvr.sources.source import SourceError, read_source

LIMITS = ImageLimits(max_bytes=300_000, max_pixels=1_000_000)
GREY_PIXEL = 128


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def png_of_zeros(width: int, height: int) -> bytes:
    """A PNG whose header promises any number of pixels, in a few kilobytes."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + block(b"IHDR", header)
        + block(b"IDAT", zlib.compress(bytes(100_000)))
        + block(b"IEND", b"")
    )


def write_hostile_folder(folder: Path) -> dict[str, Reason | tuple[int, int]]:
    """Write the files; returns name → reason of failure, or size in pixels where it must work."""
    red = Image.new("RGB", (40, 30), (200, 30, 30))
    photo = Image.effect_noise((64, 48), 60).convert("RGB")
    jpeg = encoded(photo, "JPEG")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: the stored picture must be turned to 30 × 40
    palette = Image.new("P", (40, 30), 1)
    palette.putpalette([0, 0, 0, 10, 200, 10])
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("blue", "yellow")]
    depth = Image.fromarray(np.full((30, 40), GREY_PIXEL * 257, dtype=np.uint16))
    files: dict[bytes, tuple[bytes, Reason | tuple[int, int]]] = {
        b"good.jpg": (jpeg, (64, 48)),
        b"corrupt.png": (encoded(red, "PNG")[:40] + b"\x00" * 60, Reason.CORRUPT),
        b"truncated.jpg": (jpeg[: len(jpeg) // 2], Reason.CORRUPT),
        b"header_only.jpg": (jpeg[:3], Reason.CORRUPT),
        b"zero.jpg": (b"", Reason.EMPTY_FILE),
        b"bomb.png": (png_of_zeros(30_000, 30_000), Reason.TOO_MANY_PIXELS),
        b"big.png": (png_of_zeros(1_001, 1_000), Reason.TOO_MANY_PIXELS),
        b"strip.png": (png_of_zeros(50_000, 1), Reason.TOO_MANY_PIXELS),
        b"heavy.bmp": (bytes(300_001), Reason.TOO_MANY_BYTES),
        b"cmyk.jpg": (encoded(red.convert("CMYK"), "JPEG"), (40, 30)),
        b"palette.png": (encoded(palette, "PNG"), (40, 30)),
        b"transparent.png": (encoded(palette, "PNG", transparency=1), (40, 30)),
        b"sixteen_bit.png": (encoded(depth, "PNG"), (40, 30)),
        b"animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), (40, 30)),
        b"turned.jpg": (encoded(red, "JPEG", exif=turned), (30, 40)),
        b"page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", Reason.NOT_AN_IMAGE),
        b"postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Reason.NOT_AN_IMAGE),
        b"caf\xe9 100%41.jpg": (jpeg, (64, 48)),
        "夜鷺 🐦.jpg".encode(): (jpeg, (64, 48)),
        b"SHOUTING.JPG": (jpeg, (64, 48)),
    }
    for name, (data, _) in files.items():
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(data)
    expected = {os.fsdecode(name): outcome for name, (_, outcome) in files.items()}
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.jpg").write_bytes(jpeg)
    expected["folder.jpg/inside.jpg"] = (64, 48)
    (folder / "lost.jpg").symlink_to("nowhere.jpg")
    expected["lost.jpg"] = Reason.NOT_FOUND
    (folder / "circle").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    expected["pipe.jpg"] = Reason.UNREADABLE
    (folder / ".hidden.jpg").write_bytes(jpeg)
    (folder / "notes.txt").write_text("no photo")
    return expected


def outcome(uri: str, short_side: int | None = None) -> Reason | tuple[int, int]:
    try:
        image = read_image(uri, LIMITS, short_side=short_side)
    except ImageError as error:
        return error.reason
    assert image.mode == "RGB"
    return image.size


def test_every_kind_of_file_has_its_outcome(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    expected = write_hostile_folder(photos)

    listed = read_source(FolderSource(path=str(photos)), str(tmp_path)).rows
    uris = listed["uri"].to_pylist()
    assert uris == sorted(uris)
    assert listed["image_id"].to_pylist() == list(range(len(expected)))
    outside_utf8 = f"file://{photos}/caf%E9%20100%2541.jpg"  # its name has no text, so its bytes are percent-encoded
    assert outside_utf8 in uris

    def name(uri: str) -> str:
        return os.fsdecode(b"caf\xe9 100%41.jpg") if uri == outside_utf8 else uri.removeprefix(f"{photos}/")

    assert {name(uri): outcome(uri) for uri in uris} == expected
    # People are told more than a code, and Arrow and Ray can carry it.
    with pytest.raises(ImageError, match="an HTML page") as caught:
        read_image(str(photos / "page.jpg"), LIMITS)
    assert pickle.loads(pickle.dumps(caught.value)).failure.as_row()["reason"] == "not_an_image"  # noqa: S301

    # The quick JPEG path ends in the same way, and in the same sizes where so many pixels are asked for.
    assert {name(uri): outcome(uri, short_side=48) for uri in uris} == expected

    def pixel(file: str) -> tuple[int, int, int]:
        return read_image(str(photos / file), LIMITS).getpixel((5, 5))

    assert pixel("cmyk.jpg") == pytest.approx((200, 30, 30), abs=4)
    assert pixel("palette.png") == (10, 200, 10)
    assert pixel("transparent.png") == (255, 255, 255)
    assert pixel("sixteen_bit.png") == (GREY_PIXEL,) * 3
    assert pixel("animated.gif") == (0, 0, 255)

    # A table of URIs can name what a folder's listing cannot: nothing, a folder, a dead server, a file twice.
    rows = ["good.jpg", "./good.jpg", f"file://{photos}/good.jpg", "gone.jpg", "folder.jpg", "http://127.0.0.1:9/x.jpg"]
    rows += ["ftp9://server/x.jpg", '""', outside_utf8, outside_utf8.replace("%20", " ")]
    (photos / "list.csv").write_text("\n".join(["uri", *rows]))
    table = read_source(TableSource(path=str(photos / "list.csv")), str(tmp_path))
    assert {name(uri): outcome(uri) for uri in table.rows["uri"].to_pylist()} == {
        "good.jpg": (64, 48),
        "gone.jpg": Reason.NOT_FOUND,
        "folder.jpg": Reason.UNREADABLE,
        "http://127.0.0.1:9/x.jpg": Reason.NOT_ALLOWED,
        "ftp9://server/x.jpg": Reason.NOT_ALLOWED,
        name(outside_utf8): (64, 48),
    }
    assert (table.duplicates, table.without_uri) == (3, 1)
    assert pc.all(pc.equal(table.rows["split"], "train")).as_py()

    # A folder without photos ends at once, with what was found there.
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no file ends in \.jpg.*it is empty"):
        read_source(FolderSource(path=str(tmp_path / "empty")), str(tmp_path))
