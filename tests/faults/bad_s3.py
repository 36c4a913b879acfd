"""A proxy in front of an S3 server that answers badly on demand: what overloaded and far-away stores do."""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>told so by the test</Message></Error>'
LONGER_THAN_READERS_WAIT = 40.0


@dataclass
class Plan:
    """Which requests are answered badly, and how; changed while the proxy runs.

    Attributes:
        kind: SlowDown, InternalError, hangs, breaks (in the middle of an answer), refuses (at once) or none.
        every: so many requests of which one is befallen.
        at_most: requests befallen in all.
    """

    kind: str = "none"
    every: int = 1
    at_most: int = 10**9
    seen: int = 0
    befallen: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, kind: str, every: int, at_most: int = 10**9) -> None:
        with self.lock:
            self.kind, self.every, self.at_most, self.seen, self.befallen = kind, every, at_most, 0, 0

    def next(self) -> str:
        """What befalls this request."""
        with self.lock:
            self.seen += 1
            if self.kind == "none" or self.seen % self.every or self.befallen >= self.at_most:
                return "none"
            self.befallen += 1
            return self.kind


class Handler(BaseHTTPRequestHandler):
    """Passes requests on, or does what the plan says."""

    protocol_version = "HTTP/1.1"
    server: "BadServer"

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.server.plan.next()
        if kind == "SlowDown":
            return self._answer(503, "Slow Down", {}, ERROR.format(code="SlowDown").encode())
        if kind == "InternalError":
            return self._answer(500, "Internal Error", {}, ERROR.format(code="InternalError").encode())
        if kind == "hangs":
            time.sleep(LONGER_THAN_READERS_WAIT)
        if kind in {"hangs", "refuses"}:
            return self._reset()
        there = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        there.request(self.command, self.path, body, dict(self.headers))
        answer = there.getresponse()
        data = answer.read()
        there.close()
        if kind == "breaks":
            self._answer(answer.status, answer.reason, dict(answer.headers), data, cut=True)
            return self._reset()
        return self._answer(answer.status, answer.reason, dict(answer.headers), data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815  # the server's names

    def _answer(self, status: int, reason: str, headers: dict[str, str], data: bytes, *, cut: bool = False) -> None:
        own = {"content-length", "transfer-encoding", "connection", "date", "server"}
        self.send_response(status, reason)
        for name, value in headers.items():
            if name.lower() not in own:
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.wfile.flush()

    def _reset(self) -> None:
        """Close with a reset, as a broken connection ends."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Nothing on the console."""

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            return  # closed on purpose

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            return  # the client went away


class BadServer(ThreadingHTTPServer):
    """The proxy: its plan, and the port of the server behind it."""

    daemon_threads = True

    def __init__(self, plan: Plan, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.behind = plan, behind


@contextmanager
def bad_proxy(port: int, plan: Plan) -> Iterator[str]:
    """The URL of a proxy on the loopback interface for the server at `port`."""
    server = BadServer(plan, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
