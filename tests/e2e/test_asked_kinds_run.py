"""A language model behind a server is asked what kind of thing each name is, by the command that people type."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e import runs
from tests.fgvr.mllm.chat_server import ChatServer, Reply, completion, error, prompt_of, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Server:
    """The last word of a bird's name is its kind; nonsense about finches; every tenth request fails once."""

    def __init__(self) -> None:
        self.failed = 0

    def answer(self, body: dict[str, Any], number: int) -> Reply:
        name = prompt_of(body).rpartition("Kind: ")[2]
        if number % 10 == 9:
            self.failed += 1
            return error(500, "try again")
        if name == "Finch":
            return completion("blah " * 2_000)
        return completion("Bird." if len(name.split()) == 1 else f"The kind is: {name.split()[-1]}.")


def test_kinds_by_the_command_line(tmp_path: Path) -> None:
    model = Server()
    with serving(ChatServer(model.answer)) as server:
        llm = {"hierarchy__llm__kind": "openai", "hierarchy__llm__model": "m", "hierarchy__llm__base_url": server.url}
        arguments = runs.flags(
            str(tmp_path),
            mllm__kind="simulated",
            hierarchy__source="mllm",
            hierarchy__workers__rows_per_part="8",
            **llm,
        )
        said = runs.run("parents", arguments)
    answered = len(server.asked) - model.failed
    assert answered > 36  # every species, and what the simulated model calls them
    assert "nothing stands above" not in said
    answers = runs.table(str(tmp_path), "kind_answers")
    assert answers.failed == 0
    assert answers.parts == -(-answers.rows // 8)
    # Kinds that several parts have in common are asked once, too: the run keeps replies.
    assert answers.extra["metrics"]["prompt_tokens"] > 20 * answered
    rows = {row["name"]: row for row in runs.table(str(tmp_path), "parents").read().to_pylist()}
    finches = [row for name, row in rows.items() if name.endswith(" Finch")]
    assert finches
    assert all(row["parent"] == "Finch" and row["is_name"] for row in finches)
    assert (rows["Finch"]["parent"], rows["Finch"]["depth"]) == (None, 1)  # of it there was no usable answer
    assert rows["Curlew"]["parent"] == "Bird"
