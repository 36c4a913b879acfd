"""What evaluate and infer leave for the user, from tables written by hand: no Ray, no model."""

import csv
from dataclasses import replace

import numpy as np
import pyarrow as pa

from cluster.stage import RunContext
from fgvr import schemas, tables
from fgvr.config import build
from fgvr.report import take_home
from fgvr.report.recommendation import Recommendation
from fgvr.tables import Table
from pipelines.infer import Predictions
from pipelines.take_home import files_line, human_labels, next_steps, seen_by
from tests.given_run import GivenRun
from tests.untracked import NoTracking


class OwnRun(GivenRun):
    """Twelve photos, of which six are labelled, and a student that learned from the last four."""

    def write(self, name, rows, **facts) -> Table:
        table = Table(f"{self.folder}/tables/{name}", name, "f", rows.num_rows, 0, 1, rows.num_rows, 1.0, **facts)
        tables.write_part(table.uri, 0, rows)
        table.commit()
        return table

    def given_samples(self) -> Table:
        rows = [
            {"image_id": n, "uri": f"file:///photos/{n}.jpg", "split": "train" if n else "test", "class_name": None}
            for n in range(12)
        ]
        found = pa.Table.from_pylist(rows, schemas.SAMPLES)
        return self.write("samples", found, extra={"splits": {"train": 11, "test": 1}, "classes": {}})

    def given_labels(self) -> Table:
        rows = [{"image_id": n, "raw": "Wren", "label": "Wren", "label_id": 0} for n in range(6)]
        return self.write("labels", pa.Table.from_pylist(rows, schemas.LABELS))

    def given_makd(self) -> Table:
        rows = [{"image_id": n, "label_id": 0, "held_out": False, "aspects": False} for n in range(8, 12)]
        found = pa.Table.from_pylist(rows, schemas.STUDENT_TARGETS)
        return self.write("makd", found, extra={"class_targets": self.targets})

    targets = "near"


def own_run(folder, **config) -> OwnRun:
    settings = build({"run": {"name": "mine", "folder": str(folder)}, **config})
    return OwnRun(RunContext(settings, f"{folder}/mine", NoTracking()))


def predicted(run) -> Table:
    rows = [
        {"image_id": n, "label": f"Bird {n % 3}", "label_id": 0, "score": n / 12, "abstained": n == 1}
        for n in range(12)
    ]
    return run.write("predictions", pa.Table.from_pylist(rows, schemas.PREDICTIONS))


def test_predictions_lie_beside_the_report_with_uris(tmp_path):
    run = own_run(tmp_path)
    table = predicted(run)
    Predictions().made(run, table)
    place = tmp_path / "mine/report/predictions.csv"
    with place.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["uri"] for line in lines] == [f"file:///photos/{n}.jpg" for n in range(12)]
    assert lines[4]["name"] == "Bird 1"
    assert lines[1]["name"] == ""
    before = place.stat().st_mtime_ns
    Predictions().made(run, table)  # the next session finds the table: nothing is written again
    assert place.stat().st_mtime_ns == before
    Predictions().made(run, replace(table, revision=1))
    assert place.stat().st_mtime_ns > before


def test_files_go_to_an_object_store_too(tmp_path):
    run = own_run(tmp_path)
    run.table("samples")
    table = predicted(run)
    take_home.write("memory://bucket/report", table, run.table("samples"))
    assert take_home.is_written("memory://bucket/report", table.version, table.rows)


def test_who_saw_which_photo(tmp_path):
    ids = np.array([0, 5, 6, 9])
    seen = seen_by(own_run(tmp_path), ["mllm", "zs_clip", "near", "makd"], ids)
    assert set(seen) == {"near", "makd"}
    assert seen["near"].tolist() == [True, True, False, False]
    assert seen["makd"].tolist() == [True, True, False, True]  # NeaR taught it, who learned from the labels
    true = own_run(tmp_path / "true")
    true.targets = "true"
    assert seen_by(true, ["makd"], ids)["makd"].tolist() == [False, False, False, True]


def test_human_labels_are_marked(tmp_path):
    assert human_labels(own_run(tmp_path), ["mllm", "near", "makd"]) == ()
    true = own_run(tmp_path / "true")
    true.targets = "true"
    assert human_labels(true, ["mllm", "near", "makd"]) == ("makd",)
    drawn = own_run(tmp_path / "drawn", label={"images": {"per_class": 2}})
    assert human_labels(drawn, ["mllm", "near", "makd"]) == ("near", "makd")


def test_three_commands_that_can_be_pasted(tmp_path):
    folder = tmp_path / "my runs"
    run = own_run(folder)
    run.table("makd")
    other = next_steps(run, Recommendation("near", "truth", ""))
    quoted = f"'{folder}/mine'"
    assert [line for _, line in other] == [
        f"python pipelines/review.py {quoted}",
        f"python pipelines/infer.py --config '{folder}/mine/config.yaml' --infer.trained near",
        f"python pipelines/full.py --config '{folder}/mine/config.yaml' --label.images.max_images 12 --plan",
    ]
    same = next_steps(run, Recommendation("makd", "truth", ""))
    assert f"--infer.model '{folder}/mine/tables/makd/model'" in same[2][1]
    assert len(same) == 3


def test_the_console_says_where_the_files_are(tmp_path):
    table = predicted(own_run(tmp_path))
    assert files_line("/r", table) == (
        "predictions: 12 photos: /r/predictions.csv, /r/predictions.parquet, /r/names.csv\n"
    )
    assert "none yet" in files_line(str(tmp_path / "none"), None)
