"""Runs first in Python processes started by libraries (vLLM inspects models in one).

`fgvr/mllm/vllm_engine/start.py` puts this file on their path. Such a process never imports fgvr, so without it the
import hook for torchvision would be missing there.
"""

import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _install_torchvision_hook() -> None:
    # Load by path: a process started elsewhere may not find the package fgvr.
    spec = importlib.util.spec_from_file_location("fgvr_torchvision_cpu", _HERE.parent / "torchvision_cpu.py")
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.install_import_hook()


def _run_hidden_sitecustomize() -> None:
    """Run the sitecustomize that this file shadows, if the Python installation has one."""
    others = [place for place in sys.path if Path(place).resolve() != _HERE]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_install_torchvision_hook()
_run_hidden_sitecustomize()
