"""The list of all tables: each line is a stage, each names tables of the list, and the docs have them all."""

import logging
import re
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fgvr.config import Config, build
from fgvr.config.base import TrainWorkers, Workers
from fgvr.tables import Table
from pipelines.photo_counts import Photos
from pipelines.registry import STAGES, WHOLE_JOB, added_tables, in_order, stage_of
from pipelines.run_tables import Look, NotThere, Run, closure, needs, quietly
from pipelines.stage import model_of, setting

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"
TREES: dict[str, dict[str, Any]] = {
    "usual": {},
    "together": {"aspects": {"with_labels": True}},
    "alike": {"label": {"duplicate_similarity": 0.98}},
    "sources": {"label": {"sources": [{"kind": "ask"}, {"kind": "ask", "name": "other", "prompt": "What is it?"}]}},
    "kinds": {"hierarchy": {"source": "mllm", "decide": "any_level"}},
    "written": {"questions": {"llm": {"kind": "openai", "model": "m"}}, "makd": {"target": "near"}},
}


def look(config: Config) -> Look:
    return Look(config, "/no/such/run", Photos({"train": 9, "test": 3}))


@pytest.mark.parametrize("name", STAGES)
def test_a_line_is_a_stage_of_that_table(name: str) -> None:
    stage = stage_of(name)
    assert stage.table == name
    assert stage is stage_of(name)
    assert stage.phase in {"prepare", "train", "infer", None}


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_names_is_there(name: str, tree: str) -> None:
    config, stage = build(TREES[tree]), stage_of(name)
    assert set(needs(look(config), name)) <= {*STAGES, *added_tables(config)}
    if (place := stage.workers(config)) is not None:
        assert isinstance(setting(config, place), Workers | TrainWorkers)
    if (place := stage.model(config)) is not None:
        assert stage.workers(config) is not None
        if model_of(stage, config) is not None:
            assert stage.asks(look(config)).row.requests > 0


@pytest.mark.parametrize("tree", TREES)
def test_no_table_needs_itself(tree: str) -> None:
    run = look(build(TREES[tree]))
    for name in STAGES:
        assert name not in {other for each in needs(run, name) for other in closure(run, [each])}, name


def test_tables_that_a_config_adds_stand_behind_the_first_of_their_kind() -> None:
    names = {"labels", "answers_b", "votes", "answers", "samples", "answers_a"}
    assert in_order(names) == ["samples", "answers", "answers_a", "answers_b", "labels", "votes"]
    stage = stage_of("answers_b")
    assert stage.table == "answers_b"
    assert stage is stage_of("answers_b")
    with pytest.raises(KeyError):
        stage_of("no_such_table")


def test_the_whole_job_is_of_the_list_and_in_its_order() -> None:
    places = [list(STAGES).index(name) for name in WHOLE_JOB if name != "embeddings"]
    assert places == sorted(places)


def test_a_later_stage_that_asks_the_same_model_keeps_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Run = look(build({}))
    run.expect(["labels", "aspects", "report"])
    assert run.still_asks(stage_of("answers"))
    run.tables |= dict.fromkeys(("answers", "aspects", "eval_mllm_answers", "finer_aspects"))  # type: ignore[arg-type]
    assert not run.still_asks(stage_of("answers"))


class Lately(Look):
    """A look at a run in which tables are found once the test says so."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, "/no/such/run")
        self.found: set[str] = set()

    def looking(self) -> Look:
        """Another look, as a run that computes takes it."""
        look = Lately(self.config)
        look.found, look.tables = self.found, dict(self.tables)
        return look

    def table(self, name: str) -> Table:
        """A table that is only a name, if it is there."""
        if name not in self.found and name not in self.tables:
            raise NotThere(name)
        return self.tables.setdefault(name, Table(name, name, "f", 1, 0, 1, 1, 0.0))


def test_what_earlier_sessions_finished_is_no_later_work_as_soon_as_it_can_be_known() -> None:
    run = Lately(build({}))
    run.expect(["labels", "aspects"])
    assert {"answers", "labels", "aspects"} <= {stage.table for stage in run.later()}
    run.found |= {"answers", "labels"}  # of an earlier session: they can be found when the samples are listed again
    assert "labels" in {stage.table for stage in run.later()}  # nothing has been finished since: nobody looks
    run.found.add("samples")
    run.table("samples")
    assert {stage.table for stage in run.later()} == {"questions", "aspects"}
    assert {"answers", "labels"} <= run.there


def test_while_one_thread_looks_for_tables_the_warnings_of_others_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    words = logging.getLogger("cluster.lease")
    with quietly():
        words.warning("of the table that is looked for")
        other = Thread(target=lambda: words.warning("the lease is lost"))
        other.start()
        other.join()
        with quietly():
            words.error("of another one")
        words.error("still looking")
        raise NotThere("labels")  # which ends the block, and nothing else
    words.warning("after it")
    assert [record.message for record in caplog.records] == ["the lease is lost", "after it"]


def test_an_engine_is_not_kept_for_a_stage_whose_workers_reserve_something_else() -> None:
    run: Run = look(build({"aspects": {"workers": {"num_gpus": 1}}}))
    run.expect(["labels", "aspects"])
    assert not run.still_asks(stage_of("answers"))
    run = look(build({"aspects": {"workers": {"max_workers": 8, "rows_per_part": 7}}}))
    run.expect(["labels", "aspects"])
    assert run.still_asks(stage_of("answers"))


def test_the_page_on_architecture_has_every_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `pipelines/([\w/]+)\.py` \|", ARCHITECTURE.read_text(), flags=re.MULTILINE)
    assert rows == [(name, line.partition(":")[0].replace(".", "/")) for name, line in STAGES.items()]
