"""Names as they look on other systems find their file, where nothing has exactly the name that was given."""

import io
import os
from unicodedata import normalize

import fsspec
import pytest
from PIL import Image

from fgvr.config.data import ImageLimits, TableSource
from fgvr.images.read import ImageError, read_image
from fgvr.schemas import Reason
from fgvr.sources.source import read_source

LIMITS = ImageLimits()


def picture(width: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (width, 20), "green").save(sink, "PNG")
    return sink.getvalue()


def put(root, name, width=20):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(width))


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        (normalize("NFD", "Müsli.png"), normalize("NFC", "Müsli.png")),
        (normalize("NFC", "Müsli.png"), normalize("NFD", "Müsli.png")),
        (f"{normalize('NFD', 'Café')}/{normalize('NFC', 'Größe é.png')}", normalize("NFC", "Café/Größe é.png")),
        (normalize("NFD", "パン/ガム.png"), normalize("NFC", "パン/ガム.png")),
        (normalize("NFC", "Müsli.png"), "M%C3%BCsli.png"),
        (normalize("NFD", "Müsli.png"), "M%C3%BCsli.png"),
        (normalize("NFC", "Müsli.png"), "Mu%CC%88sli.png"),
        ("a b/c d.png", "a%20b/c%20d.png"),
        ("100% wool.png", "100%25%20wool.png"),
        ("my photos/M%C3%BCsli%201.png", "my photos/Müsli 1.png"),  # as a download left it on the disk
        ("50%25 off/a b.png", "50%25 off/a%20b.png"),
        ("a b/c/0.png", "a%20b/c/0.png"),  # beside a folder `a%20b` without that file
        ("a b.png", "file://{root}/a%2520b.png"),  # encoded twice
        ("a%20c.png", "file://{root}/a%20c.png"),  # not encoded at all
        ("images/0.png", "images\\0.png"),
        ("images/0 1.png", ".\\images\\0%201.png"),
        (f"Bilder/{normalize('NFD', 'Öl.png')}", normalize("NFC", "Bilder\\Öl.png")),
    ],
)
def test_the_file_that_is_meant(tmp_path, there, asked):
    put(tmp_path, there)
    (tmp_path / "a%20b").mkdir()
    (tmp_path / "list.csv").write_text(f"uri\n{asked.format(root=tmp_path)}\n")
    (uri,) = read_source(TableSource(path=str(tmp_path / "list.csv")), "").rows["uri"].to_pylist()
    assert read_image(uri, LIMITS).size == (20, 20)


def test_a_file_of_exactly_this_name_goes_first(tmp_path):
    names = ["a%20b.png", "a b.png", normalize("NFC", "ü.png"), normalize("NFD", "ü.png"), "d\\e.png", "d/e.png"]
    for width, name in enumerate(names, start=20):
        put(tmp_path, name, width)
    assert [read_image(f"{tmp_path}/{name}", LIMITS).width for name in names] == [*range(20, 26)]


def test_nothing_is_looked_for_while_there_is_a_file(tmp_path, monkeypatch):
    put(tmp_path, "a%20ü.png")
    monkeypatch.setattr("fgvr.images.read.local_lookalike", lambda _: pytest.fail("looked for"))
    assert read_image(f"{tmp_path}/a%20ü.png", LIMITS).width == 20


@pytest.mark.parametrize(
    "name", ["%2e%2e/secret.png", "%2e%2e%2fsecret.png", "..%2fsecret.png", "a%00b.png", "%5c..%5csecret.png"]
)
def test_decoding_leads_nowhere_else(tmp_path, name):
    put(tmp_path, "secret.png")
    (tmp_path / "photos").mkdir()
    with pytest.raises(ImageError) as caught:
        read_image(f"{tmp_path}/photos/{name}", LIMITS)
    assert caught.value.reason in {Reason.NOT_FOUND, Reason.UNREADABLE}


def test_what_is_found_is_checked_like_what_was_named(tmp_path):
    put(tmp_path, "a b.png")
    os.mkfifo(tmp_path / "p q.png")
    (tmp_path / "f g.png").mkdir()
    for name, limits, reason in [
        ("a%20b.png", ImageLimits(max_bytes=10), Reason.TOO_MANY_BYTES),
        ("p%20q.png", LIMITS, Reason.UNREADABLE),
        ("f%20g.png", LIMITS, Reason.UNREADABLE),
    ]:
        with pytest.raises(ImageError) as caught:
            read_image(f"{tmp_path}/{name}", limits)
        assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("img_1.png", r"there is nothing at .*img_1.png \(there is IMG_1.PNG: capital letters count\)"),
        ("IMG_1.png", r"\(there is IMG_1.PNG: capital letters count\)"),
        ("other\\0.png", r"a Windows path\?"),
        ("C:\\Users\\me\\0.png", r"a path of a Windows drive"),
        ("\\\\nas\\photos\\0.png", r"a path of a Windows drive"),
        ("IMG_1.PNG/x.png", "there is nothing at"),
        ("gone.png", r"there is nothing at \S*/gone\.png$"),
        ("mirror.shop.example/7.png", r"/7\.png$"),
        ("cdn.shop.example/7.png", r"\(a web address without https:// before it\?\)$"),
    ],
)
def test_what_is_not_found_says_what_may_be_wrong(tmp_path, asked, hint):
    put(tmp_path, "IMG_1.PNG")
    put(tmp_path, "mirror.shop.example/6.png")
    with pytest.raises(ImageError, match=hint) as caught:
        read_image(f"{tmp_path}/{asked}", LIMITS)
    assert caught.value.reason is Reason.NOT_FOUND


def test_a_bucket_that_is_called_like_a_host_is_no_address():
    fsspec.filesystem("memory").pipe_file("/photos.shop.example/here.png", picture(20))
    with pytest.raises(ImageError, match=r"there is nothing at memory://photos\.shop\.example/7\.png$"):
        read_image("memory://photos.shop.example/7.png", LIMITS)


def test_keys_of_object_stores(monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"/looks/{normalize('NFD', 'é')}/a b.png", picture(21))
    memory.pipe_file("/looks/c/0.png", picture(22))
    memory.pipe_file("/looks/x%20y.png", picture(23))
    memory.pipe_file("/looks/x y.png", picture(24))
    memory.pipe_file("/looks/d/K%C3%BChler%20Tag.png", picture(25))
    named = {"%C3%A9/a%20b.png": 21, "c\\0.png": 22, "x%20y.png": 23, "x y.png": 24, "d/Kühler Tag.png": 25}
    for key, width in named.items():
        assert read_image(f"memory://looks/{key}", LIMITS).width == width
    asked = []
    read = memory.cat_file
    monkeypatch.setattr(type(memory), "cat_file", lambda _, path, **more: asked.append(path) or read(path, **more))
    with pytest.raises(ImageError, match="there is nothing at"):
        read_image("memory://looks/plain.png", LIMITS)
    assert len(asked) == 1  # a plain key has no other spelling: nothing more is asked
