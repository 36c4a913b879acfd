"""`plan.py --probe`: a few photos are really asked about and embedded, rates stay, and no table is written."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_mllm_stages import ChatServer, model, serving

from cluster.budget import BudgetReached, Ledger, counted
from cluster.stage import RunContext
from fgvr import storage
from fgvr.config import Config, build
from fgvr.config.run import Budget
from fgvr.errors import UserError
from pipelines import plan
from pipelines.estimate import plan as text
from pipelines.probe import _drawn, probe
from pipelines.probed import read_probed
from pipelines.run_tables import Look
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray


def config(tmp_path: Path, url: str, **more: Any) -> Config:
    """60 plain photos in two splits, and a server."""
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["uri,split"]
    for number in range(60):
        colour = tuple(number * prime % 256 for prime in (37, 91, 53))
        Image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{'test' if number % 6 == 0 else 'train'}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    tree = {
        "ingest": {"source": {"kind": "table", "path": str(folder / "photos.csv")}},
        "mllm": {"kind": "openai", "base_url": url, "model": "m", "max_retries": 0},
        "label": {"images": {"per_class": None}},
        "run": {"folder": str(tmp_path / "runs"), "name": "r"},
    }
    return build(tree | more)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without Ray and MLflow, whose spending is counted."""

    @contextmanager
    def opened(given: Config) -> Iterator[RunContext]:
        folder = storage.join(given.run.folder, given.run.name)
        with counted(folder, given.run.budget):
            yield RunContext(given, folder, NoTracking())

    parts_without_ray(monkeypatch)
    monkeypatch.setattr("pipelines.probe.open_run", opened)


@pytest.mark.slow
def test_photos_are_asked_about_once_and_rates_stay(tmp_path: Path, without_ray: None) -> None:
    with serving(ChatServer(model)) as server:
        planned = config(tmp_path, server.url)
        lines = probe(planned, ("labels", "embeddings"), 8)
        assert len(server.asked) == 8
        folder = str(tmp_path / "runs" / "r")
        rates = read_probed(folder).stages
        assert set(rates) == {"answers", "embeddings"}
        assert (rates["answers"].seconds or 0) > 0
        assert (rates["embeddings"].seconds or 0) > 0
        assert rates["answers"].load is not None
        assert (rates["answers"].load.prompt, rates["answers"].load.output) == (20, 3)
        assert any(line.startswith("probed: answers: 8 photos") for line in lines)
        files, folders = storage.list_entries(folder)
        assert "tables" not in folders  # nor the folder of the probe
        assert "probe" not in folders
        assert "config.yaml" not in files
        # What was paid for counts in the run, whose own questions about these photos are answered from what is kept.
        assert Ledger.read(folder).models["m"].requests == 8
        assert "a probe of 8 photos" in text(planned, ("labels", "embeddings"))
        probe(planned, ("labels",), 8)
        asked_again = len(server.asked) - 8
        assert asked_again <= 3  # answers without words, which nobody keeps
        assert read_probed(folder).stages["answers"].seconds == rates["answers"].seconds


def test_what_a_probe_spends_counts_in_the_budget(tmp_path: Path, without_ray: None) -> None:
    with serving(ChatServer(model)) as server:
        planned = config(tmp_path, server.url)
        probe(planned, ("labels",), 8)
        paid = Ledger.read(str(tmp_path / "runs" / "r")).models["m"]
        assert (paid.requests, len(server.asked)) == (8, 8)
        little = planned.run.model_copy(update={"budget": Budget(tokens=200)})  # of which 8 × 23 are spent
        with pytest.raises(BudgetReached, match="184 tokens of 200 tokens are spent"):
            probe(planned.model_copy(update={"run": little, "label": other_prompt(planned)}), ("labels",), 8)
        assert len(server.asked) == 8


def other_prompt(planned: Config) -> Any:
    return planned.label.model_copy(update={"prompt": "What is it?"})


def test_photos_are_drawn_from_each_split_that_is_learned_from(tmp_path: Path) -> None:
    look = Look.of(config(tmp_path, "http://127.0.0.1:9/v1", aspects={"split": "test"}, makd={"alpha": 0}))
    rows = _drawn(look, 7).to_pylist()
    splits = [row["split"] for row in rows]
    assert (splits.count("train"), splits.count("test")) == (7, 7)
    assert len({row["uri"] for row in rows}) == 14
    assert [row["uri"] for row in _drawn(look, 7).to_pylist()] == [row["uri"] for row in rows]
    assert _drawn(look, 1000).num_rows == 60


def test_photos_that_are_not_drawn_yet_cannot_be_probed(tmp_path: Path) -> None:
    drawn = build({"run": {"folder": str(tmp_path)}})
    with pytest.raises(UserError, match=r"pipelines/ingest\.py"):
        probe(drawn, ("labels",), 8)
    assert not (tmp_path / "demo" / "tables").exists()


@pytest.mark.parametrize("number", ["3", "-1", "few"])
def test_a_number_of_photos_that_is_none_is_refused(
    number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["plan.py", "--probe", number])
    with pytest.raises(SystemExit) as left:
        plan.main()
    assert left.value.code == 2
    assert "--probe" in capsys.readouterr().err
