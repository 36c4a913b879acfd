"""Folders of weights as timm saves them, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

BACKBONE = "test_byobnet"
DATA = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "input_size": [3, 96, 96]}


def timm_folder(folder: Path, weights: dict[str, Tensor], **facts: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    config = {"architecture": BACKBONE, "num_classes": 1000, "pretrained_cfg": DATA, **facts}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
