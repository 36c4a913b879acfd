"""EfficientNet-Lite0's weights under timm's names, as students take them."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.quality import lite0_weights
from benchmarks.quality.photo_tables import PACKAGE, WEIGHTS
from fgvr.errors import UserError
from fgvr.models.start_match import start_of
from fgvr.models.start_weights import find_start
from fgvr.models.student import StudentSpec, timm_preprocess

BACKBONE = lite0_weights.BACKBONE


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As a port renames layers: the order and the kinds stay."""
    return {f"layer{n}.{name.rpartition('.')[2]}": value for n, (name, value) in enumerate(state.items())}


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lite0_weights", *words])
    lite0_weights.main()


def test_a_port_with_other_names_becomes_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm  # after fgvr, which prepares torchvision beside a CPU torch

    torch.manual_seed(0)
    whole = timm.create_model(BACKBONE).state_dict()
    torch.save(renamed(whole), tmp_path / "port.pth")
    command(monkeypatch, "--weights", str(tmp_path / "port.pth"), "--out", str(tmp_path / "lite0.safetensors"))
    written = load_file(tmp_path / "lite0.safetensors")
    assert written.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in written.items())
    spec = StudentSpec(BACKBONE, ("a", "b"), (), timm_preprocess(BACKBONE, 64))
    start = start_of(find_start(str(tmp_path / "lite0.safetensors"), BACKBONE), spec)
    assert "294 of the student's 296 tensors" in start.sentence
    torch.save(dict(reversed(renamed(whole).items())), tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not hold the tensors of tf_efficientnet_lite0 in their order"):
        lite0_weights.lite0_weights(tmp_path / "other.pth")


def test_the_real_weights(tmp_path: Path) -> None:
    import timm

    file = Path(import_module(PACKAGE).__file__ or "").parent / "models" / WEIGHTS
    network = timm.create_model(BACKBONE).eval()
    network.load_state_dict(lite0_weights.lite0_weights(file))
    assert sum(weight.numel() for weight in network.parameters()) == 4_652_008
    # Of a trained network a photo's class is not the class of noise; of a random one all logits are about equal.
    with torch.no_grad():
        logits = network(torch.rand(2, 3, 224, 224) * 2 - 1)
    assert logits.std() > 0.3
