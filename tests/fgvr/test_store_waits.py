"""Object stores that drip a byte now and then, or never answer: every way to ask one ends in its time."""

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.asyn import AsyncFileSystem

from fgvr import liveness, storage, store_waits, tables
from fgvr.config.data import FolderSource, ImageLimits, ParquetSource, TableSource, WebDatasetSource
from fgvr.config.web import WebPolicy
from fgvr.images.parquet import PAUSE_SECONDS, groups, open_parquet
from fgvr.images.read import ImageError, read_image_bytes
from fgvr.schemas import Reason
from fgvr.sources.source import read_source
from fgvr.store_waits import TooSlow

SECONDS = 0.3
"""The time of a call in these tests: half of the silence that is allowed."""


class Store(ThreadingHTTPServer):
    """A server of S3's protocol: says how large each file is, and sends a byte of it (and of anything else) at a time.

    Attributes:
        files: what it delivers at once, by path.
        asked: requests so far.
        over: set at the end of a test.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, bytes] = {}
        self.dripping = True
        self.asked = 0
        self.over = threading.Event()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def do_HEAD(self) -> None:
        # A folder is no key: whoever asks for one lists what lies below it.
        self._start(404 if self.path.endswith("/folder") else 200, len(self.server.files.get(self.path, b"x" * 1000)))

    def do_GET(self) -> None:
        data = self.server.files.get(self.path)
        if data is not None and not self.server.dripping:
            first, _, last = self.headers.get("Range", f"bytes=0-{len(data)}").removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1] if first else data[-int(last) :]
            self._start(206, len(part))
            self.wfile.write(part)
            return
        self._start(200, 1000)
        while not self.server.over.wait(0.05):
            try:
                self.wfile.write(b"<")
                self.wfile.flush()
            except OSError:
                return

    def do_PUT(self) -> None:
        self.server.over.wait(30)

    do_POST = do_DELETE = do_PUT  # noqa: N815 - the server's names

    def _start(self, status: int, length: int) -> None:
        self.server.asked += 1
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 02:00:00 GMT")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store is what s3:// means meanwhile; this process is watched, so that its calls have SECONDS."""
    server = Store()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    fsspec.filesystem("s3").clear_instance_cache()
    liveness.allow(2 * SECONDS)
    yield server
    liveness.allow(float("inf"))
    fsspec.filesystem("s3").clear_instance_cache()
    server.over.set()
    server.shutdown()
    server.server_close()


def arrow(uri: str) -> tuple[pafs.FileSystem, str]:
    return storage.arrow_filesystem(uri)


def parts(source: object) -> None:
    list(read_source(source, "s3://bucket/run").parts(100))  # type: ignore[arg-type]


LIMITS = ImageLimits(web=WebPolicy(total_seconds=SECONDS))
CALLS: dict[str, Callable[[], object]] = {
    "a whole file": lambda: storage.read_bytes("s3://bucket/key"),
    "a range": lambda: storage.read_bytes("s3://bucket/key", 0, 10),
    "a listing": lambda: storage.list_files("s3://bucket/folder"),
    "whether something is there": lambda: storage.exists("s3://bucket/folder/"),
    "a file of Arrow's": lambda: arrow("s3://bucket/a.parquet")[0].open_input_file("bucket/a.parquet").read(),
    "a stream of Arrow's": lambda: arrow("s3://bucket/a.csv")[0].open_input_stream("bucket/a.csv").read(),
    "a file that Arrow writes": lambda: arrow("s3://bucket/a")[0].open_output_stream("bucket/a").close(),
    "columns of a part": lambda: tables.read_part("s3://bucket/table", 0, ["image_id"]),
    "a part's footer": lambda: tables.part_metadata("s3://bucket/table", 0),
    "parts that are there": lambda: tables.finished_parts("s3://bucket/table"),
    "a part that is written": lambda: tables.write_part("s3://bucket/table", 0, pa.table({"image_id": [1]})),
    "a file that is created": lambda: storage.create_bytes("s3://bucket/lease", b"mine"),
    "what is removed": lambda: storage.remove("s3://bucket/key"),
    "a folder to fetch": lambda: storage.fetch_folder("s3://bucket/model"),
    "a table of photos, Parquet": lambda: parts(TableSource(path="s3://bucket/a.parquet")),
    "a table of photos, CSV": lambda: parts(TableSource(path="s3://bucket/a.csv")),
    "tars": lambda: parts(WebDatasetSource(path="s3://bucket/a.tar", class_from="none")),
    "Parquet files of photos": lambda: parts(ParquetSource(path="s3://bucket/a.parquet")),
    "a prefix of photos": lambda: parts(FolderSource(path="s3://bucket/photos")),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_way_to_ask_a_store_ends_in_its_time(call: str, store: Store) -> None:
    with pytest.raises(Exception, match="the object store did not finish in 0 s"):
        CALLS[call]()  # s3fs itself would wait for ever


IMAGES = {
    "a file": "s3://bucket/a.jpg",
    "a file of another spelling": "s3://bucket/M%C3%BC.jpg",
    "in a tar": "tar+s3://bucket/a.tar#000000000051200+8124/000123.jpg",
    "in Parquet": "parquet+s3://bucket/a.parquet#000000.000000001/5f2a91bc/image",
}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_given_up_in_the_time_of_an_image(image: str, store: Store) -> None:
    liveness.allow(float("inf"))  # so that it is this limit
    with pytest.raises(ImageError, match="the object store did not finish in 0 s") as caught:
        read_image_bytes(IMAGES[image], LIMITS)
    assert caught.value.reason is Reason.UNREADABLE


def test_a_row_group_that_drips_costs_one_wait_and_not_one_a_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    liveness.allow(float("inf"))
    sink, rows = io.BytesIO(), pa.table({"image": [bytes([n]) * 9_000_000 for n in range(9)]})
    pq.write_table(rows, sink, compression="none", use_dictionary=False, write_batch_size=1)  # a page a row
    store.files["/bucket/b.parquet"], store.dripping = sink.getvalue(), False
    (group,) = groups(open_parquet("s3://bucket/b.parquet"), "image")
    uris = group.uris("s3://bucket/b.parquet", "image").to_pylist()
    assert read_image_bytes(uris[0], ImageLimits())[-1] == 0
    store.dripping = True
    asked = []
    for uri in uris[6:]:
        with pytest.raises(ImageError, match="the object store did not finish") as caught:
            read_image_bytes(uri, LIMITS)
        assert caught.value.reason is Reason.UNREADABLE
        asked.append(store.asked)
    assert len(set(asked)) == 1
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + PAUSE_SECONDS)
    monkeypatch.setattr("fgvr.images.parquet.time", later)
    store.dripping = False
    assert read_image_bytes(uris[7], ImageLimits())[-1] == 7


class Dripping(AsyncFileSystem):
    """An object store without a network."""

    protocol = "dripping"
    cancelled = False

    async def _cat_file(self, path, start=None, end=None, **kwargs):
        try:
            while path != "whole":
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            type(self).cancelled = True
            raise
        return b"the file"[start:end]


def test_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    store_waits.limit_waits()
    fs = Dripping(skip_instance_cache=True)
    assert fs.cat_file("whole") == b"the file"
    monkeypatch.setattr(store_waits, "LONGEST_SECONDS", 0.2)
    with pytest.raises(TooSlow, match=r"slow\.jpg: the object store did not finish"):
        fs.cat_file("slow.jpg")  # by whoever calls it
    assert Dripping.cancelled  # the request is not left behind
    monkeypatch.setattr(store_waits, "LONGEST_SECONDS", 3600)
    with store_waits.within(0.4), store_waits.within(300):
        for _ in range(3):  # all of them together
            with pytest.raises(TooSlow):
                fs.cat_file("slow.jpg")
        with pytest.raises(TooSlow):
            fs.cat_file("whole")
    assert fs.cat_file("whole") == b"the file"


def test_what_arrives_of_a_large_file_is_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = []
    monkeypatch.setattr(liveness, "beat", lambda: beats.append(1))
    memory = f"memory://{tmp_path.name}/model"
    storage.write_bytes(f"{memory}/weights", b"w" * 1000)
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    liveness.allow(0.001)  # no limit of a fetch, which may take hours
    try:
        assert (storage.fetch_folder(memory) / "weights").read_bytes() == b"w" * 1000
        assert beats
        beats.clear()
        (tmp_path / "file").write_bytes(b"f")
        storage.put_folder(tmp_path / "cache", f"memory://{tmp_path.name}/copy")
    finally:
        liveness.allow(float("inf"))
    with store_waits.transfer(2**20 * 3600) as callback:
        callback.relative_update(5)
        assert beats
