"""Runs of an earlier version are found finished, and gone on with: see README.md here for what the archives hold."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from fgvr.config import load_config
from fgvr.config.data import ImageLimits
from fgvr.demo.paths import CLIP_PATH
from fgvr.models.student import load_student
from fgvr.tables import MANIFEST, Table
from fgvr.training.examples import Examples
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import train_student
from fgvr.training.student_data import StudentJob
from pipelines.command import PRESETS
from tests.e2e import runs
from tests.golden.keep_run import FINISHED, INTERRUPTED, NAME, STUDENT, arguments
from tests.pipelines.stage_prints import Finding, asking

DRAWINGS, NAMED, COMPARED = 108, 72, 40
"""Images, those of the discovery set, and those that methods are compared on, with the report's own."""
ROWS = {
    **dict.fromkeys(("samples", "embeddings", "predictions"), DRAWINGS),
    **dict.fromkeys(("answers", "labels", "candidates", "views", "near", "aspects", "base", "makd"), NAMED),
    **dict.fromkeys(("prototype_views", "eval_aspects"), NAMED),
    **{f"eval_{name}": COMPARED for name in ("zs_clip", "prototypes", "near", "base", "makd")},
    **dict.fromkeys(("eval_mllm_answers", "eval_mllm", "report"), DRAWINGS - NAMED),
    "questions": 32,
}
FULL = ("near", "questions", "aspects", "base", "makd", "predictions", "report")

HERE = Path(__file__).parent
WEIGHTS = "open_clip_model.safetensors"


def unpacked(archive: str, place: Path) -> Path:
    """The run's folder, elsewhere than where it was made; the images of its samples where they are now."""
    with tarfile.open(HERE / archive) as file:
        file.extractall(place, filter="data")
    run = place / NAME
    for clip in run.glob("tables/near/*/model/clip"):
        shutil.copyfile(CLIP_PATH / WEIGHTS, clip / WEIGHTS)
    for part in run.glob("tables/samples/*/part-*.parquet"):
        rows = pq.read_table(part)
        inside = pc.replace_substring_regex(rows["uri"], pattern=f"^.*/{NAME}/", replacement=f"{run}/")
        column = rows.schema.get_field_index("uri")
        pq.write_table(rows.set_column(column, rows.schema.field(column), inside), part)
    return run


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder → its size and the time it was written."""
    found = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns) for file in found}


def rows_of(run: Path) -> dict[str, tuple[int, int]]:
    """Finished table → its rows and failed rows."""
    manifests = {file.parents[1].name: json.loads(file.read_bytes()) for file in run.glob(f"tables/*/*/{MANIFEST}")}
    return {name: (facts["rows"], facts["failed"]) for name, facts in manifests.items()}


def stages(log: str, what: str) -> set[str]:
    """The tables of which the console says so."""
    return {line.split()[1].rstrip(":") for line in log.splitlines() if what in line and len(line.split()) > 2}


def test_every_table_of_a_kept_run_is_found_under_today_s_fingerprint(tmp_path: Path) -> None:
    run = unpacked("run_finished.tar.gz", tmp_path)
    assert rows_of(run) == {name: (rows, 0) for name, rows in ROWS.items()}
    config = load_config(arguments(tmp_path, FINISHED), PRESETS)
    found = asking(config, run, FULL, Finding)
    assert found.prints.keys() == ROWS.keys()
    assert {table.name: table.read().num_rows for table in found.tables} == ROWS


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_finished_run_is_found_finished_and_not_one_file_of_it_changes(tmp_path: Path) -> None:
    run = unpacked("run_finished.tar.gz", tmp_path)
    before, tables = files(run / "tables"), set(rows_of(run))
    report = {name: (run / "report" / name).read_bytes() for name in ("metrics.json", "report.html")}
    log = runs.run("full", arguments(tmp_path, FINISHED), runs.environment(PYTHONPATH=str(runs.ROOT)))
    assert stages(log, ": done before (") == tables
    assert not stages(log, ": started")
    assert files(run / "tables") == before
    assert {name: (run / "report" / name).read_bytes() for name in report} == report


def interrupted(place: Path) -> tuple[Path, Path]:
    """The run, killed after two of its student's six epochs, two parts of answers lost; and the student's folder."""
    run = unpacked("run_finished.tar.gz", place)
    (answers,) = (run / "tables" / "answers").iterdir()
    for name in (MANIFEST, "part-00000002.parquet", "part-00000004.parquet"):
        (answers / name).unlink()
    for name in STUDENT:
        shutil.rmtree(run / "tables" / name)
    with tarfile.open(HERE / "student_interrupted.tar.gz") as file:
        file.extractall(run / "tables", filter="data")
    (student,) = (run / "tables" / "makd").iterdir()
    return run, student


def epochs_of(folder: Path) -> list[dict[str, float]]:
    """What a training's history says of its epochs; that version wrote null for losses that it did not have."""
    history = json.loads((folder / "history.json").read_bytes())
    return [{name: value for name, value in row.items() if value is not None} for row in history]


def test_a_training_goes_on_from_a_kept_checkpoint(tmp_path: Path) -> None:
    run, student = interrupted(tmp_path)
    (latest,) = student.glob("training/*/latest.json")
    checkpoint = latest.parent / json.loads(latest.read_bytes())["folder"]
    before = epochs_of(checkpoint)
    config = load_config(arguments(tmp_path, INTERRUPTED), PRESETS)
    shutil.copytree(checkpoint, tmp_path / "training" / "checkpoint")
    kept = Examples.read(str(student / "examples"))
    samples = Table.load(str(next((run / "tables" / "samples").iterdir())))
    uris = samples.take(kept.image_ids, ["uri"])["uri"].to_pylist()
    replace(kept, uris=uris).write(str(tmp_path / "examples"))
    spec, _ = load_student(checkpoint / "last")
    job = StudentJob(str(tmp_path / "examples"), spec, config.makd, ImageLimits(), cache=str(tmp_path / "cache"))
    history = train_student(job, LocalReporter(tmp_path / "training"))
    assert [row["epoch"] for row in before] == [1, 2]
    assert history[:2] == before
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_interrupted_run_computes_only_what_is_missing(tmp_path: Path) -> None:
    run, student = interrupted(tmp_path)
    there, finished = files(run / "tables"), rows_of(run)
    (answers,) = (run / "tables" / "answers").iterdir()
    epochs = epochs_of(next(student.glob("training/*/checkpoint_*")))[:1]

    log = runs.run("full", arguments(tmp_path, INTERRUPTED), runs.environment(PYTHONPATH=str(runs.ROOT)))

    missing = {"answers", "makd", "predictions", "eval_makd", "eval_aspects", "report"}
    asked = {"samples", "answers", "labels", "embeddings", "candidates", "near", "views", "questions", "aspects"}
    assert stages(log, ": started") == missing
    assert stages(log, ": done before (") == (asked | {"eval_near"}) - missing
    after = files(run / "tables")
    kept = {name for name in there if not name.startswith("makd/")}  # its training's files go when it is finished
    assert {name: after[name] for name in kept} == {name: there[name] for name in kept}
    assert rows_of(run) == finished | {name: (ROWS[name], 0) for name in missing}
    history = epochs_of(student)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[:1] == epochs  # it went on
    ids = pa.concat_tables(pq.read_table(file) for file in sorted(answers.glob("part-*.parquet")))["image_id"]
    assert ids.to_pylist() == sorted(set(ids.to_pylist()))
    assert len(ids) == NAMED
