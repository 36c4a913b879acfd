"""Everything that Pillow's decoders for FORMATS read is listed and read, whatever its ending and in whatever case."""

import io
from pathlib import Path

import pytest
from PIL import Image

from fgvr.config.data import IMAGE_ENDINGS, FolderSource, ImageLimits, WebDatasetSource
from fgvr.images.formats import FORMATS, not_read_here
from fgvr.images.read import ImageError, read_image
from fgvr.schemas import Reason
from fgvr.sources.source import SourceError, read_source

HEIF_ENDINGS = {".heic", ".heics", ".heif", ".heifs", ".hif"}
# What writes a file of an ending; the others are written by their format's name.
WRITERS = {".pbm": "1", ".pgm": "L", ".pfm": "F", ".ico": "RGB"}
LIMITS = ImageLimits()


def test_the_default_endings_are_those_of_the_formats():
    Image.init()
    registered = {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}
    assert registered - HEIF_ENDINGS <= set(IMAGE_ENDINGS)  # whatever the next Pillow adds to a format shows up here
    assert set(IMAGE_ENDINGS) - registered - HEIF_ENDINGS == {".jif", ".pjpeg", ".pjp", ".mpo"}  # other names of JPEG
    assert "EPS" not in FORMATS
    assert len(set(IMAGE_ENDINGS)) == len(IMAGE_ENDINGS)


@pytest.mark.parametrize("ending", sorted(set(IMAGE_ENDINGS) - HEIF_ENDINGS))
def test_each_is_written_by_pillow_listed_and_read(tmp_path, ending):
    names = Image.registered_extensions()
    mode = WRITERS.get(ending, "RGB")
    picture = Image.new("RGB", (64, 48), (250, 250, 250)).convert(mode)
    sink = io.BytesIO()
    options = {"bitmap_format": "bmp", "sizes": [(64, 48)]} if ending == ".ico" else {}
    picture.save(sink, names.get(ending, "JPEG") if ending != ".mpo" else "MPO", **options)
    for name in (f"small{ending}", f"LARGE{ending.upper()}"):
        (tmp_path / name).write_bytes(sink.getvalue())
    listed = read_source(FolderSource(path=str(tmp_path)), "")
    assert [Path(uri).name for uri in listed.rows["uri"].to_pylist()] == [
        f"LARGE{ending.upper()}",
        f"small{ending}",
    ]
    assert listed.left_out == {}
    image = read_image(str(tmp_path / f"LARGE{ending.upper()}"), LIMITS)
    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert min(image.getpixel((32, 24))) > 240


def png(colour):
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(sink, "PNG")
    return sink.getvalue()


def test_heic_with_and_without_its_package(tmp_path, stand_in_for_heif):
    (tmp_path / "a.heic").write_bytes(stand_in_for_heif + png("blue"))
    (tmp_path / "B.HIF").write_bytes(stand_in_for_heif + png("blue"))
    (tmp_path / "named.jpg").write_bytes(stand_in_for_heif + png("red"))
    (tmp_path / "damaged.jpg").write_bytes(stand_in_for_heif + b"nothing")
    listed = read_source(FolderSource(path=str(tmp_path)), "")
    assert (listed.kept.rows, listed.left_out, listed.remarks) == (4, {}, ())
    assert read_image(str(tmp_path / "a.heic"), LIMITS).getpixel((0, 0)) == (0, 0, 255)
    assert read_image(str(tmp_path / "named.jpg"), LIMITS).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ImageError, match=r"HEIC \(HEIF\), damaged") as caught:
        read_image(str(tmp_path / "damaged.jpg"), LIMITS)
    assert caught.value.reason is Reason.CORRUPT


def test_without_the_package_heic_is_counted_and_said(tmp_path, without_heif):
    for name in ("a.heic", "b.HEIC", "c.hif"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + png("blue"))
    (tmp_path / "named.jpg").write_bytes(b"\0\0\0\x18ftypheic" + png("red"))
    assert set(not_read_here(IMAGE_ENDINGS)) == HEIF_ENDINGS
    listed = read_source(FolderSource(path=str(tmp_path)), "")
    assert (listed.kept.rows, listed.left_out) == (1, {"ending": {".heic": 2, ".hif": 1}})
    (remark,) = listed.remarks
    assert remark.startswith("2 .heic, 1 .hif left out: HEIC is read where pillow-heif is installed")
    assert "ingest.source.snapshot" in remark
    with pytest.raises(ImageError, match=r"not_an_image: HEIC \(HEIF\)\. HEIC is read where pillow-heif"):
        read_image(str(tmp_path / "named.jpg"), LIMITS)
    # Who did not ask for them is told the number, and no remedy.
    assert read_source(FolderSource(path=str(tmp_path), extensions=(".jpg",)), "").remarks == ()
    with pytest.raises(
        SourceError, match=r"no file ends in .heic \(found: 2 .heic, 1 .hif, 1 .jpg; HEIC is read where"
    ):
        read_source(FolderSource(path=str(tmp_path), extensions=(".heic",)), "")


def test_defaults_are_the_same_for_tars():
    assert WebDatasetSource(path="x").extensions == FolderSource(path="x").extensions == IMAGE_ENDINGS
    assert WebDatasetSource(path="x").exclude == FolderSource(path="x").exclude
