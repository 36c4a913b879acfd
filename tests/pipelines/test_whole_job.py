"""A whole job in this process: what is asked first, what the report shows, and that a second session finds it all."""

from pathlib import Path
from typing import Any

import pytest

from cluster.checkpoints import TrainResult
from cluster.stage import RunContext
from fgvr.config import Config, build
from fgvr.tables import Table
from fgvr.training.reporter import LocalReporter
from pipelines import preflight
from pipelines.evaluate import whole_job
from pipelines.preflight import check_tables, compute
from pipelines.run_tables import Run
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray

pytestmark = pytest.mark.slow


class NoMlflow(NoTracking):
    """Nothing is logged."""

    def log_metrics(self, metrics: dict[str, float]) -> None:
        """Nobody looks."""

    def describe(self, text: str) -> None:
        """Nobody looks."""

    def log_file(self, uri: str, folder: str | None = None) -> None:
        """Nobody looks."""


def train_here(loop: Any, job: Any, *, name: str, folder: str, **_: Any) -> TrainResult:
    """In place of Ray Train: one worker in this process."""
    reporter = LocalReporter(Path(folder) / name)
    loop(job, reporter)
    return TrainResult(reporter.history[-1], str(reporter.checkpoint))


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts_without_ray(monkeypatch)
    monkeypatch.setattr("cluster.train.train", train_here)
    monkeypatch.setattr(preflight, "check_capacities", lambda *_: None)
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))


def config(folder: Path) -> Config:
    return build(
        {
            "run": {"folder": str(folder)},
            "ingest": {"source": {"kind": "field_guide", "train_per_class": 2, "test_per_class": 1}},
            "mllm": {"kind": "simulated", "request_seconds": 0, "start_seconds": 0, "names": 20},
            "near": {"epochs": 1, "batch_size": 64},
            "makd": {"backbone": "test_byobnet", "image_size": 32, "epochs": 1, "batch_size": 32},
            "tracking": {"log_models": False},
            "evaluate": {"methods": ["mllm", "zs_clip", "near", "base", "makd"], "bootstrap": 10, "report_images": 2},
        }
    )


def session(folder: Path, *tables: str) -> tuple[list[str], dict[str, Table]]:
    """The names of what one session computed or found, in order, and all its tables."""
    made = config(folder)
    run = Run(RunContext(made, str(folder / made.run.name), NoMlflow()))  # type: ignore[arg-type]
    compute(run, tables or [*whole_job(made), "report"])
    return [table.name for table in run.context.tables], run.tables


def test_what_asks_a_model_goes_before_the_trainings_that_take_its_place(tmp_path: Path) -> None:
    check_tables(config(tmp_path), [*whole_job(config(tmp_path)), "report"])
    order, tables = session(tmp_path)
    places = {name: place for place, name in enumerate(order)}
    assert len(places) == len(order)  # each once
    assert max(places[name] for name in ("answers", "aspects", "eval_mllm_answers")) < places["near"] < places["base"]
    assert order[-1] == "report"
    assert tables["makd"].extra["class_targets"] == "true"
    assert Path(tables["near"].path("history.json")).exists()
    assert Path(tables["makd"].path("last")).is_dir()

    _, found = session(tmp_path)
    assert {name: table.uri for name, table in found.items()} == {name: table.uri for name, table in tables.items()}
    assert {table.seconds for table in found.values()} == {table.seconds for table in tables.values()}
    _, alone = session(tmp_path, "report")
    assert alone["report"] == tables["report"]
