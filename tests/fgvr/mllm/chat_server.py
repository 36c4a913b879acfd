"""A small OpenAI-compatible server that fails as told."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any

Reply = tuple[int, dict[str, str], Any]
"""Status, headers, body (bytes as they are, else JSON)."""


def completion(
    text: str | None, *, tops: dict[str, float] | None = None, finish: str = "stop", **message: Any
) -> Reply:
    """A chat completion; `tops`: listed log-probabilities of the first token."""
    logprobs = None
    if tops is not None:
        listed = [{"token": token, "logprob": value, "bytes": None} for token, value in tops.items()]
        logprobs = {"content": [{**listed[0], "top_logprobs": listed}]}
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text, **message},
        "logprobs": logprobs,
    }
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 3,
        "total_tokens": 23,
        "prompt_tokens_details": {"cached_tokens": 16},
    }
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return 200, {}, body


def error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, {"error": {"message": message, "type": "error", "param": None, "code": code}}


def prompt_of(body: dict[str, Any]) -> str:
    """The text of a request's last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")


@dataclass
class ChatServer:
    """`answer(body, n)` gives the n-th reply (from 0); everything asked is kept."""

    answer: Callable[[dict[str, Any], int], Reply | None]
    models: Reply = (200, {}, {"object": "list", "data": []})
    asked: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""
    seconds_a_byte: float = 0
    cut_bodies: int = 0
    """So many first replies break off in the middle."""
    most_open: int = 0
    open: int = 0


def _write(connection: socket.socket, file: IO[bytes], data: bytes, *, seconds_a_byte: float, cut: bool) -> None:
    if cut:  # as a proxy that dies: half of the body that the header promised
        file.write(data[: len(data) // 2])
        connection.shutdown(socket.SHUT_RDWR)
    elif seconds_a_byte:
        for byte in data:
            file.write(bytes([byte]))
            time.sleep(seconds_a_byte)
    else:
        file.write(data)


@contextmanager
def serving(server: ChatServer) -> Iterator[ChatServer]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._send(server.models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(server.asked)
                server.asked.append(body)
                server.times.append(time.monotonic())
                server.keys.append(self.headers["authorization"])
                server.open += 1
                server.most_open = max(server.most_open, server.open)
            try:
                reply = server.answer(body, number)
            finally:
                with lock:
                    server.open -= 1
            if reply is None:  # hang up without a word
                self.close_connection = True
                self.connection.close()
                return
            self._send(reply, seconds_a_byte=server.seconds_a_byte, cut=server.cut_bodies > number)

        def _send(self, reply: Reply, *, seconds_a_byte: float = 0, cut: bool = False) -> None:
            status, headers, body = reply
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            try:
                _write(self.connection, self.wfile, data, seconds_a_byte=seconds_a_byte, cut=cut)
            except OSError:  # the client did not wait
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # sixteen connections at once would be too many for the default of 5

    httpd = Server(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
