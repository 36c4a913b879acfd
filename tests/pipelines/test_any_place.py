"""ingest of a table, a COCO file and a download whose path is anything, here and in a bucket, with MLflow."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

from cluster.outbox import FOLDER
from cluster.stage import RunContext
from cluster.tracked_run import tracked_run
from fgvr import storage
from fgvr.config import build
from fgvr.tables import Table
from pipelines.run_tables import Run

NAMES = [
    "list.csv",
    "list (1).csv",
    "a+b & c's, v2.csv",
    "~[x]{y}=;@!.csv",
    "鳥 米 café.csv",
    "x" * 240 + ".csv",
]


def samples(run_folder: str, source: dict[str, Any], name: str = "birds") -> Table:
    """The samples table of a run that MLflow knows of, and has been told all of."""
    config = build({"run": {"name": name}, "ingest": {"source": source}})
    with tracked_run(config, run_folder) as tracker:
        table = Run(RunContext(config, run_folder, tracker)).table("samples")
        runs = MlflowClient().search_runs([tracker.run.info.experiment_id])
        assert {run.info.run_name: run.info.status for run in runs} == {name: "RUNNING", "samples": "FINISHED"}
        params = next(run.data.params for run in runs if run.info.run_name == "samples")
        folder = source["path"].rpartition("/")[0]  # a table's rows count by their content, not by its name
        assert any(folder[-100:] in value for value in params.values())
    assert not storage.list_files(storage.join(run_folder, FOLDER))
    return table


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_table_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "photos of (me)" / ("deep" * 30)
    folder.mkdir(parents=True)
    (folder / name).write_text("uri\na.jpg\nb.jpg\n")
    table = samples(str(tmp_path / "run's [1]"), {"kind": "table", "path": str(folder / name)})
    assert table.rows == 2


def test_tables_of_any_name_and_a_coco_file_in_a_bucket(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the store of a run in a bucket lies under ./runs
    _cached_get_s3_client.cache_clear()  # of another test's server
    s3.makedirs("birds", exist_ok=True)
    for number, name in enumerate(NAMES):
        place = f"birds/of (2026)/{name}"
        s3.pipe_file(place, b"uri\ns3://birds/a.jpg\ns3://birds/b.jpg\n")
        assert (
            samples(f"s3://birds/runs/{number}", {"kind": "table", "path": f"s3://{place}"}, f"run{number}").rows == 2
        )
        assert [path for path in s3.find(f"birds/runs/{number}/mlartifacts") if path.endswith("/config.yaml")]
    assert len(list((tmp_path / "runs").glob("run*/mlflow.db"))) == len(NAMES)

    facts = {
        "images": [{"id": 4, "file_name": "a.jpg", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 4, "category_id": 2, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}],
        "categories": [{"id": 2, "name": "owl"}],
    }
    for year in ("train2017", "val2017"):
        s3.pipe_file(f"birds/coco (1)/annotations/instances_{year}.json", json.dumps(facts).encode())
        s3.pipe_file(f"birds/coco (1)/{year}/a.jpg", b"x")
    assert samples("s3://birds/runs/coco", {"kind": "coco", "path": "s3://birds/coco (1)"}).rows == 2
