"""Names on the hub, with a hub on loopback: what it does not have is refused, online and offline."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

COMMIT = "c" * 40
FILES = {
    "/sentence-transformers/some-bert/resolve/main/modules.json": b"[]",
    "/org/some-clip/resolve/main/open_clip_config.json": b'{"model_cfg": {}}',
    "/org/some-mllm/resolve/main/config.json": b'{"architectures": ["X"]}',
}
ASK = """
import json, sys
from fgvr.clip.source import find_clip
from fgvr.config import build
from fgvr.errors import UserError
from fgvr.metrics.semantic import find_sentence_model
from fgvr.mllm.vllm_engine.model_files import identity
looks = {
    "bert": lambda name: find_sentence_model(name),
    "clip": lambda name: find_clip(build({"clip": {"model": f"hf-hub:{name}"}}).clip),
    "mllm": lambda name: identity(build({"mllm": {"kind": "vllm", "model": name}}).mllm),
}
said = {}
for what, name in json.loads(sys.argv[1]):
    try:
        looks[what](name)
        said[name] = ""
    except UserError as error:
        said[name] = str(error)
print(json.dumps(said))
"""
THERE = [("bert", "some-bert"), ("clip", "org/some-clip"), ("mllm", "org/some-mllm")]
MISSING = [("bert", "all-MiniLM-L6-v3"), ("bert", "no-such-user/no-bert"), ("clip", "no/clip"), ("mllm", "no/mllm")]


class Hub(BaseHTTPRequestHandler):
    """Has FILES, and answers about others as the hub does."""

    def _any(self) -> None:
        content = FILES.get(self.path)
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("X-Error-Message", "Repository not found")
        else:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command != "HEAD" and content is not None:
            self.wfile.write(content)

    do_GET = do_HEAD = _any  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def ask(names: list[tuple[str, str]], cache: Path, **more: str) -> dict[str, str]:
    """What is said of each name by a process of its own, since the hub's library reads its settings when imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    command = [sys.executable, "-c", ASK, json.dumps(names)]
    env = kept | {"HF_HOME": str(cache), **more}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_name_that_the_hub_does_not_have_is_refused_with_its_field(hub: str, tmp_path: Path) -> None:
    said = ask([*THERE, *MISSING], tmp_path, HF_ENDPOINT=hub)
    assert {name: said[name] for _, name in THERE} == dict.fromkeys((name for _, name in THERE), "")
    fields = {"bert": "evaluate.sentence_model", "clip": "clip.model", "mllm": "mllm.model"}
    for what, name in MISSING:
        assert said[name].startswith(fields[what]), said[name]
        assert name in said[name]
    # Without the network the cache answers for what it has seen, and what it has not is refused.
    offline = ask([*THERE, *MISSING], tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert {name: offline[name] for _, name in THERE} == dict.fromkeys((name for _, name in THERE), "")
    assert all("HF_HUB_OFFLINE is set" in offline[name] for _, name in MISSING)
