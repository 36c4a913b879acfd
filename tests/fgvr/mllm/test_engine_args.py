import dataclasses

import pytest

from fgvr.mllm.vllm_engine.model_files import ModelError
from fgvr.mllm.vllm_engine.start import check_engine_args, gpus_of_engine, known_arguments


@pytest.mark.parametrize(
    ("given", "on_cpu", "said"),
    [
        ({"max_num_batched_token": 4096}, True, r"engine_args\.max_num_batched_token: .* mean max_num_batched_tokens"),
        ({"tensor_parallel_size": 2}, False, r"engine_args\.tensor_parallel_size: set mllm\.tensor_parallel_size"),
        ({"mm_processor_cache_gb": 2}, False, r"set mllm\.image_cache_gb instead"),
        ({"kv_cache_memory_bytes": 2**30}, True, r"set mllm\.cpu_kv_cache_gb instead"),
        ({"data_parallel_size": 4}, False, r"more engines are more workers .* leave it out"),
        ({"limit_mm_per_prompt": {"image": 4}}, False, "a request has one image"),
        ({"mm_processor_cache_type": "shm"}, False, r"cache_type = shm: .* sent without its pixels.*; leave it out"),
        ({"qqqq": 1}, False, r"its names are those of vllm\.EngineArgs"),
        ({"_api_process_count": 1}, False, "no such argument"),
    ],
)
def test_what_is_refused(given: dict[str, object], on_cpu: bool, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        check_engine_args(given, on_cpu=on_cpu)


def test_what_is_passed_on() -> None:
    check_engine_args({"max_num_batched_tokens": 4096, "kv_cache_dtype": "fp8", "quantization": "awq"}, on_cpu=True)
    check_engine_args({"kv_cache_memory_bytes": 2**30, "enable_expert_parallel": True}, on_cpu=False)
    check_engine_args({"mm_processor_cache_type": "lru"}, on_cpu=False)


def test_gpus_of_an_engine() -> None:
    assert gpus_of_engine(4, {}) == 4
    assert gpus_of_engine(4, {"pipeline_parallel_size": 2}) == 8


@pytest.mark.slow  # imports vLLM
def test_the_names_are_those_of_vllm() -> None:
    from vllm import EngineArgs

    fields = {field.name for field in dataclasses.fields(EngineArgs) if not field.name.startswith("_")}
    assert known_arguments() == fields
