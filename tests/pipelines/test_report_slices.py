"""Slices of a run, read from its samples; tables written by hand, without Ray."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.tracking_names import LONGEST_NAME, good_name
from fgvr import schemas
from fgvr.config import ConfigError, build
from fgvr.report.console import results_table
from fgvr.report.page import render
from fgvr.sources.metadata import MetadataError
from pipelines.evaluate import Report
from pipelines.report_slices import TRACKED, check_slices, slice_numbers, slices_of
from pipelines.run_tables import Run
from tests.fgvr.report.sample_report import content
from tests.pipelines.planted_run import run_of, written

SCRIPT = "<script>alert('x')</script>"
SOURCE = {"kind": "table", "path": "photos.csv", "metadata_columns": ["kids", "sender_id"]}


def weak_run(
    folder: Path, classes: bool = True, **evaluate: object
) -> tuple[Run, dict[str, list[str]], list[str | None]]:
    """200 photos of two classes; the method is wrong about three in four photos of kids, and one in ten others."""
    kids = [n % 5 == 0 for n in range(200)]
    metadata = [{"kids": SCRIPT if kid else "no", "sender_id": n % 10} for n, kid in enumerate(kids)]
    true = [None if n == 3 or not classes else ("auk", "booby")[n % 2] for n in range(200)]
    rows = [
        {
            "image_id": n,
            "uri": f"/photos/{'ab'[n > 99]}/{n}.jpg",
            "split": "test",
            "class_id": None if name is None else n % 2,
        }
        | {"class_name": name, "metadata": json.dumps(metadata[n])}
        for n, name in enumerate(true)
    ]
    samples = written(folder, "samples", pa.Table.from_pylist(rows, schema=schemas.SAMPLES), {})
    samples.commit()
    wrong = [(n // 5) % 4 > 0 if kid else n % 9 == 0 for n, kid in enumerate(kids)]
    said = ["wren" if bad else ("auk", "booby")[n % 2] for n, bad in enumerate(wrong)]
    run = run_of(({"samples": samples}, np.zeros(0)), folder, ingest={"source": SOURCE}, evaluate=evaluate)
    return run, {"near": said}, true


def test_from_metadata_to_page_json_and_console(tmp_path: Path) -> None:
    run, names, true = weak_run(tmp_path, slice_by=["kids", "sender_id", ["kids", "class_name"], "folder"])
    found = slices_of(run, np.arange(200), names, true)
    assert found is not None
    assert found.rows[0].flagged
    assert found.rows[0].top1 == min(row.top1 for row in found.flagged)
    # Senders 0 and 5 sent the kids' photos; all of sender 5 are named wrong, and half of sender 0, which is too few.
    assert {row.value[0] for row in found.flagged} == {SCRIPT, "5"}
    kids = next(row for row in found.flagged if row.by == ("kids",))
    assert kids.top1 == pytest.approx(25)
    assert {row.value for row in found.rows if row.by == ("folder",)} == {("a",), ("b",)}
    assert sum(row.images for row in found.rows if row.by == ("folder",)) == 199  # of one photo no class is known
    assert len([row for row in found.rows if row.by == ("sender_id",)]) == 10
    assert not [row for row in found.flagged if row.by == ("folder",)]

    report = content()
    results = replace(report.results, slices=found)
    page = render(replace(report, results=results))
    shown = page.partition('id="slices"')[2].partition("</section>")[0]
    assert SCRIPT not in page
    assert "kids = &lt;script&gt;" in shown
    assert "worse than elsewhere" in shown
    assert shown.count("<tr>") == 1 + min(20, found.tests)
    facts = json.loads(results.to_json())
    assert facts["slices"]["rows"][0]["flagged"]
    assert facts["slices"]["tests"] == found.tests
    assert f"NeaR where {found.rows[0].title}: top-1" in " ".join(results_table(json.dumps(facts)).split())
    without = json.loads(report.results.to_json())
    assert "slices" not in without
    assert 'id="slices"' not in render(report)


class Same:
    """Names are alike where their first letters are."""

    def encode(self, names: list[str]) -> np.ndarray:
        return np.array([np.eye(26)[ord(name[0]) - ord("a")] for name in names], np.float32)


def test_sacc_and_cacc_stand_beside_top1_and_the_worst_go_to_mlflow(tmp_path: Path) -> None:
    run, names, true = weak_run(tmp_path, slice_by=["kids", "sender_id", ["sender_id", "folder"], ["folder", "kids"]])
    found = slices_of(run, np.arange(200), {**names, "base": ["auk"] * 200}, true, Same)
    assert found is not None
    kids = next(row for row in found.rows if row.title == f"kids = {SCRIPT}" and row.method == "near")
    assert (kids.sacc, kids.cacc) == pytest.approx((25, 25))  # auk, booby and wren have nothing in common
    assert kids.cacc_gap == pytest.approx(kids.gap)
    page = render(replace(content(), results=replace(content().results, slices=found)))
    shown = page.partition('id="slices"')[2].partition("</section>")[0]
    assert '<th scope="col" class="number">sACC</th><th scope="col" class="number">cACC</th>' in shown
    assert shown.count(f"<small>{kids.cacc_gap:+.1f}</small>") >= 2

    metrics = slice_numbers(found, "sacc.mini")
    assert found.tests > TRACKED
    assert metrics["slices.tests"] == found.tests
    assert metrics["slices.worse"] == len(found.flagged)
    assert len(metrics) == 2 + 4 * TRACKED
    worst = found.rows[0]
    place = f"{worst.method}.slices.{good_name(worst.title)}"
    assert (metrics[f"{place}.top1"], metrics[f"{place}.gap"]) == (worst.top1, worst.gap)
    assert (metrics[f"{place}.sacc.mini"], metrics[f"{place}.cacc"]) == (worst.sacc, worst.cacc)
    assert all(len(name) <= LONGEST_NAME and good_name(name) == name for name in metrics)
    assert slice_numbers(None, "sacc") == {}
    without = slices_of(run, np.arange(200), names, true)
    assert not [name for name in slice_numbers(without, "sacc.mini") if name.endswith(("sacc.mini", ".cacc"))]


def test_slices_that_follow_from_the_class_are_remarked_on(tmp_path: Path) -> None:
    run, names, _ = weak_run(tmp_path, slice_by=["kids", "sender_id", "class_name", "folder"])
    true: list[str | None] = [f"class {n % 10 + 10 * (n % 20 // 10)}" for n in range(200)]  # two per sender
    found = slices_of(run, np.arange(200), names, true)
    assert found is not None
    remarks = [each for each in found.remarks if "follows from the true class" in each]
    assert [each.split()[0] for each in remarks] == ["kids", "sender_id"]  # photos of a class lie in both folders
    assert "evaluate.slices.group_by = class_name" in remarks[0]
    by_class, _, _ = weak_run(tmp_path / "classes", slice_by=["sender_id"], slices={"group_by": "class_name"})
    grouped = slices_of(by_class, np.arange(200), names, true)
    assert grouped is not None
    assert not grouped.remarks


def test_groups(tmp_path: Path) -> None:
    run, names, true = weak_run(tmp_path, slice_by=["kids", "folder"], slices={"group_by": "sender_id"})
    found = slices_of(run, np.arange(200), names, true)
    assert found is not None
    assert found.group_by == "sender_id"
    # All photos of kids are of two senders: that is no evidence about kids.
    assert {row.value[0]: row.p is None for row in found.rows} == {SCRIPT: True, "no": True, "a": False, "b": False}
    page = render(replace(content(), results=replace(content().results, slices=found)))
    assert "counts groups of sender_id" in page


def test_without_truth_or_slices(tmp_path: Path) -> None:
    run, names, true = weak_run(tmp_path, classes=False, slice_by=["kids"])
    found = slices_of(run, np.arange(200), names, true)
    assert found is not None
    assert found.rows == ()
    assert "no true class of these photos is known" in found.sentence({})
    assert "no true class" in render(replace(content(), results=replace(content().results, slices=found)))
    run, names, true = weak_run(tmp_path / "none")
    assert slices_of(run, np.arange(200), names, true) is None


def test_what_cannot_be_is_told_before_anything_starts() -> None:
    def check(source: dict[str, object] = SOURCE, **evaluate: object) -> None:
        check_slices(build({"ingest": {"source": source}, "evaluate": evaluate}))

    check(slice_by=["kids", ["kids", "folder"], "class_name"], slices={"group_by": "sender_id"})
    check({"kind": "folder", "path": "photos"}, slice_by=["folder", ["class_name", "folder"]])
    with pytest.raises(MetadataError, match=r"evaluate\.slice_by.*kid is not among.*is kids meant"):
        check(slice_by=[["kid", "folder"]])
    with pytest.raises(MetadataError, match="photos of kind folder have no columns"):
        check({"kind": "folder", "path": "photos"}, slice_by=["kids"])
    with pytest.raises(MetadataError, match=r"slices\.group_by.*is sender_id meant"):
        check(slice_by=["kids"], slices={"group_by": "sender"})
    with pytest.raises(ConfigError, match="names one column twice"):
        check(slice_by=[["kids", "kids"]])
    with pytest.raises(ConfigError, match="slice_by names no columns"):
        build({"evaluate": {"slices": {"min_images": 5}}})
    with pytest.raises(MetadataError):
        Report().check(build({"ingest": {"source": SOURCE}, "evaluate": {"slice_by": ["brand"]}}))
