"""The files of predictions, read again with the csv module and pandas."""

import csv
import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from fgvr import schemas, tables
from fgvr.report import take_home
from fgvr.tables import Table

NASTY = 'Wren, "old"\nline\u202e=1+1'
FAILED = {"reason": "corrupt", "detail": "truncated"}


def row(image, label, score, abstained=False, error=None):
    empty = {"label_id": None, "top_labels": None, "top_scores": None, "p_yes": None}
    return {"image_id": image, "label": label, "score": score, "abstained": abstained, "error": error} | empty


def stored(folder, rows, per_part=2, revision=0) -> Table:
    parts = [rows[start : start + per_part] for start in range(0, len(rows), per_part)] or [[]]
    for number, part in enumerate(parts):
        tables.write_part(str(folder), number, pa.Table.from_pylist(part, schemas.PREDICTIONS))
    return Table(str(folder), "predictions", "f", len(rows), 0, len(parts), per_part, 1.0, revision)


class Photos:
    """Samples by dense ids."""

    def take(self, ids, columns=None):
        assert columns == ["uri"]
        return pa.table({"uri": [f"file:///photos/{NASTY if image == 1 else image}.jpg" for image in ids]})


ROWS = [
    row(0, "Tern", 0.9),
    row(1, NASTY, 0.5),
    row(2, "Tern", 0.2, abstained=True),
    row(3, None, None, error=FAILED),
    row(4, "Tern", 0.7),
    row(7, "Gull", float("nan")),
]


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "report")


def test_every_photo_has_its_uri_name_and_reason(tmp_path, folder):
    found = take_home.write(folder, stored(tmp_path / "t", ROWS), Photos())
    with Path(folder, "predictions.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["image_id"] for line in lines] == ["0", "1", "2", "3", "4", "7"]
    assert lines[0] == {
        "image_id": "0",
        "uri": "file:///photos/0.jpg",
        "name": "Tern",
        "score": "0.9",
        "abstained": "false",
        "guess": "Tern",
        "why": "",
    }
    assert (lines[1]["name"], lines[1]["uri"]) == (NASTY, f"file:///photos/{NASTY}.jpg")
    assert (lines[2]["name"], lines[2]["guess"], lines[2]["abstained"]) == ("", "Tern", "true")
    assert (lines[3]["name"], lines[3]["guess"], lines[3]["why"]) == ("", "", "corrupt: truncated")
    frame = pd.read_parquet(f"{folder}/predictions.parquet")
    assert frame["name"].fillna("").tolist() == ["Tern", NASTY, "", "", "Tern", "Gull"]
    assert (found.rows, found.named, found.abstained, found.failed) == (6, 4, 1, 1)


def test_names_are_counted_where_the_model_did_not_abstain(tmp_path, folder):
    take_home.write(folder, stored(tmp_path / "t", ROWS), Photos())
    frame = pd.read_csv(f"{folder}/names.csv")
    assert frame["name"].tolist() == ["Tern", "Gull", NASTY]
    assert frame["photos"].tolist() == [2, 1, 1]
    assert frame["mean_score"][0] == pytest.approx(0.8)
    assert math.isnan(frame["mean_score"][1])  # its only score is not a number


def test_the_lowest_scores_over_all_parts(tmp_path):
    found = take_home.tally(stored(tmp_path / "t", ROWS), unsure=3)
    assert [(each.image_id, each.abstained) for each in found.unsure] == [(2, True), (1, False), (4, False)]
    assert found.files == ("predictions.csv", "predictions.parquet", "names.csv")


def test_above_a_million_rows_there_is_no_csv(tmp_path, folder, monkeypatch):
    few = stored(tmp_path / "few", ROWS)
    take_home.write(folder, few, Photos())
    monkeypatch.setattr(take_home, "MOST_CSV_ROWS", 5)
    found = take_home.write(folder, few, Photos())
    assert "predictions.csv" not in found.files
    assert not (tmp_path / "report/predictions.csv").exists()  # an earlier table's
    assert take_home.is_written(folder, few.version, few.rows)


def test_files_are_written_again_only_for_another_table(tmp_path, folder):
    first = stored(tmp_path / "t", ROWS)
    assert not take_home.is_written(folder, first.version, first.rows)
    take_home.write(folder, first, Photos())
    assert take_home.is_written(folder, first.version, first.rows)
    again = stored(tmp_path / "t", ROWS, revision=1)  # failed rows were retried
    assert not take_home.is_written(folder, again.version, again.rows)
    (tmp_path / "report/names.csv").unlink()
    assert not take_home.is_written(folder, first.version, first.rows)
    (tmp_path / "report/names.csv").write_text("")
    (tmp_path / "report/predictions.parquet").write_bytes(b"mine")
    assert not take_home.is_written(folder, first.version, first.rows)


@pytest.mark.parametrize("rows", [[], [row(0, None, None, error=FAILED)]])
def test_nothing_named(tmp_path, folder, rows):
    found = take_home.write(folder, stored(tmp_path / "t", rows), Photos())
    assert (found.rows, found.named, found.names) == (len(rows), 0, [])
    assert len(pd.read_csv(f"{folder}/predictions.csv")) == len(rows)
