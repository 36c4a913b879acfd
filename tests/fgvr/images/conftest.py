"""A web server on this machine that does what servers do when they are not kind."""

import io
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar
from urllib.parse import unquote

import pytest
from PIL import Image


def a_jpeg() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(sink, "JPEG")
    return sink.getvalue()


class Server(ThreadingHTTPServer):
    """What it was asked; answers that go on for ever end with `over`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answers: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), answers)
        self.asked: Counter[str] = Counter()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


Running = TypeVar("Running", bound=Server)


@contextmanager
def running(server: Running) -> Iterator[Running]:
    """A server that answers on a thread of its own until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


class Shop(Server):
    """What it was asked, and how often at once."""

    def __init__(self) -> None:
        super().__init__(_Answers)
        self.headers: dict[str, dict[str, str]] = defaultdict(dict)
        self.sent: Counter[str] = Counter()
        self.inside = self.most_inside = 0
        self.lock = threading.Lock()


RAW = {"utf8": "/größe/ü b.jpg?ä=1".encode(), "latin1": "/größe.jpg".encode("latin-1"), "empty": b"", "blank": b"  "}
"""Targets of redirects, byte for byte."""


class _Answers(BaseHTTPRequestHandler):
    server: Shop

    def do_GET(self):
        with self.server.lock:
            self.server.asked[self.path] += 1
            times = self.server.asked[self.path]
            self.server.headers[self.path] = dict(self.headers)
        try:
            self._answer(self.path.partition("?")[0], times)
        except OSError:
            return  # the reader left, as it should

    def _answer(self, path: str, times: int) -> None:
        kind, _, rest = path[1:].partition("/")
        if kind == "to":
            self._send(302, b"", Location=rest)
        elif kind == "raw":  # as servers do that put a file's name into the header as it is
            self.wfile.write(b"HTTP/1.0 301 Moved\r\nLocation: " + RAW[rest] + b"\r\nContent-Length: 0\r\n\r\n")
        elif kind == "status":  # /status/<number>/<how often>/<Retry-After>
            status, often, wait = rest.split("/")
            if times > int(often):
                self._send(200, a_jpeg())
            else:
                self._send(int(status), b"no", **({"Retry-After": unquote(wait)} if wait else {}))
        elif kind in ODD:
            ODD[kind](self)
        else:
            if kind.startswith("slow"):
                self._take_time()
            self._send(200, a_jpeg())

    def _take_time(self) -> None:
        # Counted until the answer begins: a reader that has all of it may ask again before this thread goes on.
        with self.server.lock:
            self.server.inside += 1
            self.server.most_inside = max(self.server.most_inside, self.server.inside)
        time.sleep(0.05)
        with self.server.lock:
            self.server.inside -= 1

    def _begin(self, **headers: str) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _endless(self, **headers: str) -> None:
        self._begin(**headers)
        while not self.server.over.is_set():
            self.wfile.write(bytes(65536))
            self.server.sent[self.path] += 65536

    def _trickle(self, start: bytes) -> None:
        self.wfile.write(start)
        while not self.server.over.wait(0.1):
            self.wfile.write(b"x")

    def _cut(self) -> None:
        self._begin(Content_Length="5000")
        self.wfile.write(a_jpeg()[:100])

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


ODD = {
    "gone.jpg": lambda self: self._send(404, b""),
    "round": lambda self: self._send(301, b"", Location="/round"),
    "packed.jpg": lambda self: self._send(200, a_jpeg(), Content_Encoding="gzip"),
    "cut.jpg": _Answers._cut,
    "endless.jpg": _Answers._endless,
    "announced.jpg": lambda self: self._endless(Content_Length=str(10**12)),  # says at once how large it is
    "trickle.jpg": lambda self: self._trickle(b"HTTP/1.0 200 OK\r\n\r\n"),
    "trickle-headers.jpg": lambda self: self._trickle(b"HTTP/1.0 200 OK\r\nX: "),
}


@pytest.fixture
def shop() -> Iterator[Shop]:
    with running(Shop()) as server:
        yield server
