"""Runs of an earlier version are found finished, and gone on with: see README.md here for what the archives hold."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from fgvr.config import load_config
from fgvr.demo.paths import CLIP_PATH
from fgvr.tables import MANIFEST
from pipelines.command import PRESETS
from tests.e2e import runs
from tests.golden.keep_run import FINISHED, NAME, arguments
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
    log = runs.run("full", arguments(tmp_path, FINISHED))
    assert stages(log, ": done before (") == tables
    assert not stages(log, ": started")
    assert files(run / "tables") == before
    assert {name: (run / "report" / name).read_bytes() for name in report} == report


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_of_which_much_is_missing_computes_only_that(tmp_path: Path) -> None:
    run = unpacked("run_finished.tar.gz", tmp_path)
    whole = rows_of(run)
    (answers,) = (run / "tables" / "answers").iterdir()
    for name in (MANIFEST, "part-00000002.parquet", "part-00000004.parquet"):
        (answers / name).unlink()
    missing = {"makd", "predictions", "eval_makd", "eval_aspects", "report"}
    for name in missing:
        shutil.rmtree(run / "tables" / name)
    before = files(run / "tables")

    log = runs.run("full", arguments(tmp_path, FINISHED))

    assert stages(log, ": done before (") == whole.keys() - missing - {"answers"}
    assert stages(log, ": started") == missing | {"answers"}
    after = files(run / "tables")
    assert {name: after[name] for name in before} == before  # not one part that was there was written again
    assert rows_of(run) == whole
    ids = pa.concat_tables(pq.read_table(file) for file in sorted(answers.glob("part-*.parquet")))["image_id"]
    assert ids.to_pylist() == sorted(set(ids.to_pylist()))
    assert len(ids) == whole["answers"][0]
