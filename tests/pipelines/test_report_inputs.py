"""What a session finds of earlier ones: a report that evaluate alone finds, and what is left to compute."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.fingerprint import fingerprint_of
from cluster.stage import RunContext
from cluster.stage_files import finished
from fgvr.config import Config, build
from fgvr.errors import UserError
from fgvr.tables import Table
from fgvr.training import assemble
from pipelines import preflight
from pipelines.evaluate import whole_job
from pipelines.preflight import check_tables, compute
from pipelines.run_tables import Look, Run, closure, unfinished
from tests.pipelines.stage_prints import made_light, made_up
from tests.untracked import NoTracking


@dataclass
class Committing(RunContext):
    """Finds finished tables, and commits made-up ones where there are none."""

    made: list[str] = field(default_factory=list)
    reading: dict[str, list[str]] = field(default_factory=dict)

    def stage(self, name: str, *, decides: Any, inputs: Any, versions: Any = None, **_: Any) -> Table:
        fingerprint = fingerprint_of(name, decides, inputs, versions)
        place = Path(self.folder, "tables", name, fingerprint)
        self.reading[name] = [table.name for table in inputs]
        if finished(str(place)) is None:
            table = made_up(f"{self.folder}/made", name)
            shutil.copytree(table.uri, place)
            replace(table, uri=str(place), fingerprint=fingerprint).commit()
            self.made.append(name)
        return Table.load(str(place))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made_light(monkeypatch)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("a")
    (tmp_path / "questions.txt").write_text("Is it red?\n")
    return tmp_path


def config_of(folder: Path, more: dict[str, Any] | None = None, **evaluate: Any) -> Config:
    return build(
        {
            "ingest": {"source": {"kind": "folder", "path": str(folder / "photos")}},
            "questions": {"file": str(folder / "questions.txt")},
            "evaluate": {"methods": ["mllm", "zs_clip", "makd"], "report_images": 0, **evaluate},
            **(more or {}),
        }
    )


def session(
    folder: Path, tables: list[str], more: dict[str, Any] | None = None, **evaluate: Any
) -> tuple[Table, Committing]:
    """The report that one session has at its end, and what it computed for it."""
    config = config_of(folder, more, **evaluate)
    context = Committing(config, str(folder / "run"), NoTracking())  # type: ignore[arg-type]
    run = Run(context)
    for name in whole_job(config) if tables == ["full"] else tables:
        run.table(name)
    return run.table("report"), context


def test_evaluate_after_a_whole_job_finds_its_report(folder: Path) -> None:
    report, first = session(folder, ["full"])
    assert {"near", "predictions", "aspects", "report"} <= set(first.made)
    again, second = session(folder, [])
    assert second.made == []
    assert again == report
    assert second.reading["report"] == first.reading["report"]
    assert {"near", "predictions"} <= set(first.reading["report"])  # what every stage took is shown


def test_evaluate_alone_computes_what_its_methods_ask_and_shows_what_is_there(folder: Path) -> None:
    few, first = session(folder, [], methods=["zs_clip"])
    assert set(first.made) == {"samples", "answers", "labels", "embeddings", "eval_zs_clip", "report"}
    assert set(first.reading["report"]) == set(first.made) - {"report"}
    again, second = session(folder, [], methods=["zs_clip"])
    assert (again, second.made) == (few, [])
    _, whole = session(folder, ["full"], methods=["zs_clip"])
    assert "near" in whole.reading["report"]  # another page: it shows what more was computed


def test_evaluate_alone_does_not_mind_students_that_cannot_be(folder: Path) -> None:
    _, context = session(folder, [], {"makd": {"split": "photos"}}, methods=["zs_clip"])
    assert "makd" not in context.reading["report"]


def test_failed_rows_are_not_tried_again_for_the_page_alone(folder: Path) -> None:
    session(folder, ["full"])
    (place,) = (folder / "run" / "tables" / "aspects").iterdir()
    replace(Table.load(str(place)), failed=1).commit()
    again = {"run": {"retry_failed": True}}
    shown = session(folder, [], again, methods=["zs_clip"])[1].reading["report"]
    assert {"near", "base"} <= set(shown)
    assert {"aspects", "makd", "predictions"}.isdisjoint(shown)


def left(folder: Path, more: dict[str, Any]) -> set[str]:
    look = Look(config_of(folder, more), str(folder / "run"))
    return set(unfinished(look, closure(look, ["near", "makd"])))


def test_what_is_left_is_what_is_not_there_and_what_needs_it(folder: Path) -> None:
    assert "near" in left(folder, {})
    session(folder, ["full"])
    assert left(folder, {}) == set()
    assert left(folder, {"makd": {"epochs": 7}}) == {"makd"}
    assert left(folder, {"near": {"epochs": 7}}) == {"near"}  # these photos have true classes
    renamed = left(folder, {"label": {"prompt": "What is it?"}})
    assert {"answers", "labels", "candidates", "near"} == renamed


def test_failed_rows_that_are_tried_again_are_left_with_all_that_needs_them(folder: Path) -> None:
    session(folder, ["full"])
    (place,) = (folder / "run" / "tables" / "candidates").iterdir()
    replace(Table.load(str(place)), failed=1).commit()
    assert left(folder, {}) == set()
    assert left(folder, {"run": {"retry_failed": True}}) == {"candidates", "near"}


def test_workers_of_what_is_there_may_be_of_another_machine(folder: Path) -> None:
    more = {"label": {"workers": {"num_gpus": 2}}, "run": {"folder": str(folder), "name": "run"}}
    with pytest.raises(UserError, match=r"label\.workers\.num_gpus = 2: an engine takes 1"):
        check_tables(config_of(folder, more, methods=["zs_clip"]), ["report"])
    session(folder, [], {"run": more["run"]}, methods=["zs_clip"])
    check_tables(config_of(folder, more, methods=["zs_clip"]), ["report"])


def test_samples_are_read_once_for_all_that_a_session_looks_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session(folder, ["full"])
    read: list[str] = []

    def class_rows(samples: Table, split: str) -> Any:
        read.append(split)
        return original(samples, split)

    original = assemble.class_rows
    monkeypatch.setattr(assemble, "class_rows", class_rows)
    monkeypatch.setattr(preflight, "check_capacities", lambda *_: None)
    config = config_of(folder)
    context = Committing(config, str(folder / "run"), NoTracking())  # type: ignore[arg-type]
    compute(Run(context), [*whole_job(config), "report"])
    # By the session, and before there was a session that knew of a table of samples.
    assert read == [config.makd.split] * 2
