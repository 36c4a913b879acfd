"""Python processes that libraries start get the torchvision hook, and keep the installation's own sitecustomize."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fgvr.mllm.vllm_engine import start

HOOKED = (
    "import sys; print(any('Torchvision' in type(finder).__name__ for finder in sys.meta_path), 'fgvr' in sys.modules)"
)


def test_a_child_has_the_hook_and_runs_the_hidden_sitecustomize(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('own')\n")
    places = os.pathsep.join([str(start.CHILD_STARTUP), str(tmp_path)])
    child = subprocess.run(
        [sys.executable, "-c", HOOKED],
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout.split() == ["own", "True", "False"]
    assert child.stderr == ""


def test_what_the_engine_finds_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "runs_on_cpu", lambda: True)
    monkeypatch.setattr(
        os, "environ", {"PYTHONPATH": "/a", "VLLM_CPU_KVCACHE_SPACE": "40", "VLLM_LOGGING_LEVEL": "INFO"}
    )
    start.prepare(separate_process=False, eager=True)
    start.prepare(separate_process=False, eager=True)
    assert os.environ["PYTHONPATH"] == os.pathsep.join([str(start.CHILD_STARTUP), "/a"])
    assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ
    assert os.environ["VLLM_LOGGING_LEVEL"] == "INFO"  # a person's choice
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert os.environ["TORCHDYNAMO_DISABLE"] == "1"


def test_on_a_gpu_nothing_is_compiled_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "runs_on_cpu", lambda: False)
    monkeypatch.setattr(os, "environ", {})
    start.prepare(separate_process=True, eager=True)
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
    assert not {"TORCHDYNAMO_DISABLE", "PYTHONPATH"} & set(os.environ)
