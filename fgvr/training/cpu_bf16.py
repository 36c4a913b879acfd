"""bf16 training on a CPU: which convolutions must stay in float32, and whether bf16 is fast there at all.

If an image is smaller than a convolution's stride or dilation, oneDNN's bf16 weight gradient leaves some memory
uninitialised: kernel positions that no pixel meets should get zeros, but keep what was there before, NaN or any number,
and some such shapes crash the process. Seen with PyTorch 2.13 on x86 CPUs with AVX-512, with or without bf16
instructions (`ONEDNN_MAX_CPU_ISA=AVX512_CORE`); correct in float32, and up to AVX2, where PyTorch does not use oneDNN.
`tests/fgvr/training/test_cpu_bf16.py` has the measured rule. It affects students whose images are small for their
strides: a ResNet at 16 pixels has maps of 1 × 1 before its last stride of 2.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fgvr.precision import has_bf16

log = logging.getLogger(__name__)

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def train_in_bf16_on_cpu(student: nn.Module, side: int) -> None:
    """Prepare a student for bf16 autocast on a CPU: convolutions for which bf16 is wrong compute in float32.

    Weights and their names stay the same. Warns on a CPU without bf16 instructions.

    Args:
        student: any network of float32 [N, 3, side, side].
        side: side of its images, pixels.
    """
    if not has_bf16("cpu"):
        log.warning(
            "makd.precision = bf16: this CPU has no instructions for bf16, so results are right but "
            "slower than with float32 (makd.precision fp32 or auto)"
        )
    for convolution in unsafe_convolutions(student, side).values():
        convolution.forward = _in_float32(convolution.forward)  # type: ignore[assignment]


def unsafe_convolutions(student: nn.Module, side: int) -> dict[str, Convolution]:
    """Convolutions, by name, whose input maps are smaller than their stride or dilation for images of this `side`."""
    found: dict[str, Convolution] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if isinstance(module, Convolution) and is_unsafe(module, tuple(inputs[0].shape[2:])):
                found[name] = module

        return hook

    convolutions = [(n, module) for n, module in student.named_modules() if isinstance(module, Convolution)]
    handles = [module.register_forward_pre_hook(look(name)) for name, module in convolutions]
    device, training = next(student.parameters()).device, student.training
    try:
        with torch.no_grad():
            student.eval()(torch.zeros(1, 3, side, side, device=device))
    finally:
        student.train(training)
        for handle in handles:
            handle.remove()
    return found


def is_unsafe(convolution: Convolution, sides: tuple[int, ...]) -> bool:
    """Whether a side of its input is smaller than its stride or dilation, and its kernel larger than one pixel."""
    steps = zip(sides, convolution.stride, convolution.dilation, strict=True)
    return max(convolution.kernel_size) > 1 and any(side < max(stride, dilation) for side, stride, dilation in steps)


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function outside of autocast, on float32 inputs."""

    def outside(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return forward(images.float())

    return outside
