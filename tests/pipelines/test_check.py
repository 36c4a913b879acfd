"""The stages of check on planted photos, without Ray; and what evaluate makes of copies in another split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cluster.stage import RunContext
from fgvr import storage
from fgvr.config import build
from pipelines import check
from pipelines.report_leaks import leaks_of
from pipelines.run_tables import Run
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray


def scene(seed: int) -> Image.Image:
    """A random picture of low and high frequencies."""
    draw = np.random.default_rng(seed)
    smooth = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (400, 300), Image.Resampling.BICUBIC
    )
    noise = draw.integers(-20, 20, (300, 400, 1))
    return Image.fromarray(np.clip(np.asarray(smooth).astype(int) + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photos, train and test, most of them with something wrong."""
    folder = tmp_path / "photos"
    for split, name, image in (
        ("train", "Wren/good.jpg", scene(0)),
        ("train", "Wren/other.jpg", scene(1)),
        ("train", "Wren/dark.jpg", scene(2).point(lambda value: value // 12)),
        ("train", "Wren/blurred.jpg", scene(3).filter(ImageFilter.GaussianBlur(6))),
        ("train", "Wren/tiny.png", scene(4).resize((40, 30))),
        ("train", "Wren/long.jpg", scene(5).resize((900, 90))),
        ("train", "Wren/blank.jpg", Image.new("RGB", (300, 300), (90, 90, 90))),
        ("test", "Gull/smaller.jpg", scene(0).resize((300, 225))),
        ("test", "Gull/alone.jpg", scene(6)),
        ("test", "Gulls/alone.jpg", scene(7)),
    ):
        place = folder / split / name
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place, quality=90)
    (folder / "train/Wren/copy.jpg").write_bytes((folder / "train/Wren/other.jpg").read_bytes())
    (folder / "train/Wren/cut.jpg").write_bytes((folder / "train/Wren/other.jpg").read_bytes()[:900])
    return folder


def run_of(folder: Path, photos: Path, **parts: Any) -> Run:
    source = {"kind": "folder", "path": str(photos), "class_from": "parent", "split_from": "top"}
    values = {"run": {"folder": str(folder)}, "ingest": {"source": source}, "check": {"blurred": 20}, **parts}
    return Run(RunContext(build(values), str(folder), NoTracking()))


def test_planted_issues_are_found_and_good_photos_are_not(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts_without_ray(monkeypatch)
    caplog.set_level("INFO")
    run = run_of(tmp_path, photos)
    table = run.table("findings")
    uris = run.table("samples").read(["uri"])["uri"].to_pylist()
    names = [uri.removeprefix(f"{photos}/") for uri in uris]
    found = [(row["issue"], names[row["image_id"]]) for row in table.read().to_pylist()]
    assert found == [
        ("unreadable", "train/Wren/cut.jpg"),
        ("copy in another split", "test/Gull/smaller.jpg"),
        ("copy in another split", "train/Wren/good.jpg"),
        ("copy with another class", "test/Gull/smaller.jpg"),
        ("copy with another class", "train/Wren/good.jpg"),
        ("exact copy", "train/Wren/other.jpg"),
        ("near copy", "train/Wren/good.jpg"),
        ("nothing to see", "train/Wren/blank.jpg"),
        ("dark", "train/Wren/dark.jpg"),
        ("blurred", "train/Wren/blurred.jpg"),
        ("tiny", "train/Wren/tiny.png"),
        ("odd aspect", "train/Wren/long.jpg"),
    ]
    assert table.extra["names_alike"] == [["Gull", "Gulls"]] or table.extra["names_alike"] == [("Gull", "Gulls")]
    assert list(table.extra["not_learned"]) == ["Gull", "Gulls"]
    assert table.failed == 0
    listed = storage.read_bytes(table.path(check.CSV_FILE)).decode()
    assert f"{photos}/train/Wren/copy.jpg" in listed
    page = storage.read_bytes(table.path(check.PAGE_FILE)).decode()
    assert "copy in another split: 2 photos" in page
    assert page.count("data:image/jpeg") >= 15
    check.show(run)
    assert "12 photos were checked" in caplog.text
    assert "1  pairs of class names alike: Gull / Gulls" in caplog.text


def test_a_finished_check_is_found_and_a_threshold_makes_only_the_findings_anew(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts_without_ray(monkeypatch)
    first, again = run_of(tmp_path, photos), run_of(tmp_path, photos)
    assert again.table("findings").uri == first.table("findings").uri
    other = run_of(tmp_path, photos, check={"dark": 0})
    assert other.table("findings").uri != first.table("findings").uri
    assert other.table("photo_checks").uri == first.table("photo_checks").uri
    assert "dark" not in other.table("findings").read()["issue"].to_pylist()


def test_copies_of_training_photos_are_said_or_not_scored(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts_without_ray(monkeypatch)
    run = run_of(tmp_path, photos, evaluate={"leaks": "report"})
    rows = run.table("samples").read(["image_id", "uri", "split", "class_name"]).to_pylist()
    tested = [row for row in rows if row["split"] == "test"]
    ids = np.array([row["image_id"] for row in tested])
    true = [row["class_name"] for row in tested]
    leaked = [row["uri"].endswith("smaller.jpg") for row in tested]
    assert sum(leaked) == 1
    given = [name if leak else "Dodo" for name, leak in zip(true, leaked, strict=True)]  # right about the copy alone
    said, same = leaks_of(run, ids, {"near": given}, true)
    assert "1 of 3 compared images are copies or near-duplicates" in said
    assert "near 0.0 (all: 33.3)" in said
    assert same == true
    left = run_of(tmp_path, photos, evaluate={"leaks": "leave_out"})
    said, counted = leaks_of(left, ids, {"near": given}, true)
    assert "they are not scored" in said
    assert counted == [None if leak else name for name, leak in zip(true, leaked, strict=True)]
    ignored = run_of(tmp_path, photos)
    assert leaks_of(ignored, ids, {"near": given}, true) == ("", true)
    assert not check.Findings().wanted(ignored.config)
    assert check.Findings().wanted(left.config)
