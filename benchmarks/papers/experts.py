"""Stand-ins for the language model of `finer`: an ornithologist who knows the drawn field guide, and a grocer.

    python -m benchmarks.papers.experts --port 8123 &
    python -m benchmarks.papers.near_tables --table 2 --set baselines.finer.llm.kind=openai \
        baselines.finer.llm.model=ornithologist baselines.finer.llm.base_url=http://127.0.0.1:8123/v1

No real language model knows invented birds, and none is available for groceries. This OpenAI-compatible server reads
the answered questions from the prompt and returns the kinds that contradict the fewest of them. It has the full list of
kinds: the field guide's species (model `ornithologist`), the products of `grocery/questions.csv` (model `grocer`). So
FineR's row shows the method with a perfect language model behind an MLLM that makes mistakes; it says nothing about any
real language model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final

import numpy as np

from benchmarks import harness
from benchmarks.grocery.questions import read_table
from fgvr.demo.questions import QUESTIONS, truths
from fgvr.demo.species import SPECIES

_ANSWERED = re.compile(r"^(?P<question>.+\?) (?P<answer>Yes|No)$", re.MULTILINE)
_COUNT = re.compile(r"^Which (\d+) kinds", re.MULTILINE)


@dataclass(frozen=True)
class Expert:
    """What a stand-in knows: Q questions, C kinds, and the answers, bool [C, Q]."""

    questions: tuple[str, ...]
    names: tuple[str, ...]
    truth: np.ndarray

    def nearest(self, prompt: str) -> list[str]:
        """As many names as the prompt asks for, fewest contradictions first; empty without a known question."""
        said = {found["question"]: found["answer"] == "Yes" for found in _ANSWERED.finditer(prompt)}
        known = [place for place, question in enumerate(self.questions) if question in said]
        if not known:
            return []
        answers = np.array([said[self.questions[place]] for place in known])
        wrong = (self.truth[:, known] != answers).sum(axis=1)
        count = _COUNT.search(prompt)
        return [self.names[row] for row in np.argsort(wrong, kind="stable")[: int(count[1]) if count else 3]]


def experts() -> dict[str, Expert]:
    """The stand-ins by the name of their model."""
    products = read_table()
    return {
        "ornithologist": Expert(
            tuple(question.text for question in QUESTIONS),
            tuple(species.name for species in SPECIES),
            np.stack([truths(species.attributes) for species in SPECIES]),
        ),
        "grocer": Expert(products.texts, products.names, products.truth),
    }


EXPERTS: Final = experts()


def reply_to(request: dict[str, Any]) -> dict[str, Any]:
    """A chat completion; words count as tokens."""
    prompt, model = str(request["messages"][-1]["content"]), str(request["model"])
    text = "\n".join(EXPERTS[model].nearest(prompt)) or "I do not know this one."
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, "logprobs": None}
    spent = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
    usage = {**spent, "total_tokens": sum(spent.values())}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: thousands of lines would not help."""

    def do_GET(self) -> None:
        """The list of models."""
        self._send({"object": "list", "data": [{"id": name, "object": "model"} for name in EXPERTS]})

    def do_POST(self) -> None:
        """A chat completion."""
        self._send(reply_to(json.loads(self.rfile.read(int(self.headers["content-length"])))))

    def _send(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def answering(port: int = 0) -> Iterator[str]:
    """The address of the running server; port 0 takes a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, results=False)
    parser.add_argument("--port", type=int, default=8123, help="default: %(default)s")
    with ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), _Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
