"""The stage compare: what it refuses before anything starts, and whole comparisons of tiny networks under Ray."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from cluster.stage import RunContext
from fgvr import schemas
from fgvr.config import Config, ConfigError, build
from fgvr.models.student import StudentError
from fgvr.sources.metadata import MetadataError
from fgvr.tables import Table
from pipelines import compare
from pipelines.compare import ComparedStudent, backbone_of, comparison_page, held_back, photos_tested
from pipelines.registry import compared_tables, stage_of
from pipelines.run_tables import Run
from tests.untracked import NoTracking

COLOURS = {"Red": (220, 30, 30), "Green": (30, 200, 30), "Blue": (30, 30, 220), "Grey": (120, 120, 120)}
MAKD = {
    "target": "true",
    "images": "all",
    "image_size": 32,
    "epochs": 2,
    "batch_size": 8,
    "validation_share": 0,
    "min_crop": 0.5,
    "workers": {"num_cpus": 1},
}


def photos_in(folder: Path, classes: tuple[str, ...] = tuple(COLOURS), tested_classes: tuple[str, ...] = ()) -> Path:
    """Noisy plain photos: six of each class to learn from and four to test on; two of each ten are of shop B."""
    draw = np.random.default_rng(0)
    rows = []
    for name in classes:
        for number in range(10):
            noise = draw.integers(-25, 25, (40, 40, 3))
            pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
            place = folder / f"{name}{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place)
            split = "train" if number < 6 else "test"
            if split == "train" or not tested_classes or name in tested_classes:
                shop = "" if number == 2 else "B" if number % 5 == 0 else "A"
                rows.append({"uri": str(place), "split": split, "class_name": name, "shop": shop})
    with (folder / "photos.csv").open("w", newline="") as listed:
        writer = csv.DictWriter(listed, ["uri", "split", "class_name", "shop"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "photos.csv"


def config_of(file: Path, compared: dict[str, Any], **makd: Any) -> Config:
    tree = {
        "ingest": {"source": {"kind": "table", "path": str(file), "metadata_columns": ["shop"]}},
        "makd": {**MAKD, **makd},
        "compare": compared,
        "evaluate": {"bootstrap": 100},
    }
    return build(tree)


def run_of(folder: Path, config: Config) -> Run:
    return Run(RunContext(config, str(folder / "run"), NoTracking()))


def values_of(table: Table, model: str, seed: int, source: str) -> dict[str, Any]:
    rows = table.read().to_pylist()
    return {
        row["metric"]: row["value"]
        for row in rows
        if (row["model"], row["seed"], row["source"]) == (model, seed, source)
    }


# Before anything starts


def test_names_of_tables_say_backbone_and_seed() -> None:
    config = build(
        {"compare": {"models": ["resnet18.a1_in1k", "vit_tiny_patch16_224", "resnet18.a1_in1k"], "seeds": 2}}
    )
    names = compared_tables(config)
    assert len(names) == 4  # a backbone that is named twice is trained once
    assert [backbone_of(name) for name in names] == [
        *(("resnet18.a1_in1k", seed) for seed in (0, 1)),
        *(("vit_tiny_patch16_224", seed) for seed in (0, 1)),
    ]
    assert stage_of(names[0]).table == "compared_resnet18.a1_in1k_0"


def test_the_recipe_is_that_of_makd_with_this_backbone_and_seed() -> None:
    makd = {"weights": "demo", "freeze_epochs": 1, "layer_decay": 0.7, "seed": 5, "epochs": 7, "backbone": "resnet34"}
    config = build({"makd": makd, "compare": {"models": ["resnet18", "convit_tiny"], "weights": {"resnet18": "demo"}}})
    with_weights = ComparedStudent("resnet18_2").settings(config)
    assert (with_weights.backbone, with_weights.seed, with_weights.epochs) == ("resnet18", 7, 7)
    assert (with_weights.weights, with_weights.freeze_epochs, with_weights.layer_decay) == ("demo", 1, 0.7)
    assert with_weights.alpha == 0
    at_random = ComparedStudent("convit_tiny_0").settings(config)  # a frozen random network would learn nothing
    assert (at_random.weights, at_random.freeze_epochs, at_random.layer_decay) == (None, 0, 1)


@pytest.mark.parametrize(
    ("compared", "error", "words"),
    [
        ({"models": ["resnet81"]}, StudentError, r"compare\.models 'resnet81'.*did you mean .*resnet18"),
        ({"models": []}, ConfigError, r"compare\.models is empty"),
        ({"models": ["resnet18"], "weights": {"resnet34": "demo"}}, ConfigError, "names resnet34, which is not"),
        ({"test_column": "shops", "test_values": ["B"]}, MetadataError, r"compare\.test_column: shops.*is shop meant"),
    ],
)
def test_what_the_config_shows(compared: dict[str, Any], error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        compare.check_comparison(config_of(tmp_path / "photos.csv", compared))


@pytest.mark.parametrize("half", [{"test_column": "shop"}, {"test_values": ["B"]}])
def test_half_a_test_across_sources_is_refused(half: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"compare.*test_(column|values)"):
        build({"compare": half})


def test_photos_of_other_sources_are_a_test_of_their_own(tmp_path: Path) -> None:
    file = photos_in(tmp_path / "photos")
    run = run_of(tmp_path, config_of(file, {"test_column": "shop", "test_values": ["B"]}))
    own, others = photos_tested(run)
    assert (own.source, others.source) == ("test", "shop = B")
    places = [f"{name}{number}" for name in COLOURS for number in (6, 7, 8, 9)]
    assert sorted(Path(uri).stem for uri in own.uris) == sorted(places)
    assert sorted(Path(uri).stem for uri in others.uris) == sorted(f"{n}{i}" for n in COLOURS for i in (0, 5))
    task = ComparedStudent("resnet18_0")._task(run)
    assert task.rows.num_rows == 16  # 24 without two of each class
    assert not set(task.rows["image_id"].to_pylist()) & set(held_back(run).tolist())
    assert task.decides["images"] != ComparedStudent("resnet18_0")._task(run_of(tmp_path, config_of(file, {}))).decides


def test_a_value_that_no_photo_has_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    file = photos_in(tmp_path / "photos")
    run = run_of(tmp_path, config_of(file, {"test_column": "shop", "test_values": ["B", "C"]}))
    run.table("samples")
    with pytest.raises(ConfigError, match=r"no photo has shop = 'C'; there are: (A, B|B, A)"):
        stage_of("comparison").recheck(run.looking())


def test_a_test_across_all_sources_leaves_nothing_to_learn(tmp_path: Path) -> None:
    rows = list(csv.DictReader(photos_in(tmp_path / "photos").open()))
    with (tmp_path / "all.csv").open("w", newline="") as listed:
        writer = csv.DictWriter(listed, ["uri", "split", "class_name", "shop"])
        writer.writeheader()
        writer.writerows({**row, "shop": "B"} for row in rows)
    run = run_of(tmp_path, config_of(tmp_path / "all.csv", {"test_column": "shop", "test_values": ["B"]}))
    with pytest.raises(ConfigError, match="every photo that students would learn from"):
        ComparedStudent("resnet18_0")._task(run)


def test_a_split_without_known_classes_cannot_compare(tmp_path: Path) -> None:
    file = photos_in(tmp_path / "photos")
    file.write_text(file.read_text().replace("test,Red", "test,").replace("test,Green", "test,"))
    file.write_text(file.read_text().replace("test,Blue", "test,").replace("test,Grey", "test,"))
    with pytest.raises(ConfigError, match="there is no photo of known class in test"):
        photos_tested(run_of(tmp_path, config_of(file, {})))


# Under Ray


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, ray_session_of_two: None) -> Iterator[tuple[Path, Run, Path]]:
    """A comparison of two seeds: a network, and one whose position embedding fits no 32 pixels."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FGVR_CACHE", str(folder / "cache"))
        file = photos_in(folder / "photos")
        compared = {"models": ["test_byobnet", "crossvit_tiny_240"], "seeds": 2}
        run = run_of(folder, config_of(file, {**compared, "test_column": "shop", "test_values": ["B"]}))
        run.table("comparison")
        yield folder, run, file


@pytest.mark.slow
def test_the_rows_of_a_comparison(whole: tuple[Path, Run, Path]) -> None:
    _, run, _ = whole
    table = run.table("comparison")
    assert table.read().schema.equals(schemas.COMPARISON)
    for source, photos in (("test", 16), ("shop = B", 8)):
        values = values_of(table, "test_byobnet", 1, source)
        assert set(values) == {"top1", "top5", "macro_f1", "silhouette", "photos"}
        assert values["photos"] == photos
        assert values["top5"] == 100  # of four names
        assert 0 <= values["top1"] <= 100
        assert -1 <= values["silhouette"] <= 1
    costs = values_of(table, "test_byobnet", 0, "")
    assert costs["parameters"] == pytest.approx(2.1e5, rel=0.1)
    assert all(costs[name] > 0 for name in ("macs", "ms_batch1", "ms_batch64", "memory_mib", "train_ms"))
    assert all(costs[f"gradient_{name}"] > 0 for name in ("early", "middle", "late"))
    assert "macs" not in values_of(table, "test_byobnet", 1, "")  # costs are those of the architecture
    rows = table.read().filter(pc.equal(table.read()["metric"], "top5")).to_pylist()
    assert rows[0]["note"] == "top-4: the student knows 4 names"


@pytest.mark.slow
def test_a_backbone_that_does_not_fit_is_a_row_with_its_reason(whole: tuple[Path, Run, Path]) -> None:
    _, run, _ = whole
    rows = [row for row in run.table("comparison").read().to_pylist() if row["model"] == "crossvit_tiny_240"]
    assert {(row["seed"], row["source"], row["metric"], row["value"]) for row in rows} == {
        (seed, source, "top1", None) for seed in (0, 1) for source in ("test", "shop = B")
    }
    assert "cannot be built for 32 px" in rows[0]["note"]
    page = comparison_page(run, run.table("comparison"))
    assert page.choice is not None
    assert page.choice.model == "test_byobnet"
    assert "2 of 2 trainings failed" in page.lines[1].failed[0]
    assert any("crossvit_tiny_240 is not recommended" in remark for remark in page.remarks)
    html = Path(run.folder, "report", "comparison.html").read_text()
    assert "cannot be built for 32 px" in html
    assert "<script" not in html


@pytest.mark.slow
def test_nobody_learned_from_the_other_source(whole: tuple[Path, Run, Path]) -> None:
    _, run, _ = whole
    learned = run.table("compared_test_byobnet_0").read()["image_id"].to_pylist()
    assert len(learned) == 16
    assert not set(learned) & set(held_back(run).tolist())


@pytest.mark.slow
def test_a_budget_changes_the_recommendation_and_measures_nothing_again(whole: tuple[Path, Run, Path]) -> None:
    folder, run, file = whole
    other = {**run.config.compare.model_dump(), "max_params": 100}
    dear = run_of(folder, config_of(file, other))
    assert dear.table("comparison").uri == run.table("comparison").uri
    choice = comparison_page(dear, dear.table("comparison")).choice
    assert choice is not None
    assert choice.model is None
    assert "No backbone is within the budget (at most 0.0001 M weights)" in choice.words
    assert choice.words.split(".")[0] in Path(run.folder, "report", "comparison.html").read_text()
    run.table("comparison")


@pytest.mark.slow
def test_a_further_backbone_trains_alone_and_the_same_seed_gives_the_same_rows(
    whole: tuple[Path, Run, Path], tmp_path: Path
) -> None:
    folder, run, file = whole
    compared = {**run.config.compare.model_dump(), "models": ["test_vit2", "test_byobnet"]}
    wider = run_of(folder, config_of(file, compared))
    for name in ("compared_test_byobnet_0", "compared_test_byobnet_1"):
        assert wider.table(name).uri == run.table(name).uri
    both = wider.table("comparison")
    assert values_of(both, "test_vit2", 0, "test")["top1"] is not None
    again = run_of(tmp_path, config_of(file, {**compared, "models": ["test_byobnet"], "seeds": 1}))
    for source in ("test", "shop = B"):
        first = values_of(run.table("comparison"), "test_byobnet", 0, source)
        assert values_of(both, "test_byobnet", 0, source) == first
        assert values_of(again.table("comparison"), "test_byobnet", 0, source) == first


@pytest.mark.slow
def test_what_was_measured_before_an_interruption_is_kept(
    whole: tuple[Path, Run, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, run, _ = whole
    table = run.table("comparison")
    before = table.read()
    (Path(table.uri) / "manifest.json").unlink()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("cluster.once.run_once", never)
    assert run_of(folder, run.config).table("comparison").read().equals(before)


@pytest.mark.slow
def test_a_training_that_diverges_is_a_row_and_a_single_tested_class_has_no_silhouette(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session_of_two: None
) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path / "cache"))
    file = photos_in(tmp_path / "photos", tested_classes=("Red",))
    run = run_of(tmp_path, config_of(file, {"models": ["test_byobnet"], "seeds": 1}))
    table = run.table("comparison")
    values = values_of(table, "test_byobnet", 0, "test")
    assert values["silhouette"] is None
    assert values["macro_f1"] is not None
    assert any("all of one class" in said for said in comparison_page(run, table).remarks)
    astray = run_of(tmp_path, config_of(file, {"models": ["test_byobnet"], "seeds": 1}, lr=1e30))
    with pytest.raises(Exception, match="no backbone could be trained: the loss is not finite"):
        astray.table("comparison")
    assert "not finite" in astray.table("compared_test_byobnet_0").extra["training_failed"]
