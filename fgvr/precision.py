"""The floating-point precision in which networks compute on each device: decided in this one place.

Losses, features and logits are always float32; this is about the activations in between. They are bf16 where the
hardware supports it, and float32 elsewhere: CUDA emulates bf16 on older GPUs, but cuDNN has no bf16 convolution there.

torch is imported where it is needed: the process that drives a job reads this module, too, and does without.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from fgvr.errors import UserError

if TYPE_CHECKING:
    import torch

    from fgvr.config.base import TrainWorkers, Workers

Precision = Literal["bf16", "fp32"]


class PrecisionError(UserError, ValueError):
    """The config asks for a precision that the device does not support."""


def has_bf16(device: torch.device | str) -> bool:
    """Whether a device computes bf16 natively: NVIDIA GPUs from compute capability 8.0 on, CPUs that can."""
    import torch

    device = torch.device(device)
    if device.type == "cpu":
        there = torch.cpu.get_capabilities()
        return any(there.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if device.index is None or not torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    with torch.cuda.device(device):  # is_bf16_supported asks about the current device
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def automatic(device: torch.device | str) -> Precision:
    """The default: bf16 on a GPU that supports it; float32 on a CPU, or results would depend on the kind of CPU."""
    import torch

    device = torch.device(device)
    return "bf16" if device.type != "cpu" and has_bf16(device) else "fp32"


def of_workers(workers: Workers | TrainWorkers, asked: Literal["auto", "bf16", "fp32"] = "auto") -> Precision:
    """The precision of a stage's workers as it enters fingerprints: `auto` is bf16 on a GPU, float32 on a CPU.

    So a table that was begun on CPUs is not continued on GPUs. If the GPUs do not support bf16, the first worker
    decides for its table (`cluster.settled`).
    """
    if asked != "auto":
        return asked
    return "bf16" if workers.device == "cuda" else "fp32"


def held(precision: Precision | None, device: torch.device | str) -> Precision:
    """The precision that a table was begun in, checked against this worker's device; None: the device's default.

    Raises PrecisionError if this worker's GPU does not support it.
    """
    if precision == "bf16" and not has_bf16(device):
        kind = str(device).partition(":")[0]
        raise PrecisionError(
            f"the table was begun in bf16, on another device, and this {kind} has no bf16 (GPUs: "
            "compute capability below 8.0): let its workers run on one kind of device (.workers.accelerator_type)"
        )
    return automatic(device) if precision is None else precision


def of_training(asked: Literal["auto", "bf16", "fp32"], device: torch.device | str) -> Precision:
    """The precision that `makd.precision` stands for on a device.

    Raises PrecisionError for bf16 on a GPU that lacks it; a CPU without the instructions still computes it, slowly.
    """
    import torch

    device = torch.device(device)
    if asked == "auto":
        return automatic(device)
    if asked == "bf16" and device.type != "cpu" and not has_bf16(device):
        raise PrecisionError(
            "makd.precision = bf16: the GPU has no bf16 (compute capability below 8.0); set fp32 or auto"
        )
    return asked


def of_model(trained: Precision | None, device: torch.device | str, begun: Precision | None = None) -> Precision:
    """The precision in which a trained network predicts: the one it was trained and validated in, if the device can.

    Args:
        trained: the precision stored in its folder; None if it was written by a version that did not store it.
        device: where it computes. Without bf16 support it computes in float32, which is more precise.
        begun: the precision that the table's workers settled on, see `held`; None if there is no table.
    """
    if begun is not None and held(begun, device) == "fp32":
        return "fp32"
    if trained is None:
        return automatic(device)
    return trained if trained == "fp32" or has_bf16(device) else "fp32"


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[Any]:
    """The autocast context for this precision."""
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16) if precision == "bf16" else nullcontext()
