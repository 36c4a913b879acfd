"""A stand-in for the language model of `finer` on the drawn field guide: it knows the guide's species by heart.

    python benchmarks/ornithologist.py --port 8123 &
    python benchmarks/near_tables.py --table 2 --set baselines.finer.llm.kind=openai \
        baselines.finer.llm.model=ornithologist baselines.finer.llm.base_url=http://127.0.0.1:8123/v1

No real language model knows invented birds. This OpenAI-compatible server reads the answered questions from the prompt
and says the species whose looks contradict the fewest of them. FineR's row on the field guide is thus what the method
gives with a perfect language model behind an erring MLLM; it says nothing about any real one.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from fgvr.demo.questions import QUESTIONS
from fgvr.demo.species import SPECIES

_ANSWERED = re.compile(r"^(?P<question>.+\?) (?P<answer>Yes|No)$", re.MULTILINE)
_COUNT = re.compile(r"^Which (\d+) kinds", re.MULTILINE)
_KNOWN = {question.text: question for question in QUESTIONS}


def nearest_species(prompt: str) -> list[str]:
    """As many names as the prompt asks for, fewest contradictions first; empty where it answers no known question."""
    answered = [
        (_KNOWN[found["question"]], found["answer"] == "Yes")
        for found in _ANSWERED.finditer(prompt)
        if found["question"] in _KNOWN
    ]
    if not answered:
        return []
    wrong = {
        species.name: sum(question.truth(species.attributes) != yes for question, yes in answered)
        for species in SPECIES
    }
    count = _COUNT.search(prompt)
    return sorted(wrong, key=lambda name: wrong[name])[: int(count[1]) if count else 3]


def reply_to(request: dict[str, Any]) -> dict[str, Any]:
    """A chat completion; words stand for tokens."""
    prompt = str(request["messages"][-1]["content"])
    text = "\n".join(nearest_species(prompt)) or "I do not know this bird."
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, "logprobs": None}
    spent = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
    usage = {**spent, "total_tokens": sum(spent.values())}
    model = str(request["model"])
    return {"id": "1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: thousands of lines would say nothing."""

    def do_GET(self) -> None:
        """The list of models."""
        self._send({"object": "list", "data": [{"id": "ornithologist", "object": "model"}]})

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
    """The server's address while it runs; port 0 takes a free one."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8123, help="default: %(default)s")
    with ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), _Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
