"""What networks cost, against numbers worked by hand; gradient activity of a network with known gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fgvr.compare.cost import milliseconds, multiply_adds, parameters, peak_mib
from fgvr.compare.gradients import gradient_activity
from fgvr.models.student import StudentClassifier, StudentSpec, build_student, save_student, timm_preprocess


def spec_of(backbone: str, side: int, classes: int = 10) -> StudentSpec:
    return StudentSpec(backbone, tuple(map(str, range(classes))), (), timm_preprocess(backbone, side))


def test_multiply_adds_of_a_convolution() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.Conv2d(16, 32, 3, padding=1))
    # 3×3 from 16 to 32 channels on 10×10: 9 · 16 · 32 · 100; before it 1×1 from 3 to 16.
    assert multiply_adds(network, 10) == 460_800 + 3 * 16 * 100


def test_multiply_adds_of_a_depthwise_convolution_count_one_channel_each() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16))
    assert multiply_adds(network, 10) == 3 * 16 * 100 + 9 * 16 * 100


def test_multiply_adds_of_attention() -> None:
    tokens, width = 16 + 1, 192
    attention = 4 * tokens * width * width + 2 * tokens * tokens * width  # projections; scores and their product
    mlp = 2 * tokens * width * 4 * width
    stem, classifier = 16 * width * 16 * 16 * 3, 10 * width
    network = build_student(spec_of("vit_tiny_patch16_224", 64)).eval()
    assert multiply_adds(network, 64) == stem + 12 * (attention + mlp) + classifier


def test_multiply_adds_of_a_network_that_passes_its_weights_from_layer_to_layer() -> None:
    network = build_student(spec_of("pit_ti_224", 64)).eval()  # a class token beside the map
    assert multiply_adds(network, 64) > 0
    assert all(weight.requires_grad for weight in network.parameters())


def test_parameters_of_a_layer() -> None:
    assert parameters(nn.Conv2d(16, 32, 3)) == 9 * 16 * 32 + 32


def test_times_and_memory_of_a_student(tmp_path: Path) -> None:
    spec = spec_of("test_byobnet", 32)
    network = build_student(spec)
    save_student(tmp_path, spec, network.state_dict(), {})
    classifier = StudentClassifier(spec, network)
    assert milliseconds(classifier, 1) > 0
    peak = peak_mib(classifier, tmp_path, 64)
    assert peak is not None
    # At least the inputs as floats; far less than the process, which torch alone makes larger than 150 MiB.
    assert 64 * 3 * 32 * 32 * 4 / 2**20 < peak < 150


def test_the_process_that_measures_memory_says_what_went_wrong(tmp_path: Path) -> None:
    spec = spec_of("test_byobnet", 32)
    with pytest.raises(RuntimeError, match="measuring memory ended with status 1"):
        peak_mib(StudentClassifier(spec, build_student(spec)), tmp_path / "nothing", 1)


class Chain(nn.Module):
    """Three weights in a row, with outputs (0, a·b·c·x)."""

    def __init__(self, a: float, b: float, c: float) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor([[value]])) for value in (a, b, c))
        self.bias = nn.Parameter(torch.zeros(2))  # one axis: not counted

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        product = inputs.mean(dim=(1, 2, 3)) * self.a[0, 0] * self.b[0, 0] * self.c[0, 0]
        return torch.stack([torch.zeros_like(product), product], dim=1) + self.bias


def test_gradient_activity_by_hand() -> None:
    # Logits (0, abc) of x = 1, class 1: ∂L/∂(abc) = σ(abc) − 1; ∂/∂a = that · bc, so |∂L/∂a| / |a| = (1 − σ)·|bc/a|.
    a, b, c = 0.5, 2.0, 1.0
    network = Chain(a, b, c)
    found = gradient_activity(network, torch.ones(4, 3, 2, 2), torch.ones(4, dtype=torch.int64), 2)
    slope = 1 - 1 / (1 + 2.718281828459045 ** -(a * b * c))
    assert found["early"] == pytest.approx(slope * b * c / a, rel=1e-5)
    assert found["middle"] == pytest.approx(slope * a * c / b, rel=1e-5)
    assert found["late"] == pytest.approx(slope * a * b / c, rel=1e-5)
    assert all(weight.grad is None for weight in network.parameters())


def test_gradient_activity_needs_three_layers() -> None:
    with pytest.raises(ValueError, match="1 weight tensors"):
        gradient_activity(nn.Linear(3, 2), torch.ones(1, 3), torch.zeros(1, dtype=torch.int64), 2)
