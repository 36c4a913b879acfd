"""Make `import torchvision` work beside a CPU build of torch.

The default package index carries torchvision for Linux as a CUDA build only. Beside a CPU torch its compiled
library cannot be loaded, and importing it stops with "operator torchvision::nms does not exist", because a
fake kernel is registered for operators whose schema the library would have defined. Defining the schemas
first is enough for the import. What detection needs of the library is in `fgvr/detection/operators.py`.
Beside a matching torchvision (CUDA machines, PyTorch's own CPU index, macOS) the hook changes nothing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class _TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Runs once, just before torchvision is found by the ordinary finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec("torchvision")
            if spec is not None and spec.origin is not None:
                define_missing_schemas(Path(spec.origin).parent)
        return None


def install_import_hook() -> None:
    """Prepare the first import of torchvision; harmless if called again or after torchvision was imported."""
    if "torchvision" in sys.modules:
        return
    if not any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchvisionFinder())


def define_missing_schemas(package: Path) -> list[str]:
    """Define the operators that the compiled library in `package` does not provide.

    Returns the names of the operators defined: an empty list if torchvision matches torch.
    """
    import torch

    for library in sorted(package.glob("_C*.so")) + sorted(package.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]  # torch has no types here
        except OSError:
            continue  # a CUDA build beside a CPU torch: the CUDA libraries are missing
    missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    for name in missing:
        torch.library.define(f"torchvision::{name}", _SCHEMAS[name].removeprefix(name))
    return missing
