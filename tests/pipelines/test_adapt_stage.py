"""The stage adapt: which names a run trusts, what it refuses before the start, and a whole training."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.stage import RunContext
from fgvr import schemas
from fgvr.adapt import training
from fgvr.adapt.rewards import rewards
from fgvr.config import Config, ConfigError, VllmBackend, build
from fgvr.demo.paths import MLLM_PATH
from fgvr.demo.samples import sample
from fgvr.demo.species import SPECIES
from fgvr.mllm.adapter_folder import AdapterError, check_adapter
from fgvr.mllm.backends import backend_identity
from pipelines import adapt
from pipelines.preflight import check_tables
from pipelines.registry import stage_of
from pipelines.run_tables import Run
from tests.fgvr.beliefs.noisy_clusters import planted
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray

SMALL = {"steps": 4, "photos": 2, "answers": 4, "checkpoint_steps": 1, "judge_share": 0.4, "lr": 1e-3}


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)
    monkeypatch.setattr("cluster.once.run_once", lambda work, *arguments, **_: work(*arguments))


def csv_of(place: Path, columns: list[str], rows: Iterable[Iterable[Any]]) -> str:
    with place.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return str(place)


def run_of(folder: Path, tree: dict[str, Any]) -> Run:
    return Run(RunContext(build(tree), str(folder / "run"), NoTracking()))


# Which names are trusted


def planted_tree(folder: Path, **more: Any) -> tuple[dict[str, Any], Any]:
    """Eight kinds of 40 photos, of whose names 20% are planted wrong; photos 0 and 1 have one vector, 2 has none."""
    data = planted(0, classes=8, each=40, wrong=0.2)
    uris = [f"{number:03d}.jpg" for number in range(320)]
    data.vectors[1] = data.vectors[0]
    data.own[0] = data.own[1] = data.truth[0]
    names = ["auk", "bittern", "crane", "dunlin", "eider", "finch", "gull", "heron"]
    listed = csv_of(folder / "photos.csv", ["uri", "place"], [(uri, n // 4) for n, uri in enumerate(uris)])
    there = np.arange(320) != 2
    np.savez(folder / "v.npz", vectors=data.vectors[there], uri=np.array(uris)[there])
    tree = {
        "ingest": {"source": {"kind": "table", "path": listed, "group_column": "place"}},
        "label": {
            "sources": [
                {
                    "kind": "file",
                    "path": csv_of(
                        folder / "said.csv",
                        ["uri", "answer"],
                        [(uri, names[own]) for uri, own in zip(uris, data.own, strict=True)],
                    ),
                }
            ],
            "checked": csv_of(
                folder / "checked.csv",
                ["uri", "right_name"],
                [(folder / uris[n], names[data.truth[n]]) for n in range(0, 320, 20)],
            ),
        },
        "embed": {"vectors": {"kind": "file", "path": str(folder / "v.npz")}},
        "run": {"max_error_share": 0.05},
        **more,
    }
    return tree, data


def test_names_that_the_neighbours_share_are_trusted_and_planted_mistakes_are_not(tmp_path: Path) -> None:
    tree, data = planted_tree(tmp_path)
    run = run_of(tmp_path, tree)
    trusted = adapt._trusted(run)
    why = dict(zip(trusted.ids.tolist(), trusted.why.tolist(), strict=True))
    assert [why[n] for n in range(0, 320, 20)] == ["checked"] * 16
    agreed = np.array([n for n, reason in why.items() if reason == "agreed"])
    assert 1 not in agreed  # another copy of the photo is judged, and they must not vouch for each other
    assert 2 not in agreed
    right = data.own == data.truth
    assert right[agreed].mean() > 0.98 > right.mean() + 0.1
    assert len(agreed) > 0.9 * right.sum() - 16
    assert sum(trusted.counts.values()) == 320
    assert trusted.counts["checked"] == 16
    assert trusted.counts["unjudged"] >= 1
    groups = dict(zip(trusted.ids.tolist(), trusted.groups.tolist(), strict=True))
    assert all(groups[n] == groups[m] for n in groups for m in groups if n // 4 == m // 4)
    assert len(set(groups.values())) == len({n // 4 for n in groups})
    parts = adapt._split(run)
    assert {n // 4 for n in parts.learned.tolist()}.isdisjoint(n // 4 for n in parts.judged.tolist())
    assert len(parts.judged) == pytest.approx(0.3 * len(trusted.ids), abs=8)


def test_only_checked_names_are_trusted_where_that_is_asked_for_and_too_few_are_refused(tmp_path: Path) -> None:
    tree, _ = planted_tree(tmp_path, adapt={"trust": "checked"})
    run = run_of(tmp_path, tree)
    assert list(stage_of("adaptation").reads(run)) == ["samples", "labels"]
    assert set(adapt._trusted(run).why.tolist()) == {"checked"}
    with pytest.raises(AdapterError, match=r"adapt: 1\d trusted photos to learn from and \d to judge.*label\.checked"):
        run.table("adaptation")


def test_where_two_sources_differ_nothing_is_trusted(tmp_path: Path) -> None:
    tree, data = planted_tree(tmp_path)
    other = csv_of(
        tmp_path / "other.csv",
        ["uri", "answer"],
        [(f"{n:03d}.jpg", "auk" if data.truth[n] == 0 or n % 2 else "heron") for n in range(320)],
    )
    tree["label"] |= {"sources": [*tree["label"]["sources"], {"kind": "file", "name": "other", "path": other}]}
    run = run_of(tmp_path, tree)
    assert "votes" in list(stage_of("adaptation").reads(run))
    trusted = adapt._trusted(run)
    agreed = trusted.ids[trusted.why == "agreed"]
    names = {0: "auk", 7: "heron"}
    assert len(agreed) > 20
    for n in agreed.tolist():
        assert names[int(data.own[n])] == ("auk" if data.truth[n] == 0 or n % 2 else "heron")
    assert trusted.counts["disagreed"] > 150


# What is refused before anything starts


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mllm": {"kind": "openai", "model": "gpt"}}, r"mllm\.kind = openai: an adapter changes the weights"),
        ({"mllm": {"adapter": "/a"}}, r"mllm\.adapter: an adapter is trained for the model itself"),
        ({"label": {"listed": 2}}, r"set label\.listed to 1"),
        ({"label": {"answer": "structured"}}, r"label\.answer to free"),
        ({"label": {"images": {"split": "test"}}}, r"label\.images\.split = test: that is evaluate\.split"),
        ({"adapt": {"trust": "checked"}}, r"adapt\.trust = checked: nobody has checked a label"),
    ],
)
def test_a_config_that_cannot_work_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        stage_of("adaptation").check(build(more))


def test_a_missing_extra_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, _ = planted_tree(tmp_path, run={"folder": str(tmp_path / "runs")})
    find = training.importlib.util.find_spec
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(AdapterError, match=r"peft not installed here; pip install 'fgvr\[adapt\]'"):
        check_tables(build(tree), ["adaptation"])


def test_an_adapter_that_is_not_there_cannot_be_served_anyway() -> None:
    with pytest.raises(ConfigError, match=r"adapter_anyway.*there is no adapter"):
        build({"mllm": {"adapter_anyway": True}})


# A whole training


def birds(folder: Path, count: int = 60) -> Config:
    """Drawn birds of all species, whose names a person has checked; photo 3 is damaged."""
    rows, checked = [], []
    for number in range(count):
        one = sample(5, "train", number, difficulty=2.0)
        place = folder / f"{number:02d}.png"
        Image.fromarray(one.image).save(place)
        rows.append((place.name, "train"))
        checked.append((place, SPECIES[one.class_id or 0].name))
    (folder / "03.png").write_bytes(b"\x89PNG damaged")
    listed = csv_of(folder / "photos.csv", ["uri", "split"], rows)
    names = csv_of(folder / "names.csv", ["uri", "answer"], checked)
    return build(
        {
            "ingest": {"source": {"kind": "table", "path": listed}},
            "label": {
                "sources": [{"kind": "file", "path": names}],
                "checked": csv_of(folder / "checked.csv", ["uri", "right_name"], checked),
                "max_tokens": 8,
            },
            "adapt": {"trust": "checked", **SMALL},
            "run": {"max_error_share": 0.05},
        }
    )


@pytest.mark.slow
def test_a_killed_training_goes_on_and_its_adapter_is_judged_on_photos_that_it_never_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = birds(tmp_path)
    seen: list[str] = []

    def killed(answers: list[str], *rest: Any) -> list[float]:
        seen.append("step")
        if len(seen) == 3:
            raise KeyboardInterrupt
        return rewards(answers, *rest)

    monkeypatch.setattr(training, "rewards", killed)
    with pytest.raises(KeyboardInterrupt):
        Run(RunContext(config, str(tmp_path / "run"), NoTracking())).table("adaptation")
    run = Run(RunContext(config, str(tmp_path / "run"), NoTracking()))
    table = run.table("adaptation")
    assert len(seen) == 5  # two steps, the one that was killed, and steps 3 and 4

    rows = table.read()
    assert rows.schema.equals(schemas.ADAPTATION)
    assert (table.rows, table.failed) == (60, 1)
    found = rows.to_pylist()
    assert [row["image_id"] for row in found] == list(range(60))
    assert Counter(row["role"] for row in found) == {"judge": 24, "learn": 36}
    assert {row["why"] for row in found} == {"checked"}
    names = [SPECIES[sample(5, "train", n, difficulty=2.0).class_id or 0].name for n in range(60)]
    assert [row["name"].casefold() for row in found] == [name.casefold() for name in names]
    assert found[3]["error"] is not None
    for row in found:
        judged = row["role"] == "judge" and row["error"] is None
        assert (row["answer_before"] is not None) == (row["right_before"] is not None) == judged
        assert (row["answer_after"] is not None) == (row["right_after"] is not None) == judged

    judges = [row for row in found if row["right_before"] is not None]
    metrics = table.extra["metrics"]
    assert metrics["judged"] == len(judges)
    assert metrics["right_before"] == pytest.approx(np.mean([row["right_before"] for row in judges]))
    assert metrics["gained"] == sum(row["right_after"] and not row["right_before"] for row in judges)
    assert metrics["lost"] == sum(row["right_before"] and not row["right_after"] for row in judges)
    history = json.loads(Path(table.path("history.json")).read_text())
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    assert json.loads(Path(table.path("trust.json")).read_text()) == {"checked": 60}

    folder = table.path("adapter")
    record = json.loads(Path(folder, "adaptation.json").read_text())
    assert record["taken"] == bool(metrics["taken"])
    assert check_adapter(folder, MLLM_PATH, anyway=True) == config.adapt.rank
    served = VllmBackend(adapter=folder, adapter_anyway=True)
    assert backend_identity(served) != backend_identity(VllmBackend())
    if not record["taken"]:
        assert any("mllm.adapter refuses it" in remark for remark in table.extra["remarks"])
        with pytest.raises(AdapterError, match="not better than the model itself"):
            check_adapter(folder, MLLM_PATH)
    assert not Path(table.path("training")).exists()  # checkpoints are gone with the finished table
    again = Run(RunContext(config, str(tmp_path / "run"), NoTracking())).table("adaptation")
    assert (again.uri, len(seen)) == (table.uri, 5)
