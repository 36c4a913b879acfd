"""In which precision networks compute, on which device: the one place that decides.

Losses, features and logits are float32 everywhere; this is about the activations between. bf16 is taken where the
hardware has it, and float32 elsewhere: CUDA emulates bf16 on older cards, but cuDNN has no bf16 convolution there.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch

from fgvr.errors import UserError

if TYPE_CHECKING:
    from fgvr.config.base import TrainWorkers, Workers

Precision = Literal["bf16", "fp32"]


class PrecisionError(UserError, ValueError):
    """A precision that was asked for, and that the device does not have."""


def has_bf16(device: torch.device | str) -> bool:
    """Whether a device computes bf16 itself: NVIDIA cards from compute capability 8.0 on, CPUs with instructions."""
    device = torch.device(device)
    if device.type == "cpu":
        there = torch.cpu.get_capabilities()
        return any(there.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if device.index is None or not torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    with torch.cuda.device(device):  # which the question is about
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def automatic(device: torch.device | str) -> Precision:
    """Where nobody chose: bf16 on a card that has it; float32 on a CPU, whose results would else depend on its kind."""
    device = torch.device(device)
    return "bf16" if device.type != "cpu" and has_bf16(device) else "fp32"


def of_workers(workers: Workers | TrainWorkers, asked: Literal["auto", "bf16", "fp32"] = "auto") -> Precision:
    """What a precision means for workers, as it stands in fingerprints: `auto` is bf16 on a GPU, float32 on a CPU.

    So a table that was begun on CPUs is another one than that of GPUs. Of GPUs without bf16 the first worker decides
    for its table (`cluster.settled`).
    """
    if asked != "auto":
        return asked
    return "bf16" if workers.device == "cuda" else "fp32"


def held(precision: Precision | None, device: torch.device | str) -> Precision:
    """The precision that a table was begun in, on one of its workers' devices; None: what is usual there.

    Raises PrecisionError where this worker's card cannot go on in it.
    """
    if precision == "bf16" and not has_bf16(device):
        raise PrecisionError(
            f"the table was begun in bf16, on another device, and this {torch.device(device).type} has none (GPUs: "
            "compute capability below 8.0): let its workers run on one kind of them (.workers.accelerator_type)"
        )
    return automatic(device) if precision is None else precision


def of_training(asked: Literal["auto", "bf16", "fp32"], device: torch.device | str) -> Precision:
    """What `makd.precision` means on a device.

    Raises PrecisionError for bf16 on a card without; a CPU without instructions computes it all the same, slowly.
    """
    device = torch.device(device)
    if asked == "auto":
        return automatic(device)
    if asked == "bf16" and device.type != "cpu" and not has_bf16(device):
        raise PrecisionError(
            "makd.precision = bf16: the GPU has no bf16 (compute capability below 8.0); set fp32 or auto"
        )
    return asked


def of_model(trained: Precision | None, device: torch.device | str, begun: Precision | None = None) -> Precision:
    """In which a trained network computes: as it was trained and validated, where the device can.

    Args:
        trained: as its folder says; None: it is of a version that did not write it.
        device: where it computes. One without bf16 computes in float32, which is finer.
        begun: what the devices of the table's workers can, see `held`; None: there is no table.
    """
    if begun is not None and held(begun, device) == "fp32":
        return "fp32"
    if trained is None:
        return automatic(device)
    return trained if trained == "fp32" or has_bf16(device) else "fp32"


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which a network computes so."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if precision == "bf16" else nullcontext()
