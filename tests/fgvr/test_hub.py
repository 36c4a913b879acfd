"""Names on the hub count by their commit, from a hub cache as `huggingface_hub` lays it."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from fgvr import hub
from fgvr.augment.generators import load_generator, pinned_generator
from fgvr.augment.pictures import Asked
from fgvr.augment.pipeline_source import GeneratorError, find_pipeline
from fgvr.clip.model import load_clip
from fgvr.clip.source import ClipError, find_clip, pinned
from fgvr.config.augment import DiffusionModel
from fgvr.config.models import Clip, VllmBackend
from fgvr.demo.paths import CLIP_PATH
from fgvr.metrics.semantic import SentenceModelError, look_up
from fgvr.mllm.backends import backend_identity, exactly
from fgvr.mllm.vllm_engine import model_files
from tests.fgvr.augment import tiny_pipelines

OLD, NEW = "a" * 40, "b" * 40
Publish = Callable[[str, dict[str, bytes], str], None]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Put a commit of a model into the cache, as the newest."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def add(name: str, files: dict[str, bytes], commit: str) -> None:
        repo = tmp_path / f"models--{name.replace('/', '--')}"
        for file, data in files.items():
            place = repo / "snapshots" / commit / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(commit)

    return add


def clip_files() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in CLIP_PATH.iterdir() if file.is_file()}


def test_a_name_is_the_commit_that_it_means_now(publish: Publish) -> None:
    publish("owner/clip", clip_files(), OLD)
    publish("owner/bert", {"modules.json": b"[]"}, OLD)
    publish("owner/mllm", {"config.json": b"{}"}, OLD)
    clip, mllm = Clip(model="hf-hub:owner/clip"), VllmBackend(model="owner/mllm")

    def identities() -> list[Any]:
        return [find_clip(clip).identity(), look_up("owner/bert").identity(), model_files.identity(mllm)]

    before = identities()
    assert [facts["commit"] for facts in before] == [OLD] * 3
    held = [pinned(clip), look_up("owner/bert").exactly, exactly(mllm)]
    for name, file in (("clip", "open_clip_config.json"), ("bert", "modules.json"), ("mllm", "config.json")):
        publish(f"owner/{name}", {file: b'{"model_cfg": {}}'}, NEW)
    assert [facts["commit"] for facts in identities()] == [NEW] * 3
    # Workers that come later are asked for what the fingerprint names.
    assert find_clip(held[0]).identity() == before[0]
    assert look_up(held[1]).identity() == before[1]
    assert model_files.identity(held[2]) == before[2]
    # A revision is another spelling of its commit.
    assert find_clip(clip.model_copy(update={"revision": OLD})).identity() == before[0]
    assert look_up(f"owner/bert@{OLD}").identity() == before[1]


def test_models_that_engine_arguments_name_count_by_their_commit(publish: Publish) -> None:
    files = {
        "mllm": "config.json",
        "tok": "tokenizer_config.json",
        "draft": "config.json",
        "lora": "adapter_config.json",
    }
    for name, file in files.items():
        publish(f"owner/{name}", {file: b"{}"}, OLD)
    given = {
        "tokenizer": "owner/tok",
        "speculative_config": {"model": "owner/draft", "num_speculative_tokens": 2},
        "default_mm_loras": {"image": "owner/lora"},
        "spec_model": "owner/unknown",
    }
    mllm = VllmBackend(model="owner/mllm", engine_args=given)
    before = backend_identity(mllm)["engine_args"]
    assert before == {
        "tokenizer": {"name": "owner/tok", "commit": OLD},
        "speculative_config": {"model": {"name": "owner/draft", "commit": OLD}, "num_speculative_tokens": 2},
        "default_mm_loras": {"image": {"name": "owner/lora", "commit": OLD}},
        "spec_model": "owner/unknown",  # nothing says which commit
    }
    held = exactly(mllm)
    assert held.engine_args["tokenizer_revision"] == OLD
    assert held.engine_args["speculative_config"]["revision"] == OLD
    for name in ("tok", "draft"):
        publish(f"owner/{name}", {files[name]: b"{}"}, NEW)
    after = backend_identity(mllm)["engine_args"]
    assert (after["tokenizer"]["commit"], after["speculative_config"]["model"]["commit"]) == (NEW, NEW)
    assert backend_identity(held)["engine_args"] == before  # what workers load


def test_within_a_session_a_name_stays_what_it_was_when_first_looked_up(publish: Publish) -> None:
    files = {"config.json": b"{}", "generation_config.json": b"{}"}
    publish("owner/mllm", files, OLD)
    with hub.names_kept():
        assert hub.commit_of("owner/mllm", "config.json") == OLD
        publish("owner/mllm", files, NEW)
        with hub.names_kept():  # a run inside of its command's checks
            assert hub.commit_of("owner/mllm", "config.json") == OLD
            assert (
                hub.file_of("owner/mllm", "generation_config.json").parent.name == OLD
            )  # another file, no other model
        assert hub.commit_of("owner/mllm", "config.json", "main") == NEW  # asked for otherwise
        assert exactly(VllmBackend(model="owner/mllm")).revision == OLD
        with pytest.raises(hub.HubError):
            hub.commit_of("owner/late", "config.json")
        publish("owner/late", files, NEW)  # what was not there may come
        assert hub.commit_of("owner/late", "config.json") == NEW
    assert hub.commit_of("owner/mllm", "config.json") == NEW


def test_stages_and_sweeps_take_the_pinned_clip_alone() -> None:
    root = Path(__file__).parents[2]
    unpinned = [
        f"{file.name}: {line.strip()}"
        for file in [*root.glob("pipelines/**/*.py"), *root.glob("tune/*.py")]
        for line in file.read_text().splitlines()
        if "load_clip(" in line and "import" not in line and "config.clip" in line
    ]
    assert unpinned == []


def test_a_hub_clip_is_loaded_from_the_files_of_its_commit(publish: Publish) -> None:
    publish("owner/clip", clip_files(), OLD)
    publish("owner/clip", {"open_clip_config.json": b'{"model_cfg": {"embed_dim": 3}}'}, NEW)
    image = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    there = load_clip(Clip(model="hf-hub:owner/clip", revision=OLD))
    assert there.source.commit == OLD
    np.testing.assert_array_equal(
        there.encode_images([image]), load_clip(Clip(model=str(CLIP_PATH))).encode_images([image])
    )
    with pytest.raises(ClipError, match="weights"):
        load_clip(Clip(model="hf-hub:owner/clip"))


def test_a_hub_pipeline_is_loaded_from_the_files_of_its_commit(publish: Publish, tmp_path: Path) -> None:
    folder = tiny_pipelines.sd15(tmp_path / "made" / "sd15")
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    beside = {name.removeprefix("controlnet/"): data for name, data in files.items() if name.startswith("controlnet/")}
    bare = {name: data for name, data in files.items() if not name.startswith("controlnet/")}
    publish("owner/pipeline", bare, OLD)
    publish("owner/canny", beside, OLD)
    publish("owner/canny", {"config.json": b"{}"}, NEW)
    named = DiffusionModel(model="hf-hub:owner/pipeline", controlnet="hf-hub:owner/canny", size=64, steps=1)
    held = pinned_generator(named)
    assert (held.revision, held.controlnet_revision) == (OLD, NEW)  # type: ignore[union-attr]
    with pytest.raises(GeneratorError, match="no ControlNetModel"):
        find_pipeline(named).in_files()
    old = named.model_copy(update={"controlnet_revision": OLD})
    assert find_pipeline(old).identity() == {
        "model": {"name": "hf-hub:owner/pipeline", "commit": OLD},
        "controlnet": {"name": "hf-hub:owner/canny", "commit": OLD},
    }
    photo = Image.new("RGB", (64, 64))
    assert load_generator(old).make([Asked(photo, photo, "gull", "a gull", 1)])[0].pixels is not None
    with pytest.raises(GeneratorError, match=r"generator\.controlnet: .*did not give hf-hub:owner/none"):
        find_pipeline(named.model_copy(update={"controlnet": "hf-hub:owner/none"}))


def test_what_the_hub_does_not_give_is_named_by_its_field(publish: Publish) -> None:
    publish("owner/clip", {"open_clip_config.json": json.dumps({}).encode()}, OLD)
    with pytest.raises(ClipError, match=r"clip\.model: .*hf-hub:owner/none.*HF_HUB_OFFLINE is set"):
        find_clip(Clip(model="hf-hub:owner/none"))
    with pytest.raises(ClipError, match=r"owner/clip at v9 \(clip\.revision\)"):
        find_clip(Clip(model="hf-hub:owner/clip", revision="v9"))
    with pytest.raises(ClipError, match=r"clip\.model: "):
        find_clip(Clip(model="hf-hub:no name"))
    with pytest.raises(model_files.ModelError, match=r"owner/none at v9 \(mllm\.revision\)"):
        model_files.identity(VllmBackend(model="owner/none", revision="v9"))
    with pytest.raises(SentenceModelError, match=r"evaluate\.sentence_model = owner/none: not in the hub's cache"):
        look_up("owner/none")
    with pytest.raises(SentenceModelError, match="s3: "):
        look_up("a b c", "s3: ")
    with pytest.raises(hub.HubError):
        hub.commit_of("owner/none", "config.json")


def test_without_a_network_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name that cannot be looked up is no reason for minutes of retries; a proxy looks names up itself."""
    tried: list[bool] = []

    def download(name: str, file: str, *, local_files_only: bool, **_: object) -> str:
        tried.append(local_files_only)
        raise LocalEntryNotFoundError("not there")

    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    hub._has_no_address.cache_clear()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(hub.HubError, match=r"no network here.*name its folder"):
        hub.file_of("owner/model", "config.json")
    hub._has_no_address.cache_clear()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    with pytest.raises(hub.HubError):
        hub.file_of("owner/model", "config.json")
    hub._has_no_address.cache_clear()
    assert tried == [True, False]
