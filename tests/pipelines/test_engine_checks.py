import json
from pathlib import Path
from typing import Any

import pytest

from fgvr.config import Config, ConfigError, build
from fgvr.errors import UserError
from fgvr.mllm.vllm_engine import provider
from fgvr.mllm.vllm_engine.memory import GIB, NotEnoughMemory
from pipelines import engine_checks
from pipelines.evaluate import whole_job
from pipelines.registry import stage_of
from pipelines.run_tables import Look, closure


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 GiB free and no GPU."""
    monkeypatch.setattr(provider, "available_bytes", lambda: 8 * GIB)
    monkeypatch.setattr(provider, "smallest_here", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def check_engines(config: Config) -> None:
    """Of all that a whole job asks."""
    names = closure(Look(config, "/no/such/run"), [*whole_job(config), "report"])
    engine_checks.check_engines(config, [stage_of(name) for name in names])


def config(workers: dict[str, Any] | None = None, **mllm: Any):
    asked = {"workers": workers or {}}
    return build({"label": asked, "aspects": asked, "mllm": {"kind": "vllm", **mllm}, "cluster": {"num_cpus": 4}})


@pytest.mark.parametrize(
    ("workers", "mllm", "said"),
    [
        ({"num_gpus": 1}, {"tensor_parallel_size": 2}, r"label\.workers\.num_gpus = 1: .* takes 2 GPUs.*set it to 2"),
        ({}, {"tensor_parallel_size": 2}, r"label\.workers\.num_gpus = 0"),
        ({"num_gpus": 4}, {"tensor_parallel_size": 2, "engine_args": {"pipeline_parallel_size": 4}}, "takes 8 GPUs"),
        ({"num_gpus": 2}, {}, r"takes 1 GPU\(s\) and would leave the others idle"),
        ({"num_gpus": 0.5}, {}, r"lets 2 engines share a GPU.*= 0\.9 of its memory; set that to 0\.45"),
        ({"num_gpus": 0.25}, {"gpu_memory_utilization": 0.3}, r"4 engines.*set that to 0\.23"),
        ({}, {"engine_args": {"max_model_length": 9}}, r"engine_args\.max_model_length: vLLM's engine has no such"),
        ({}, {"cpu_kv_cache_gb": 3000}, r"label\.workers: 1 engine\(s\).*mllm\.cpu_kv_cache_gb = 3000"),
        (
            {"max_workers": 4},
            {"cpu_kv_cache_gb": 2},
            r"4 engine\(s\) of about 3\.3 GiB.*lower label\.workers\.max_workers to 2",
        ),
    ],
)
def test_what_cannot_work_is_refused(workers: dict[str, Any], mllm: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_engines(config(workers, **mllm))


@pytest.mark.parametrize(
    ("workers", "mllm"),
    [
        ({"num_gpus": 2}, {"tensor_parallel_size": 2}),
        ({"num_gpus": 8}, {"tensor_parallel_size": 4, "engine_args": {"pipeline_parallel_size": 2}}),
        ({"num_gpus": 0.5}, {"gpu_memory_utilization": 0.45}),
        ({"num_gpus": 1, "accelerator_type": "H100"}, {}),
        ({"max_workers": 2}, {"cpu_kv_cache_gb": 2}),
        # Of 64 workers, four have a core at the same time, if each takes one.
        ({"max_workers": 64, "num_cpus": 4}, {"cpu_kv_cache_gb": 2}),
    ],
)
def test_what_works_passes(workers: dict[str, Any], mllm: dict[str, Any]) -> None:
    check_engines(config(workers, **mllm))


def test_the_workers_of_class_scores_are_looked_at_where_the_mllm_teaches() -> None:
    asked = {"class_scores": {"workers": {"num_gpus": 0.5}}, "mllm": {"kind": "vllm"}, "cluster": {"num_cpus": 4}}
    check_engines(build(asked))
    taught = asked | {"makd": {"distillation": {"kind": "kd", "teacher": "mllm"}}}
    with pytest.raises(ConfigError, match=r"class_scores\.workers\.num_gpus = 0\.5 lets 2 engines share a GPU"):
        check_engines(build(taught))


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        ({"engine_args": {"max_num_seqs": 4}}, r"^questions\.llm\.engine_args\.max_num_seqs: set questions\.llm\.max"),
        ({"tensor_parallel_size": 2}, r"^questions\.workers\.num_gpus = 0: .* questions\.llm\.tensor_parallel_size"),
        ({"cpu_kv_cache_gb": 1e-6}, r"^questions\.llm\.cpu_kv_cache_gb = .* or lower questions\.llm\.max_model_len$"),
        ({"cpu_kv_cache_gb": 3000}, r"^questions\.workers: 1 engine.* lower questions\.llm\.cpu_kv_cache_gb"),
    ],
)
def test_a_language_model_is_named_by_its_own_fields(llm: dict[str, Any], said: str) -> None:
    asked = {"mllm": {"kind": "openai", "model": "m"}, "questions": {"llm": {"kind": "vllm", "model": "demo", **llm}}}
    with pytest.raises(UserError, match=said):
        check_engines(build(asked))


def test_a_model_too_large_for_the_card_is_refused_by_its_headers(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [20 * 2**30, 1], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {}, "architectures": ["X"]}))
    workers = {"num_gpus": 1, "accelerator_type": "L4"}
    with pytest.raises(NotEnoughMemory, match=r"weights 40\.00 GiB.* on 1 GPU\(s\) of 24 GiB"):
        check_engines(config(workers, model=str(tmp_path)))
    check_engines(config(workers | {"accelerator_type": "H100"}, model=str(tmp_path)))


def test_a_machine_with_other_cards_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [6 * 2**30], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {}, "architectures": ["X"]}))
    asked = config({"num_gpus": 1}, model=str(tmp_path))
    for cards in ([2 * GIB], [24 * GIB, 2 * GIB], [8 * GIB, 2 * GIB]):
        monkeypatch.setattr(provider, "smallest_here", lambda cards=cards: min(cards))
        monkeypatch.setattr(provider, "cards_here", lambda cards=cards: cards)
        if max(cards) == 24 * GIB:
            check_engines(asked)
            assert "This machine has cards of 24 GiB, too" in caplog.text
        else:
            with pytest.raises(NotEnoughMemory):
                check_engines(asked)


def test_each_size_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    check_engines(config())
    said = [record.message for record in caplog.records if "weights" in record.message]
    assert len(said) == 2  # label's and aspects' engines
    assert "key-value cache 0.00 GiB for a prompt of 2,048 tokens" in said[0]


def test_above_one_gpu_there_are_whole_ones_only() -> None:
    with pytest.raises(ConfigError, match=r"num_gpus = 1\.5: above one GPU Ray gives whole ones only"):
        config({"num_gpus": 1.5})
