"""Embeddings by other encoders than CLIP: what decides them, who can use them, and who refuses them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from cluster.stage import RunContext
from fgvr.config import Clip, ConfigError, TimmVectors, build
from fgvr.encoders.encoder import encoder_identity, identity_of_vectors
from fgvr.tables import vectors
from pipelines.embed import encoder_at
from pipelines.evaluate import whole_job
from pipelines.registry import stage_of
from pipelines.run_tables import Run
from tests.pipelines.stage_prints import prints_of
from tests.untracked import NoTracking
from tests.without_ray import parts_without_ray


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("timm")
    torch.manual_seed(3)
    save_file(timm.create_model("test_byobnet", num_classes=7).state_dict(), place / "model.safetensors")
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
    torch.save(timm.create_model("test_byobnet").state_dict(), tmp_path / "a.pth")

    def printed(**fields: str) -> str:
        return prints_of(build(tree({"kind": "timm", **fields})), tmp_path / "run", ("embeddings",))["embeddings"]

    first = printed(model=str(encoder))
    assert printed(model=str(copy)) == first
    weights = printed(model="test_byobnet", weights=str(tmp_path / "a.pth"))
    assert weights != first
    torch.save(timm.create_model("test_byobnet").state_dict(), tmp_path / "a.pth")
    assert printed(model="test_byobnet", weights=str(tmp_path / "a.pth")) != weights
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
