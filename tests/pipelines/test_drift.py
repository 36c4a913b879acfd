"""The stages of drift on drawn photos, one of whose kinds no training photo has, without Ray and with prototypes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.stage import RunContext
from fgvr.config import ConfigError, build
from fgvr.demo.samples import sample
from fgvr.demo.species import SPECIES
from fgvr.drift.reference import DriftError
from fgvr.sources.listed import ListedError, listed_ids, read_listed
from pipelines import drift
from pipelines.drift_reference import given_reference
from pipelines.run_tables import Run
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray

UNSEEN = 5
KINDS = 8


def draw(folder: Path, split: str, per_kind: dict[int, int], seed: int = 0) -> None:
    """Drawings of the first species."""
    wanted, index = dict(per_kind), 0
    while any(wanted.values()):
        one = sample(seed, split, index, difficulty=1.0)
        kind, index = one.class_id or 0, index + 1
        if wanted.get(kind):
            wanted[kind] -= 1
            place = folder / split / SPECIES[kind].name / f"{index:05d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(one.jpeg())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training photos without the unseen kind; `same` are like them, `later` have 16 of the unseen kind."""
    folder = tmp_path_factory.mktemp("photos")
    seen = [kind for kind in range(KINDS) if kind != UNSEEN]
    draw(folder, "train", dict.fromkeys(seen, 40))
    draw(folder, "same", dict.fromkeys(seen, 10), seed=1)
    draw(folder, "later", dict.fromkeys(seen, 10) | {UNSEEN: 16}, seed=2)
    with (folder / "answers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("uri", "answer"))
        for place in sorted((folder / "train").rglob("*.jpg")):
            writer.writerow((str(place), place.parent.name))
    return folder


def run_of(folder: Path, photos: Path, split: str | None = "later", **parts: Any) -> Run:
    source = {"kind": "folder", "path": str(photos), "class_from": "parent", "split_from": "top"}
    label = {
        "sources": [{"kind": "file", "name": "given", "path": str(photos / "answers.csv")}],
        "images": {"max_images": 110, **parts.pop("images", {})},
    }
    infer = {"trained": "label_prototypes", "split": split, "drift": {"measure": True, **parts.pop("drift", {})}}
    values = {
        "run": {"folder": str(folder.parent), "name": folder.name},
        "ingest": {"source": source},
        "label": label,
        "infer": infer | parts.pop("infer", {}),
        **parts,
    }
    folder.mkdir(exist_ok=True)
    return Run(RunContext(build(values), str(folder), NoTracking()))


@pytest.mark.slow
def test_an_unseen_kind_is_found_and_becomes_the_next_discovery_set(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts_without_ray(monkeypatch)
    caplog.set_level("INFO")
    run = run_of(tmp_path / "mine", photos)
    rows = run.table("drift").read().to_pylist()
    assert [row["test"] for row in rows] == ["distance", "far", "doubt", "names"]
    assert {row["photos"] for row in rows} == {86}
    assert rows[1]["alarm"]
    assert "more photos than in training are like none" in " ".join(run.table("drift").extra["remarks"])
    samples, novel = run.table("samples").read(), run.table("novel").read()
    assert novel["image_id"].to_pylist() == sorted(novel["image_id"].to_pylist())
    kinds = [samples["class_name"][image].as_py() for image in novel["image_id"].to_pylist()]
    unseen = SPECIES[UNSEEN].name
    assert kinds.count(unseen) >= 13  # of 16: 80%
    drift.show(run)
    assert "label.images.only" in caplog.text
    listed = list(csv.DictReader((tmp_path / "mine/novel/photos.csv").open()))
    assert sorted(float(row["rank"]) for row in listed) == list(range(1, len(listed) + 1))
    again = run_of(tmp_path / "next", photos, images={"split": "later", "only": str(tmp_path / "mine/novel")})
    from pipelines.embed import discovered

    ids = discovered(again)
    assert ids.tolist() == novel["image_id"].to_pylist()


@pytest.mark.slow
def test_more_of_the_same_is_no_alarm_and_another_run_takes_the_reference(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts_without_ray(monkeypatch)
    run = run_of(tmp_path / "mine", photos, split="same")
    table = run.table("drift").read()
    assert not any(table["alarm"].to_pylist())
    scores = run.table("drift_scores").read()
    assert np.mean(scores["fit"].to_numpy() <= 0.1) <= 0.25
    model, place = run.table("label_prototypes").path("model"), str(tmp_path / "mine/drift_reference")
    other = run_of(
        tmp_path / "other", photos, split="same", infer={"model": model, "trained": "makd"}, drift={"reference": place}
    )
    for stage in ("drift_scores", "drift", "novel"):
        other.table(stage)
    assert other.table("drift").read()["test"].to_pylist() == table["test"].to_pylist()
    np.testing.assert_allclose(
        other.table("drift_scores").read()["distance"].to_numpy(), scores["distance"].to_numpy(), atol=1e-6
    )
    assert not Path(tmp_path / "other/tables/drift_reference").exists()
    damaged = Path(place, "reference.npz")
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(DriftError, match="damaged"):
        given_reference(other.config)


def test_parts_follow_the_list(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)
    run = run_of(tmp_path / "mine", photos, drift={"part_images": 30})
    rows = run.table("drift").read().to_pylist()
    assert [row["photos"] for row in rows if row["test"] == "far"] == [30, 30, 26]
    # The list is sorted by folder, and each is a kind: the parts are of few kinds each, which is said.
    assert any(row["alarm"] for row in rows if row["test"] == "names")
    assert all(one["first_id"] > other["last_id"] for one, other in zip(rows[4:], rows[:-4], strict=True))
    assert "part 0 (photos" in " ".join(run.table("drift").extra["remarks"])


@pytest.mark.slow
def test_what_cannot_be_compared_says_what_to_do(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts_without_ray(monkeypatch)

    def check(**parts: Any) -> None:
        drift.Drift().check(run_of(tmp_path / "mine", photos, **parts).config)

    with pytest.raises(ConfigError, match="measure is false"):
        check(drift={"measure": False})
    with pytest.raises(ConfigError, match=r"embed\.splits leaves out later"):
        check(embed={"splits": ["train"]})
    with pytest.raises(ConfigError, match=r"embed\.images = needed"):
        check(embed={"images": "needed"})
    with pytest.raises(ConfigError, match=r"set infer\.drift\.reference"):
        check(infer={"model": str(tmp_path), "trained": "makd"})
    with pytest.raises(ConfigError, match="goes with a given model"):
        check(drift={"reference": "x"})
    with pytest.raises(ConfigError, match=r"there is no .*nowhere"):
        check(infer={"model": str(tmp_path), "trained": "makd"}, drift={"reference": str(tmp_path / "nowhere")})
    with pytest.raises(DriftError, match="photos of the training split were not learned from"):
        run_of(tmp_path / "all", photos, images={"max_images": 275}).table("drift")
    with pytest.raises(DriftError, match=r"set infer\.split to another"):
        run_of(tmp_path / "own", photos, split="train").table("drift")


def test_lists_of_photos(tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    import pyarrow as pa

    samples = [pa.table({"image_id": [3, 5, 7], "uri": ["a", "b", "c"], "split": ["train", "test", "train"]})]
    assert listed_ids(samples, ["c", "a"], "train", "x").tolist() == [3, 7]
    assert not caplog.text
    assert listed_ids(samples, ["c", "b", "gone"], "train", "x").tolist() == [7]
    assert "2 of 3 photos are left out: 1 in test; 1 not among the samples" in caplog.text
    with pytest.raises(ListedError, match=r"other splits \(1 in test\)"):
        listed_ids(samples, ["b"], "train", "x")
    with pytest.raises(ListedError, match="there is no"):
        read_listed(str(tmp_path))
    (tmp_path / "photos.csv").write_text("uri,cluster\n")
    with pytest.raises(ListedError, match="lists no photo"):
        read_listed(str(tmp_path))
    (tmp_path / "photos.csv").write_text("uri,cluster\na,1\nb,2\na,3\n")
    assert read_listed(str(tmp_path)) == ["a", "b"] == read_listed(str(tmp_path / "photos.csv"))
    (tmp_path / "photos.csv").write_text("url\na\n")
    with pytest.raises(ListedError, match="uri"):
        read_listed(str(tmp_path))
