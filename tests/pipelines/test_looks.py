"""Labels and aspects in one pass: real parts, computed in this process, and a server in place of the engine."""

from pathlib import Path
from typing import Any

import pytest
from test_mllm_stages import ChatServer, flow, model, serving

from fgvr import storage, tables
from fgvr.config import ConfigError
from pipelines.run_tables import Run
from tests.without_ray import parts_without_ray

pytestmark = pytest.mark.slow

TOGETHER = {"max_images": 12, "instruction": "Yes or No.", "workers": {"rows_per_part": 9}, "with_labels": True}


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)


def rows_of(made: Run) -> list[list[dict[str, Any]]]:
    return [table.read().to_pylist() for table in (made.table("labels"), made.table("aspects"))]


def test_one_pass_gives_the_tables_of_two_stages(tmp_path: Path) -> None:
    with serving(ChatServer(model)) as server:
        apart = flow(tmp_path / "apart", server)
        expected = rows_of(apart)
        asked = len(server.asked)
        made = flow(tmp_path / "together", server, aspects=TOGETHER)
        assert rows_of(made) == expected
        assert len(server.asked) == 2 * asked == 2 * (36 + 12 * 32)
    assert made.table("looks") is not None
    named, asked_about = (
        set(table.read(["image_id"])["image_id"].to_pylist()) for table in (made.table("labels"), made.table("aspects"))
    )
    assert made.table("looks").rows == len(named | asked_about) < 36 + 12
    assert made.table("aspects").extra["questions"] == 32
    assert made.table("aspects").extra["metrics"] == apart.table("aspects").extra["metrics"]


def test_an_interrupted_pass_computes_what_is_missing(tmp_path: Path) -> None:
    with serving(ChatServer(model)) as server:
        made = flow(tmp_path, server, aspects=TOGETHER, mllm=without_memory(server))
        expected, looks = rows_of(made), made.table("looks")
        assert looks is not None
        lost = tables.read_part(looks.uri, 1)
        for file in (tables.part_name(1), tables.MANIFEST):
            storage.remove(storage.join(looks.uri, file))
        asked = len(server.asked)
        again = flow(tmp_path, server, aspects=TOGETHER, mllm=without_memory(server))
        assert rows_of(again) == expected
        named, questioned = (lost.num_rows - lost[part].null_count for part in ("answer", "aspects"))
        assert len(server.asked) - asked == named + 32 * questioned


def without_memory(server: ChatServer) -> dict[str, Any]:
    return {"kind": "openai", "base_url": server.url, "model": "m", "max_retries": 0, "reply_cache": None}


def test_questions_that_need_the_labels_cannot_be_asked_with_them(tmp_path: Path) -> None:
    with serving(ChatServer(model)) as server:
        llm = {"kind": "openai", "base_url": server.url, "model": "writer"}
        made = flow(tmp_path, server, aspects=TOGETHER, questions={"llm": llm}, makd={"target": "near"})
        with pytest.raises(ConfigError, match=r"aspects\.with_labels: .* set questions\.file"):
            _ = made.table("labels")
        assert not server.asked
