import os
import subprocess
import sys
from pathlib import Path

import pytest

FIRST_IMPORT = """
import sys
import torch
{before}
import fgvr
from fgvr import torchvision_cpu
assert torchvision_cpu._TorchvisionFinder in map(type, sys.meta_path)
import torchvision, torchvision.transforms.v2, torchvision.ops
assert torchvision_cpu._TorchvisionFinder not in map(type, sys.meta_path)
assert hasattr(torch.ops.torchvision, "nms")
boxes = torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]])
image = torch.arange(16.0).reshape(1, 1, 4, 4)
# One bin over the whole 4 x 4 image, one sample in its middle: the mean of 5, 6, 9 and 10.
print(torchvision.ops.roi_align(image, boxes, 1, sampling_ratio=1, aligned=True).item())
"""


def run(before: str) -> str:
    code = FIRST_IMPORT.format(before=before)
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}  # roi_align compiles itself on first use: minutes
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_torchvision_imports_and_works_beside_this_torch() -> None:
    assert run("") == "7.5"


@pytest.mark.slow
def test_nothing_is_defined_where_the_schemas_exist() -> None:
    # Defining an operator twice is an error, so this dies unless the hook looks first.
    defined = 'torch.library.define("torchvision::{0}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")'
    assert run("; ".join(defined.format(name) for name in ("nms", "qnms"))) == "7.5"


def test_asking_again_defines_nothing(tmp_path: Path) -> None:
    from fgvr import torchvision_cpu

    torchvision_cpu.define_missing_schemas(tmp_path)  # no library there: both, unless they are there already
    assert torchvision_cpu.define_missing_schemas(tmp_path) == []


def test_the_hook_is_installed_once() -> None:
    from fgvr import torchvision_cpu

    torchvision_cpu.install_import_hook()
    torchvision_cpu.install_import_hook()
    assert sum(type(finder).__name__ == "_TorchvisionFinder" for finder in sys.meta_path) <= 1
