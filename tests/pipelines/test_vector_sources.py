"""Embeddings by other encoders than CLIP: what decides them, who can use them, and who refuses them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cluster.stage import RunContext
from fgvr.config import Clip, ConfigError, TimmVectors, as_given, build
from fgvr.encoders.encoder import encoder_identity, identity_of_vectors
from fgvr.encoders.timm_source import TimmError
from fgvr.tables import vectors
from fgvr.vector_files.vector_file import VectorFileError
from pipelines.embed import encoder_at
from pipelines.evaluate import whole_job
from pipelines.registry import stage_of
from pipelines.run_tables import Run
from tests.pipelines.stage_prints import prints_of
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray


def weights(seed: int, **arguments: int) -> dict[str, torch.Tensor]:
    """Random weights of a small timm model."""
    import timm  # behind fgvr, which prepares torchvision beside a CPU torch

    torch.manual_seed(seed)
    state: dict[str, torch.Tensor] = timm.create_model("test_byobnet", **arguments).state_dict()
    return state


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("timm")
    save_file(weights(seed=3, num_classes=7), place / "model.safetensors")
    facts = {"architecture": "test_byobnet", "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (place / "config.json").write_text(json.dumps(facts))
    return place


def tree(vectors: dict[str, Any], **more: Any) -> dict[str, Any]:
    source = {"kind": "field_guide", "train_per_class": 1, "test_per_class": 1}
    embed = {"vectors": vectors, "workers": {"rows_per_part": 50}}
    return {"ingest": {"source": source}, "embed": embed, "mllm": {"kind": "simulated"}, **more}


@pytest.mark.slow
def test_a_run_embeds_with_a_timm_encoder_and_its_neighbours_need_nothing_else(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts_without_ray(monkeypatch)
    config = build(tree({"kind": "timm", "model": str(encoder)}))
    run = Run(RunContext(config, str(tmp_path), NoTracking()))
    table = run.table("embeddings")
    assert (table.failed, table.extra["dim"]) == (0, 256)
    assert identity_of_vectors(table) == encoder_identity(TimmVectors(model=str(encoder)))
    assert encoder_at(config) == TimmVectors(model=str(encoder))
    found = vectors(table.read(["vector"])["vector"]).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)
    sets = run.table("candidates").read().to_pylist()
    assert any(len(row["neighbour_ids"]) == 3 for row in sets)


def test_another_encoder_is_another_table_and_a_copy_is_the_same(tmp_path: Path, encoder: Path) -> None:
    copy = shutil.copytree(encoder, tmp_path / "copy")
    torch.save(weights(seed=4), tmp_path / "a.pth")

    def printed(**fields: str) -> str:
        return prints_of(build(tree({"kind": "timm", **fields})), tmp_path / "run", ("embeddings",))["embeddings"]

    first = printed(model=str(encoder))
    assert printed(model=str(copy)) == first
    named = printed(model="test_byobnet", weights=str(tmp_path / "a.pth"))
    assert named != first
    torch.save(weights(seed=5), tmp_path / "a.pth")
    assert printed(model="test_byobnet", weights=str(tmp_path / "a.pth")) != named
    shutil.rmtree(copy)
    shutil.copytree(encoder, copy)
    (copy / "config.json").write_text((copy / "config.json").read_text().replace("32", "64"))
    assert printed(model=str(copy)) != first


@pytest.mark.parametrize(
    "method", ["zs_clip", "zs_wordnet", "cased", "prototypes", "finer", "findr", "near"], ids=lambda name: name
)
def test_what_needs_a_text_tower_refuses_other_vectors_before_the_start(method: str, encoder: Path) -> None:
    config = build(tree({"kind": "timm", "model": str(encoder)}, evaluate={"methods": [method]}))
    message = rf"^embed\.vectors\.kind = timm: the method {method} .* text tower\. .*take {method} out of evaluate"
    with pytest.raises(ConfigError, match=message):
        stage_of(f"eval_{method}").check(config)


def test_a_whole_job_without_texts_has_no_near_unless_it_is_asked_for(encoder: Path) -> None:
    asked = tree({"kind": "timm", "model": str(encoder)}, evaluate={"methods": ["mllm", "base", "makd"]})
    assert "near" not in whole_job(build(asked))
    assert "near" in whole_job(build(tree({"kind": "timm", "model": str(encoder)})))
    assert "near" in whole_job(build({"evaluate": {"methods": ["mllm"]}}))
    with pytest.raises(ConfigError, match=r"embed\.vectors\.kind = timm: NeaR .* makd\.target"):
        stage_of("near").check(build(asked))


def test_made_up_vectors_have_no_encoder() -> None:
    with pytest.raises(ConfigError, match="no encoder gives vectors of further images"):
        encoder_at(build(tree({"kind": "simulated"})))
    assert encoder_at(build({})) == Clip()


def written(folder: Path, run: Run, *, shuffled: bool = False, name: str = "v.npz") -> str:
    """CLIP's vectors of a run's photos as a file, with URIs relative to where they were drawn."""
    rows = run.table("samples").read(["uri"])["uri"].to_pylist()
    found = vectors(run.table("embeddings").read(["vector"])["vector"])
    order = np.random.default_rng(0).permutation(len(rows))
    relative = np.array([uri.split("/field_guide/")[1] for uri in rows])[order]
    np.savez(folder / name, vectors=found[np.roll(order, 7) if shuffled else order], uri=relative)
    return str(folder / name)


@pytest.mark.slow
def test_a_file_of_vectors_is_the_table_that_was_computed_and_is_checked_with_its_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts_without_ray(monkeypatch)

    def run_with(vectors: dict[str, Any], **more: Any) -> Run:
        return Run(RunContext(build(tree(vectors, **more)), str(tmp_path / "run"), NoTracking()))

    first = run_with({"kind": "clip"})
    path = written(tmp_path, first)
    run = run_with({"kind": "file", "path": path})
    table = run.table("embeddings")
    assert table.read(["image_id", "vector"]).equals(first.table("embeddings").read(["image_id", "vector"]))
    assert identity_of_vectors(table)["kind"] == "file"
    assert run.table("candidates").rows == first.table("candidates").rows
    again = run_with({"kind": "file", "path": path})
    assert again.table("embeddings").uri == table.uri

    known = {"kind": "file", "path": path, "encoder": {"kind": "clip"}}
    checked = run_with(known)
    assert identity_of_vectors(checked.table("embeddings")) == encoder_identity(Clip())
    assert encoder_at(checked.config) == Clip()
    stage_of("near").check(checked.config)
    wrong = {**known, "path": written(tmp_path, first, shuffled=True, name="wrong.npz")}
    with pytest.raises(VectorFileError, match="is of another model, or in another order"):
        run_with(wrong).table("embeddings")


def test_a_file_of_vectors_is_refused_where_it_cannot_serve(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", vectors=np.eye(3), uri=np.array(["a", "b", "c"]))
    given = {"kind": "file", "path": str(tmp_path / "v.npz")}
    with pytest.raises(ConfigError, match=r"embed\.vectors\.kind = file: NeaR .*embed\.vectors\.encoder\.kind"):
        stage_of("near").check(build(tree(given)))
    with pytest.raises(ConfigError, match=r"no encoder gives vectors of further images; name it as embed"):
        encoder_at(build(tree(given)))
    with pytest.raises(VectorFileError, match="there is no such file"):
        stage_of("embeddings").check(build(tree({**given, "path": str(tmp_path / "none.npz")})))
    with pytest.raises(TimmError, match="without weights is random"):
        stage_of("embeddings").check(build(tree({**given, "encoder": {"kind": "timm", "model": "resnet18"}})))
    saved = as_given(build(tree(given)))["embed"]["vectors"]
    assert not {name for name in saved if name.endswith("_column")}


def test_the_content_of_a_file_of_vectors_decides(tmp_path: Path) -> None:
    def printed(name: str, **more: Any) -> str:
        given = {"kind": "file", "path": str(tmp_path / name), **more}
        return prints_of(build(tree(given)), tmp_path / "run", ("embeddings",))["embeddings"]

    np.savez(tmp_path / "a.npz", vectors=np.eye(3), uri=np.array(["a", "b", "c"]))
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.npz")
    first = printed("a.npz")
    assert printed("b.npz") == first
    assert len({first, printed("a.npz", order="samples"), printed("a.npz", encoder={"kind": "clip"})}) == 3
    np.savez(tmp_path / "a.npz", vectors=2 * np.eye(3), uri=np.array(["a", "b", "c"]))
    assert printed("a.npz") != first
