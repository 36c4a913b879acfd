"""Photos that are added to a source: their ids, what is computed for them, and what stays as it is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from cluster.stage import RunContext
from fgvr.config import build
from fgvr.mllm.label_worker import LabelWorker
from fgvr.tables import GROWN, Table
from pipelines.registry import STAGES
from pipelines.run_tables import GROWING, Look, Run
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray

NAMES = ("Auk", "Booby", "Crow", "Dove")


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of the images about which the model is asked, in order."""
    ids: list[int] = []
    process = LabelWorker.process

    def noted(self: LabelWorker, rows: pa.Table) -> pa.Table:
        ids.extend(rows["image_id"].to_pylist())
        return process(self, rows)

    monkeypatch.setattr(LabelWorker, "process", noted)
    return ids


def draw(place: Path, *names: str) -> None:
    for number, name in enumerate(names):
        file = place / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number * 20, 90, len(name))).save(file)


def run_of(place: Path, increment: str = "ignore", **more: Any) -> Run:
    source = {"kind": "folder", "path": str(place / "photos"), "class_from": "parent"}
    tree = {
        "run": {"increment": increment},
        "ingest": {"source": source, "rows_per_part": 2},
        "label": {
            "workers": {"rows_per_part": 2},
            "images": {"per_class": None, "max_images": more.pop("count", None)},
        },
        "mllm": {"kind": "simulated", "names": 5, "request_seconds": 0},
        "embed": {"vectors": {"kind": "simulated", "dim": 8}, "workers": {"rows_per_part": 2}},
        **more,
    }
    return Run(RunContext(build(tree), str(place / "run"), NoTracking()))


def listed(samples: Table) -> list[tuple[int, str, str, int]]:
    rows = samples.read(["image_id", "uri", "class_name", "class_id"]).to_pylist()
    return [(row["image_id"], Path(row["uri"]).name, row["class_name"], row["class_id"]) for row in rows]


def test_added_photos_stand_behind_those_that_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(tmp_path, "gull/b.png", "gull/d.png", "tern/c.png")
    first = run_of(tmp_path).table("samples")
    assert listed(first) == [(0, "b.png", "gull", 0), (1, "d.png", "gull", 0), (2, "c.png", "tern", 1)]
    draw(tmp_path, "auk/a.png", "gull/a.png", "tern/z.png")
    assert run_of(tmp_path).table("samples").uri == first.uri  # not asked for
    with caplog.at_level(logging.INFO):
        grown = run_of(tmp_path, "recompute").table("samples")
    assert listed(grown) == [*listed(first), (3, "a.png", "auk", 2), (4, "a.png", "gull", 0), (5, "z.png", "tern", 1)]
    assert grown.extra["splits"] == {"train": 6}
    assert grown.extra["classes"] == 3
    assert grown.extra[GROWN] == [{"fingerprint": first.fingerprint, "rows": 3}]
    assert "3 photos were added to 3" in caplog.text
    assert [part.num_rows for part in grown.batches()] == [2, 2, 2]
    # From now on it is the run's listing, whether or not it is asked for more.
    assert run_of(tmp_path).table("samples").uri == grown.uri
    assert run_of(tmp_path, "recompute").table("samples").uri == grown.uri
    assert Look(run_of(tmp_path).config, str(tmp_path / "run")).table("samples").uri == grown.uri


def test_photos_that_are_gone_keep_their_rows_and_a_second_addition_follows(tmp_path: Path) -> None:
    draw(tmp_path, "gull/b.png", "gull/d.png")
    first = run_of(tmp_path, "recompute").table("samples")
    draw(tmp_path, "gull/a.png")
    (tmp_path / "photos" / "gull" / "d.png").unlink()
    second = run_of(tmp_path, "recompute").table("samples")
    assert [row[1] for row in listed(second)] == ["b.png", "d.png", "a.png"]
    assert "1 are not listed any more" in second.extra["remarks"][-1]
    draw(tmp_path, "gull/c.png")
    third = run_of(tmp_path, "recompute").table("samples")
    assert [row[1] for row in listed(third)] == ["b.png", "d.png", "a.png", "c.png"]
    assert [each["rows"] for each in third.extra[GROWN]] == [2, 3]
    assert third.extra[GROWN][0]["fingerprint"] == first.fingerprint


def test_only_new_photos_are_asked_about_and_embedded(tmp_path: Path, asked: list[int]) -> None:
    draw(tmp_path, "gull/b.png", "gull/d.png", "tern/c.png")
    run = run_of(tmp_path)
    before, vectors = run.table("answers"), run.table("embeddings")
    asked.clear()
    draw(tmp_path, "gull/a.png", "tern/z.png")
    run = run_of(tmp_path, "recompute")
    after = run.table("answers")
    assert asked == [3, 4]
    assert after.read().slice(0, 3).equals(before.read())
    assert run.table("embeddings").read().slice(0, 3).equals(vectors.read())
    assert run.table("embeddings").rows == 5
    assert run.table("labels").rows == 5
    asked.clear()
    draw(tmp_path, "gull/e.png")
    assert run_of(tmp_path, "recompute").table("answers").rows == 6
    assert asked == [5]


def test_a_sample_of_all_photos_asks_about_the_new_ones_in_it(tmp_path: Path, asked: list[int]) -> None:
    draw(tmp_path, *(f"gull/{n:02d}.png" for n in range(12)))
    first = run_of(tmp_path, count=6).table("answers").read(["image_id"])["image_id"].to_pylist()
    asked.clear()
    draw(tmp_path, *(f"gull/{n:02d}.png" for n in range(12, 24)))
    now = run_of(tmp_path, "recompute", count=6).table("answers").read(["image_id"])["image_id"].to_pylist()
    assert sorted(asked) == sorted(set(now) - set(first))
    assert set(now) & set(first)
    assert any(image >= 12 for image in now)


def test_where_it_is_asked_for_names_stay_and_only_new_photos_get_vectors(
    tmp_path: Path, asked: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path, "gull/b.png", "gull/d.png", "tern/c.png")
    run = run_of(tmp_path)
    labels, vectors = run.table("labels"), run.table("embeddings")
    asked.clear()
    draw(tmp_path, "gull/a.png", "tern/z.png")
    with caplog.at_level(logging.INFO):
        kept = run_of(tmp_path, "keep")
        assert kept.table("labels").uri == labels.uri
    assert "labels: left as it was before photos were added (3 rows)" in caplog.text
    assert kept.table("embeddings").rows == 5
    assert kept.table("embeddings").uri != vectors.uri
    assert asked == []
    draw(tmp_path, "gull/e.png")
    again = run_of(tmp_path, "keep")
    assert again.table("samples").rows == 6
    assert again.table("labels").uri == labels.uri
    look = Look(again.config, str(tmp_path / "run"))
    assert look.table("labels").uri == labels.uri
    assert run_of(tmp_path, "recompute").table("labels").rows == 6


def test_a_table_that_names_more_photos_grows_too(tmp_path: Path) -> None:
    draw(tmp_path, "b.png", "d.png", "a.png")
    table = tmp_path / "photos" / "list.csv"
    source = {"kind": "table", "path": str(table)}
    table.write_text("uri\nb.png\nd.png\n")
    first = run_of(tmp_path, ingest={"source": source, "rows_per_part": 2}).table("samples")
    table.write_text("uri\na.png\nb.png\nd.png\n")
    grown = run_of(tmp_path, "recompute", ingest={"source": source, "rows_per_part": 2}).table("samples")
    assert [row[1] for row in listed(grown)] == ["b.png", "d.png", "a.png"]
    assert grown.extra[GROWN][0]["fingerprint"] == first.fingerprint
    # Not asked for, another table of photos is another listing, as ever.
    anew = run_of(tmp_path, ingest={"source": source, "rows_per_part": 2}).table("samples")
    assert [row[1] for row in listed(anew)] == ["a.png", "b.png", "d.png"]


def test_answers_from_a_file_find_their_photos_though_ids_do_not_follow_the_names(tmp_path: Path) -> None:
    draw(tmp_path, "x/b.png", "x/d.png")
    lines = ["uri,answer", *(f"x/{name[0].lower()}.png,{name}" for name in NAMES)]
    (tmp_path / "answers.csv").write_text("\n".join(lines) + "\n")
    label = {
        "sources": [{"kind": "file", "path": str(tmp_path / "answers.csv")}],
        "workers": {"rows_per_part": 2},
        "images": {"per_class": None},
    }
    run_of(tmp_path, label=label).table("labels")
    draw(tmp_path, "x/a.png", "x/c.png")
    labels = run_of(tmp_path, "recompute", label=label).table("labels").read(["image_id", "label"])
    assert labels["image_id"].to_pylist() == [0, 1, 2, 3]
    assert labels["label"].to_pylist() == ["Booby", "Dove", "Auk", "Crow"]


def test_replaced_photos_begin_anew(tmp_path: Path) -> None:
    draw(tmp_path, "gull/b.png", "gull/d.png")
    run_of(tmp_path, "recompute").table("samples")
    draw(tmp_path, "gull/a.png")
    run_of(tmp_path, "recompute").table("samples")
    Image.new("RGB", (50, 50)).save(tmp_path / "photos" / "gull" / "b.png")
    anew = run_of(tmp_path, "recompute").table("samples")
    assert [row[1] for row in listed(anew)] == ["a.png", "b.png", "d.png"]
    assert GROWN not in anew.extra


def test_what_grows_are_tables_that_there_are_and_all_that_say_something_of_each_prediction() -> None:
    assert STAGES.keys() >= GROWING
    assert {"predictions", "decided", "novel"} <= GROWING
    assert not GROWING & {"answers", "labels", "near", "heads", "base", "makd", "calibration", "drift_reference"}
