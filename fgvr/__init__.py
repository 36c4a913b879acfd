"""fgvr: fine-grained recognition of unlabelled photos, from multimodal-LLM labels to a small classifier.

This package holds *what* is computed. It knows neither Ray nor MLflow; `cluster/` knows where and how.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fgvr import torchvision_cpu

if TYPE_CHECKING:
    from fgvr.opened_run import OpenedRun

__all__ = ["__version__", "open_run"]
__version__ = "0.2.0"

torchvision_cpu.install_import_hook()


def open_run(folder: str | Path) -> OpenedRun:
    """A run's tables, names, predictions and models, for notebooks: see `fgvr.opened_run`."""
    from fgvr import opened_run  # here, since every worker imports this package

    return opened_run.open_run(folder)
