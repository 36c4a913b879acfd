"""The stage distill_encoder: on drawn birds under Ray, what decides it, and what it refuses before the start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.stage import RunContext
from fgvr import schemas
from fgvr.clip.source import ClipError
from fgvr.config import Config, ConfigError, TimmVectors, build
from fgvr.encoders.encoder import encode_images, encoder_identity, identity_of_vectors, load_encoder
from fgvr.models.distilled import DistilledError
from fgvr.tables import Table, vectors
from fgvr.vector_files.vector_file import VectorFileError
from pipelines.registry import stage_of
from pipelines.run_tables import Run
from tests.fgvr.training.distilled_photos import teacher
from tests.pipelines.stage_prints import prints_of
from tests.untracked import NoTracking

STUDENT = {"backbone": "test_byobnet", "image_size": 32, "epochs": 2, "batch_size": 16, "workers": {"num_cpus": 1}}


def config_of(folder: Path, distill: dict[str, Any] | None = None, **more: Any) -> Config:
    vectors = {"kind": "timm", "model": str(folder / "teacher")}
    tree = {
        "ingest": {"source": {"kind": "field_guide", "train_per_class": 2, "test_per_class": 1}},
        "embed": {"vectors": vectors, "workers": {"rows_per_part": 50}},
        "distill": STUDENT | (distill or {}),
        "run": {"max_error_share": 0.05},
        **more,
    }
    return build(tree)


def history_of(table: Table) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads(Path(table.path("history.json")).read_text())
    return found


def run_of(folder: Path, config: Config) -> Run:
    return Run(RunContext(config, str(folder / "run"), NoTracking()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ray_session_of_two: None) -> Iterator[tuple[Path, Run, int, int]]:
    """A run whose encoder is made from vectors; one photo had none, and one is gone since. The teacher is 20 wide."""
    folder = tmp_path_factory.mktemp("distil")
    teacher(folder / "teacher", dim=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FGVR_CACHE", str(folder / "cache"))
        run = run_of(folder, config_of(folder))
        rows = [row for row in run.table("samples").read().to_pylist() if row["split"] == "train"]
        damaged, gone = rows[5], rows[9]
        Path(damaged["uri"]).write_bytes(b"\xff\xd8\xff damaged")
        run.table("embeddings")
        kept = Path(gone["uri"]).read_bytes()
        Path(gone["uri"]).unlink()
        run.table("encoder")
        Path(gone["uri"]).write_bytes(kept)
        yield folder, run, damaged["image_id"], gone["image_id"]


@pytest.mark.slow
def test_rows_are_the_images_with_what_became_of_each(trained: tuple[Path, Run, int, int]) -> None:
    _, run, damaged, gone = trained
    table = run.table("encoder")
    rows = table.read()
    assert rows.schema.equals(schemas.ENCODER_TARGETS)
    assert (table.rows, table.failed) == (72, 2)
    errors = {row["image_id"]: row["error"]["reason"] for row in rows.to_pylist() if row["error"]}
    assert errors == {damaged: "no_input", gone: "not_found"}
    assert sum(row["held_out"] is True for row in rows.to_pylist()) in {6, 7}
    extra = {name: table.extra[name] for name in ("images", "held_out", "without_vector", "lost")}
    assert extra == {"images": 70, "held_out": 7, "without_vector": 1, "lost": {}}
    assert table.extra["teacher"] == identity_of_vectors(run.table("embeddings"))
    history = history_of(table)
    assert [row["epoch"] for row in history] == [1, 2]
    assert -1 <= history[1]["held_out_cosine"] <= 1
    assert history[1]["vector_loss"] < history[0]["vector_loss"]


@pytest.mark.slow
def test_embed_takes_the_folder_and_gives_the_vectors_of_the_model(trained: tuple[Path, Run, int, int]) -> None:
    folder, run, _, _ = trained
    model = TimmVectors(model=run.table("encoder").path("model"))
    facts = json.loads(Path(model.model, "model.json").read_text())
    assert (facts["kind"], facts["dim"]) == ("encoder", 20)
    assert facts["teacher"] == encoder_identity(TimmVectors(model=str(folder / "teacher")))
    small = config_of(folder, embed={"vectors": model.model_dump(), "workers": {"rows_per_part": 50}})
    table = run_of(folder, small).table("embeddings")
    assert (table.extra["dim"], identity_of_vectors(table)) == (20, encoder_identity(model))
    rows = table.read()
    good = rows.filter(rows["vector"].is_valid())
    uris = run.table("samples").take(good["image_id"].to_numpy(), ["uri"])["uri"].to_pylist()
    encoder = load_encoder(model)
    expected = encode_images(encoder, [Image.open(uri).convert("RGB") for uri in uris])
    np.testing.assert_allclose(vectors(good["vector"]), expected, atol=2e-3)


@pytest.mark.slow
def test_a_file_of_the_teachers_vectors_is_not_taken_for_a_space_of_another_width(
    trained: tuple[Path, Run, int, int],
) -> None:
    folder, run, _, _ = trained
    rows = run.table("samples").read(["image_id"])["image_id"].to_numpy()
    np.savez(folder / "wide.npz", vectors=np.random.default_rng(0).normal(size=(len(rows), 21)), image_id=rows)
    model = {"kind": "timm", "model": run.table("encoder").path("model")}
    config = config_of(folder, embed={"vectors": {"kind": "file", "path": str(folder / "wide.npz"), "encoder": model}})
    with pytest.raises(VectorFileError, match=r"its vectors have 20 numbers, those of .* 21"):
        run_of(folder, config).table("embeddings")


@pytest.mark.slow
def test_a_network_teaches_without_any_table_of_vectors(trained: tuple[Path, Run, int, int]) -> None:
    folder, _, _, _ = trained
    network = {"kind": "timm", "model": str(folder / "teacher")}
    config = config_of(folder, {"teacher": network, "epochs": 1, "max_images": 40})
    table = run_of(folder, config).table("encoder")
    assert stage_of("encoder").reads(run_of(folder, config)) == ("samples",)
    assert table.rows == 40
    assert history_of(table)[0]["spatial_loss"] > 0
    assert load_encoder(TimmVectors(model=table.path("model"))).dim == 20
    by_clip = config_of(folder, {"teacher": {"kind": "clip"}, "epochs": 1, "max_images": 40}, clip={"model": "demo"})
    found: Table = run_of(folder, by_clip).table("encoder")
    assert "spatial_loss" not in history_of(found)[0]  # as in Proteus
    assert found.extra["teacher"]["kind"] == "clip"


def test_another_teacher_is_another_table_and_a_copy_is_the_same(tmp_path: Path) -> None:
    teacher(tmp_path / "teacher", dim=20)
    teacher(tmp_path / "other", dim=21)
    shutil.copytree(tmp_path / "teacher", tmp_path / "copy")

    def printed(name: str) -> str:
        config = config_of(tmp_path, {"teacher": {"kind": "timm", "model": str(tmp_path / name)}})
        return prints_of(config, tmp_path / "run", ("encoder",))["encoder"]

    assert printed("copy") == printed("teacher") != printed("other")
    # What null stands for is the same as saying it.
    said = {"teacher": {"kind": "timm", "model": str(tmp_path / "teacher")}, "spatial_weight": 1, "min_crop": 0.08}
    assert prints_of(config_of(tmp_path, said), tmp_path / "run", ("encoder",))["encoder"] == printed("teacher")


@pytest.mark.parametrize(
    ("distill", "more", "error", "message"),
    [
        ({"backbone": "mobilenetv3_smal"}, {}, DistilledError, r"distill\.backbone .* timm has no such model; did you"),
        ({"backbone": "test_vit", "image_size": 20, "backbone_args": {"img_size": 30}}, {}, DistilledError, r"20 px"),
        ({"split": "test"}, {}, ConfigError, r"distill\.split = test: .* images of evaluate\.split"),
        ({}, {"embed": {"vectors": {"kind": "simulated"}}}, ConfigError, r"nothing can be learned from made-up"),
        (
            {"teacher": {"kind": "timm", "model": "/no/such"}},
            {},
            ConfigError,
            r"distill\.teacher\.model: .*/no/such",
        ),
        (
            {"teacher": {"kind": "timm", "model": "test_byobnet"}},
            {},
            ConfigError,
            r"distill\.teacher\.weights: test_byobnet without weights is random",
        ),
        ({"teacher": {"kind": "clip"}}, {"clip": {"model": "local-dir:/no/such"}}, ClipError, r"clip\.model"),
    ],
)
def test_what_cannot_work_is_refused_before_the_start(
    tmp_path: Path, distill: dict[str, Any], more: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        stage_of("encoder").check(config_of(tmp_path, distill, **more))


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ({"spatial_weight": 1}, r"spatial_weight = 1: stored vectors have no feature maps"),
        ({"masked_weight": 0.5}, r"masked_weight = 0\.5: stored vectors have no feature maps"),
        ({"image_size": 64, "resize": 48}, r"resize = 48 is smaller than image_size = 64"),
        ({"teacher": {"kind": "file"}}, r"teacher"),
        ({"ema_epochs": 0}, r"ema_epochs"),
    ],
)
def test_a_config_that_contradicts_itself(tmp_path: Path, distill: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, distill)
    assert config_of(tmp_path, {"spatial_weight": 0, "masked_weight": 0}).distill.masked == 0
