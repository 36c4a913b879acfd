"""diff on two copies of a kept run, one of which is changed: names, scores, settings, tables, and no run at all."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import diff
from tests.golden.test_kept_runs import DRAWINGS, unpacked

ARCHIVE = "run_finished.tar.gz"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A finished run."""
    return unpacked(ARCHIVE, tmp_path / "first")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """The same run in another folder, with its photos."""
    return unpacked(ARCHIVE, tmp_path / "second")


def rewritten(run: Path, table: str, column: str, old: str, new: str | None) -> int:
    """Change the first half of the values `old` of a table's column; returns their number."""
    (part,) = run.glob(f"tables/{table}/*/part-00000000.parquet")
    rows = pq.read_table(part)
    values = rows[column].to_pylist()
    places = [place for place, value in enumerate(values) if value == old]
    changed = places[: max(1, len(places) // 2)]
    for place in changed:
        values[place] = new
    index = rows.schema.get_field_index(column)
    pq.write_table(
        rows.set_column(index, rows.schema.field(index), pa.array(values, rows.schema.field(index).type)), part
    )
    return len(changed)


def test_a_moved_copy_of_a_run_differs_in_nothing(
    first: Path, second: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff.main([str(first), str(second), "--relative"]) == 0
    assert "No difference was found." in capsys.readouterr().out
    assert diff.main([str(first), str(second)]) == 1  # by their URIs they are other photos
    said = capsys.readouterr().out
    assert "predictions: no photo is in both runs" in said
    assert "--relative matches them" in said


def test_names_that_changed_are_counted(first: Path, second: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (part,) = second.glob("tables/predictions/*/part-00000000.parquet")
    name = pq.read_table(part)["label"].to_pylist()[0]
    moved = rewritten(second, "predictions", "label", name, "Dodo <b>")
    assert diff.main([str(first), str(second), "--relative", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["names"]["predictions"]
    assert (found["photos"], found["changed"]) == (DRAWINGS, moved)
    assert found["moves"] == [{"from": name, "to": "Dodo <b>", "photos": moved}]
    page = second / "diff.html"
    assert diff.main([str(first), str(second), "--relative", "--page", str(page)]) == 1
    assert f"{moved:,} of {DRAWINGS:,} photos changed their name" in page.read_text().replace("\n", " ")
    assert "Dodo &lt;b&gt;" in page.read_text()
    assert "Dodo <b>" not in page.read_text()


def test_scores_are_compared_on_the_photos_of_both(
    first: Path, second: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (part,) = second.glob("tables/report/*/part-00000000.parquet")
    rows = pq.read_table(part)
    before = sum(row["near"] == row["true"] for row in rows.to_pylist())
    pq.write_table(rows.set_column(rows.schema.get_field_index("near"), "near", rows["true"]), part)
    (numbers,) = second.glob("tables/report/*/metrics.json")
    metrics = json.loads(numbers.read_text())
    metrics["methods"]["near"]["top1"] = 100.0
    numbers.write_text(json.dumps(metrics))
    assert diff.main([str(first), str(second), "--relative", "--json"]) == 1
    scores = json.loads(capsys.readouterr().out)["scores"]
    (near,) = [each for each in scores if each["method"] == "near" and each["metric"] == "top1"]
    assert near["paired"]["photos"] == rows.num_rows
    assert near["paired"]["only_second"] == rows.num_rows - before
    assert (near["paired"]["only_first"], near["second"]) == (0, 100.0)
    (others,) = [each for each in scores if each["method"] == "makd" and each["metric"] == "top1"]
    assert (others["paired"]["only_first"], others["paired"]["p"]) == (0, 1.0)


def test_settings_and_tables(first: Path, second: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = second / "config.yaml"
    text = config.read_text()
    assert "  k: " in text
    changed = "\n".join(line.split(":")[0] + ": 99" if line.startswith("  k: ") else line for line in text.split("\n"))
    config.write_text(changed.replace("kind: vllm", "kind: vllm", 1))
    (labels,) = (second / "tables" / "makd").iterdir()
    labels.rename(labels.with_name("0123456789abcdef"))
    assert diff.main([str(first), str(second), "--relative"]) == 1
    said = capsys.readouterr().out
    assert "candidates.k: " in said
    assert "→ 99" in said
    assert "other: makd" in said


def test_no_run_is_a_sentence(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff.main([str(first), str(tmp_path / "nothing")]) == 2
    assert "there is no run in" in capsys.readouterr().err
