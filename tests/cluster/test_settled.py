"""A table has one precision, whichever devices its workers have."""

from pathlib import Path
from typing import Any

import pytest

from cluster.settled import settled_precision
from cluster.stage import RunContext, StageFolder
from fgvr.config import Config
from fgvr.config.base import TrainWorkers, Workers
from fgvr.precision import PrecisionError, held, of_model, of_workers
from tests.untracked import NoTracking

GPU, CPU = Workers(num_gpus=0.5), Workers()


def test_the_first_worker_settles_it_for_those_that_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    cards = {"bf16": False}

    def run_once(function: Any, device: str, *, workers: Workers) -> bool:
        asked.append((function.__name__, device, workers))
        return cards["bf16"]

    monkeypatch.setattr("cluster.settled.run_once", run_once)
    context = RunContext(Config(), str(tmp_path), NoTracking())
    folder = StageFolder(str(tmp_path / "one"), "embeddings", context)
    assert settled_precision(folder, GPU) == "fp32"
    cards["bf16"] = True  # the run goes on elsewhere
    assert settled_precision(folder, GPU) == "fp32"
    assert asked == [("has_bf16", "cuda", GPU)]
    assert settled_precision(StageFolder(str(tmp_path / "two"), "embeddings", context), GPU) == "bf16"


def test_a_card_that_cannot_go_on_in_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgvr.precision.has_bf16", lambda _: False)
    with pytest.raises(PrecisionError, match=r"begun in bf16.*accelerator_type"):
        held("bf16", "cuda")
    assert (held("fp32", "cuda"), held(None, "cpu")) == ("fp32", "fp32")
    monkeypatch.setattr("fgvr.precision.has_bf16", lambda _: True)
    assert (held("bf16", "cuda"), held("fp32", "cuda")) == ("bf16", "fp32")


def test_a_student_keeps_to_the_table_s_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgvr.precision.has_bf16", lambda _: True)
    assert of_model("bf16", "cpu") == "bf16"
    assert of_model("bf16", "cpu", "fp32") == "fp32"  # begun on a machine without
    assert of_model("bf16", "cuda", "bf16") == "bf16"
    assert of_model("fp32", "cuda", "bf16") == "fp32"


def test_what_auto_means_is_told_by_what_workers_reserve() -> None:
    assert (of_workers(CPU), of_workers(GPU)) == ("fp32", "bf16")
    assert (of_workers(TrainWorkers()), of_workers(TrainWorkers(use_gpu=True))) == ("fp32", "bf16")
    assert (of_workers(CPU, "bf16"), of_workers(GPU, "fp32")) == ("bf16", "fp32")
