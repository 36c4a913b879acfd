"""bf16 on a CPU: which convolutions stay in float32, and that what is left gives right gradients."""

import logging
from typing import Any

import pytest
import torch
from torch import nn

from fgvr.models.student import StudentSpec, build_student, timm_preprocess
from fgvr.training import cpu_bf16
from fgvr.training.cpu_bf16 import is_unsafe, train_in_bf16_on_cpu, unsafe_convolutions


@pytest.mark.parametrize(
    ("side", "settings", "unsafe"),
    [
        (1, {"kernel_size": 3, "stride": 2, "padding": 1}, True),  # the last stride of a ResNet at 16 pixels
        (2, {"kernel_size": 3, "stride": 2, "padding": 1}, False),  # at 32
        (2, {"kernel_size": 5, "stride": 4, "padding": 2}, True),
        (3, {"kernel_size": 7, "stride": 4, "padding": 3}, True),
        (1, {"kernel_size": 3, "stride": 1, "padding": 1}, False),
        (1, {"kernel_size": 1, "stride": 2}, False),  # one kernel place, which every pixel meets
        (2, {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 3}, True),  # bf16 ended the process here
    ],
)
def test_a_map_smaller_than_stride_or_dilation_is_unsafe(side: int, settings: dict[str, Any], unsafe: bool) -> None:
    assert is_unsafe(nn.Conv2d(8, 8, **settings), (side, side)) == unsafe
    assert is_unsafe(nn.Conv2d(8, 8, **settings), (9, side)) == unsafe  # one side is enough


def test_a_student_has_such_layers_at_small_sizes_only() -> None:
    def student(side: int) -> nn.Module:
        return build_student(StudentSpec("resnet18", ("a", "b"), (), timm_preprocess("resnet18", side)))

    assert sorted(unsafe_convolutions(student(16), 16)) == ["layer4.0.conv1"]
    assert unsafe_convolutions(student(32), 32) == {}
    left = student(16).train()
    unsafe_convolutions(left, 16)
    assert left.training
    assert all(not module._forward_pre_hooks for module in left.modules())


def dirty_memory(*numbers: int) -> None:
    """Leave NaN in what the allocator hands out next, of these sizes."""
    kept = [torch.full((number,), float("nan")) for number in numbers for _ in range(8)]
    del kept


def test_gradients_of_a_prepared_student_are_right_whatever_the_memory_held() -> None:
    """Not prepared, the weights' gradient of such a layer was NaN in 40 of 40 tries on a CPU with AVX-512."""
    torch.manual_seed(3)
    layer = nn.Conv2d(32, 48, 3, stride=2, padding=1, bias=False)
    net = nn.Sequential(nn.Conv2d(3, 32, 1), layer, nn.Flatten())
    names = list(net.state_dict())
    train_in_bf16_on_cpu(net, 1)
    assert list(net.state_dict()) == names
    photos = torch.randn(8, 3, 1, 1)
    with torch.no_grad():  # of 3 x 3 places a map of one pixel meets the middle one: a matrix product by hand
        seen = net[0](photos).flatten(1)
    for _ in range(5):
        layer.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            outputs = net(photos)
        dirty_memory(layer.weight.numel(), layer.weight.numel() // 2, 4096)
        outputs.sum().backward()
        assert layer.weight.grad is not None
        expected = torch.zeros_like(layer.weight)
        expected[:, :, 1, 1] = seen.sum(0)
        torch.testing.assert_close(layer.weight.grad, expected, atol=0.1, rtol=0.02)


def test_other_layers_stay_in_bf16() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=4, padding=1))
    train_in_bf16_on_cpu(net, 2)
    with torch.autocast("cpu", torch.bfloat16):
        first = net[0](torch.zeros(2, 3, 2, 2))
        assert (first.dtype, net[1](first).dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(("there", "warned"), [({"avx2": True}, True), ({"avx512_bf16": True}, False)])
def test_a_cpu_without_the_instructions_is_told_that_bf16_is_slower(
    there: dict[str, bool], warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there)
    with caplog.at_level(logging.WARNING, cpu_bf16.__name__):
        train_in_bf16_on_cpu(nn.Sequential(nn.Conv2d(3, 8, 1)), 4)
    assert ("has no instructions for bf16" in caplog.text) == warned
