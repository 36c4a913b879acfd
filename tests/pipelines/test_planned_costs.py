"""What is there is not counted again: finished tables and parts, kept replies; and a plan starts and writes nothing."""

import logging
from pathlib import Path
from typing import Any

import pytest
from test_mllm_stages import ChatServer, Reply, error, flow, image_of, model, serving

from cluster.stage_files import StageClock
from fgvr import storage, tables
from fgvr.config import ConfigError, build
from fgvr.config.models import OpenAIBackend
from fgvr.report.estimates import read_estimates
from pipelines.bill import Bill
from pipelines.estimate import bill_of, plan, tell_bill
from pipelines.run_tables import Look, Run
from tests.without_ray import parts_without_ray

THREE = {"keep": 3}
"""Of the field guide's questions."""


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)


def left(made: Run, **more: Any) -> dict[str, float]:
    """Requests left of each stage."""
    return {line.ask.stage: line.load.requests for line in bill(made, **more).lines}


def bill(made: Run, **more: Any) -> Bill:
    config = made.context.config.model_copy(update=more)
    return bill_of(Look(config, made.folder, given={"samples": made.table("samples")}), ("labels", "aspects"))


def rejecting(body: dict[str, Any], number: int) -> Reply:
    """As `model`, but for a few images, which it does not take."""
    return error(400, "unsafe") if image_of(body) % 4 == 2 else model(body, number)


def lose(uri: str, *parts: int) -> None:
    """As a run that was killed leaves a table."""
    for name in (tables.MANIFEST, *(tables.part_name(part) for part in parts)):
        storage.remove(storage.join(uri, name))


def without_memory(server: ChatServer) -> dict[str, Any]:
    return {"kind": "openai", "base_url": server.url, "model": "m", "max_retries": 0, "reply_cache": None}


@pytest.mark.slow
def test_what_is_done_is_not_on_the_bill(tmp_path: Path) -> None:
    with serving(ChatServer(model)) as server:
        run = flow(tmp_path, server, mllm=without_memory(server), questions=THREE)
        # 36 species with one discovery image each; 12 images with three questions.
        assert left(run) == {"answers": 36, "aspects": 12 * 3}
        answers, aspects = run.table("labels"), run.table("aspects")
        assert left(run) == {}
        folder = next(table for table in run.context.tables if table.name == "answers")
        lose(folder.uri, 1)  # of parts of ten
        lose(aspects.uri, 0, 2)  # of five, five and two
        assert left(run) == {"answers": 10, "aspects": 7 * 3}
    assert answers.rows == 36


@pytest.mark.slow
def test_failed_rows_are_counted_where_they_are_tried_again(tmp_path: Path) -> None:
    with serving(ChatServer(rejecting)) as server:
        run = flow(tmp_path, server, mllm=without_memory(server), questions=THREE)
        run.table("labels")
        table = next(table for table in run.context.tables if table.name == "answers")
        again = run.context.config.run.model_copy(update={"retry_failed": True})
        assert table.failed
        assert left(run, run=again)["answers"] == table.failed
        assert "answers" not in left(run)
        lose(table.uri, 3)  # six of the 36
        rows = tables.Table(table.uri, "answers", "f", 30, 0, 3, 10, 0.0).read()
        failed = rows.num_rows - rows["error"].null_count
        assert failed
        assert left(run, run=again)["answers"] == 6 + failed


@pytest.mark.slow
def test_replies_that_are_kept_are_not_asked_for_again(tmp_path: Path) -> None:
    with serving(ChatServer(model)) as server:
        run = flow(tmp_path, server, questions=THREE)
        run.table("labels"), run.table("aspects")
        for table in run.context.tables:
            if table.name in {"answers", "aspects"}:
                lose(table.uri, *range(table.parts))
        spent = len(server.asked)
        # Nobody keeps what a filter held back, or nothing at all: these alone are left.
        found = left(run)
        assert "aspects" not in found
        assert found.get("answers", 0) < 18
        other = run.context.config.label.model_copy(update={"prompt": "What is it?"})
        assert left(run, label=other)["answers"] == 36
        assert len(server.asked) == spent


def test_rates_and_tokens_are_those_that_this_run_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ChatServer(model)) as server:
        run = flow(tmp_path, server, mllm=without_memory(server), questions=THREE)
        run.table("labels")
        table = next(table for table in run.context.tables if table.name == "answers")
        lose(table.uri, 0)
        monkeypatch.setattr(StageClock, "seconds", property(lambda _: 52.0))  # for the 26 rows that are there
        line = bill(run).lines[0]
    rows = tables.read_part(table.uri, 1).num_rows + tables.read_part(table.uri, 2).num_rows
    assert (line.rows, line.measured, line.seconds) == (10, True, pytest.approx(20))
    counted = [tables.part_summary(table.uri, part)["totals"] for part in (1, 2, 3)]
    assert rows == 20
    assert line.load.prompt == pytest.approx(10 * sum(totals["prompt_tokens"] for totals in counted) / 26)


def test_a_plan_starts_nothing_asks_nobody_and_writes_nothing(tmp_path: Path) -> None:
    source = {"kind": "field_guide", "train_per_class": 3, "test_per_class": 1}
    server = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    run = {"folder": str(tmp_path / "runs"), "name": "x"}
    config = build({"ingest": {"source": source}, "mllm": server, "run": run, "label": {"images": {"per_class": 2}}})
    text = plan(config, ("labels",))
    assert text.splitlines()[0] == "144 photos (test 36, train 108)"
    assert text.splitlines()[2].split()[:3] == ["answers", "72", "72"]
    assert text.endswith("nothing was started\n")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_says_what_the_photos_make_impossible(tmp_path: Path) -> None:
    source = {"kind": "field_guide", "train_per_class": 3, "test_per_class": 1}
    run = {"folder": str(tmp_path / "runs"), "name": "x"}
    config = build({"ingest": {"source": source}, "run": run, "makd": {"trainer": "semi"}})
    with pytest.raises(ConfigError, match=r"makd\.trainer = semi: every image of train has a class"):
        plan(config, ("makd",))


def test_a_plan_counts_a_table_of_photos_that_is_not_listed_yet(tmp_path: Path) -> None:
    rows = [f"a{n}.jpg,{'test' if n % 5 == 0 else 'train'},kind {n % 3}" for n in range(20)]
    (tmp_path / "photos.csv").write_text("\n".join(["uri,split,class_name", *rows]) + "\n")
    tree = {
        "ingest": {"source": {"kind": "table", "path": str(tmp_path / "photos.csv")}},
        "mllm": {"kind": "simulated"},
        "label": {"images": {"per_class": 2}},
        "run": {"folder": str(tmp_path / "runs")},
    }
    text = plan(build(tree), ("labels", "report"))
    assert "20 photos (test 4, train 16)" in text
    assert "answers 6, aspects 800, eval_mllm_answers 4" in text
    assert not (tmp_path / "runs").exists()


def test_photos_of_which_none_opens_are_warned_of_before_anything_is_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(ChatServer(model)) as server:
        run = flow(tmp_path, server, questions=THREE)
        uris = run.table("samples").read(["uri"])["uri"].to_pylist()
        for uri in uris[1:]:
            Path(uri).unlink()
        tell_bill(run, ("labels",))
        assert "photos from all over the source" not in caplog.text  # one is enough to know that the disk is there
        Path(uris[0]).unlink()
        tell_bill(run, ("labels",))
    assert f"none of 5 photos from all over the source can be read, so perhaps all will fail: {uris[0]}:" in caplog.text


def test_it_is_told_before_the_first_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serving(ChatServer(model)) as server:
        run = flow(tmp_path, server, questions=THREE)
        tell_bill(run, ("labels", "aspects"))
        assert server.asked == []
        kept = read_estimates(run.folder)
        assert {stage: (each.rows, each.requests) for stage, each in kept.items()} == {
            "answers": (36, 36),
            "aspects": (12, 36),
        }
        run.table("labels")
        tell_bill(run, ("labels", "aspects"))  # of answers nothing is left: what was expected stays
        assert read_estimates(run.folder)["answers"] == kept["answers"]
    assert any(record.message.split()[:3] == ["aspects", "12", "36"] for record in caplog.records)
    assert isinstance(run.context.config.mllm, OpenAIBackend)
