"""What a network costs: parameters, multiply-adds, milliseconds per photo, and memory."""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fgvr.models.student import StudentClassifier, load_student
from fgvr.precision import autocast

WARM_UP = 2
LEAST_REPEATS, MOST_REPEATS = 5, 50
SECONDS = 1.0
"""Repeats end after so many seconds, but not before `LEAST_REPEATS`."""
MIB = 2**20


def parameters(network: nn.Module) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in network.parameters())


def multiply_adds(network: nn.Module, side: int) -> int:
    """Multiply-adds (MAC) of one photo of `side` pixels: of convolutions, linear layers and attention.

    torch's counter counts two operations per multiply-add. It knows no fused attention on CPUs, so that attention is
    computed as two matrix products here. Norms, activations, softmax and sums are not counted, as usual.
    """
    # The counter follows tensors that need gradients, which fails where these are views made without any.
    network = copy.deepcopy(network).requires_grad_(requires_grad=False)
    place = next(network.parameters()).device
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, side, side, device=place))
    return int(counter.get_total_flops()) // 2


def forward_of(classifier: StudentClassifier) -> Callable[[Tensor], Tensor]:
    """The student's whole way from pixels, uint8 [N, S, S, 3], to outputs, all photos at once."""

    def forward(pixels: Tensor) -> Tensor:
        inputs = classifier.spec.preprocess.normalise(pixels.to(classifier.device))
        with autocast(classifier.device, classifier.precision):
            outputs: Tensor = classifier.model(inputs)
        return outputs.float()

    return forward


@torch.inference_mode()
def milliseconds(classifier: StudentClassifier, batch: int) -> float:
    """Milliseconds per photo in batches of so many: the median of 5 to 50 repeats, from pixels to outputs.

    Reading and decoding files is not part of it, since that is the same for all networks.
    """
    side, forward = classifier.spec.preprocess.input_size, forward_of(classifier)
    pixels = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
    for _ in range(WARM_UP):
        forward(pixels)
    taken: list[float] = []
    while len(taken) < LEAST_REPEATS or (sum(taken) < SECONDS and len(taken) < MOST_REPEATS):
        _wait(classifier.device)
        start = time.perf_counter()
        forward(pixels)
        _wait(classifier.device)
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken) / batch


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mib(classifier: StudentClassifier, folder: Path, batch: int) -> float | None:
    """Memory in MiB that classifying a batch needs at its peak; None where the system does not tell.

    On a GPU: `torch.cuda.max_memory_allocated`, weights included. On a CPU: how far the resident memory of a fresh
    process rises above what it was before the student was loaded, since this one may have held more before.
    """
    if classifier.device.type == "cuda":
        return _peak_of_gpu(classifier, batch)
    command = [sys.executable, "-m", "fgvr.compare.cost", str(folder), str(batch), str(torch.get_num_threads())]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ran.returncode:
        raise RuntimeError(f"measuring memory ended with status {ran.returncode}: {ran.stderr.strip()[-500:]}")
    said: float | None = json.loads(ran.stdout.strip().splitlines()[-1])
    return said


@torch.inference_mode()
def _peak_of_gpu(classifier: StudentClassifier, batch: int) -> float:
    side = classifier.spec.preprocess.input_size
    torch.cuda.synchronize(classifier.device)
    torch.cuda.reset_peak_memory_stats(classifier.device)
    forward_of(classifier)(torch.zeros(batch, side, side, 3, dtype=torch.uint8))
    torch.cuda.synchronize(classifier.device)
    return torch.cuda.max_memory_allocated(classifier.device) / MIB


def _in_fresh_process(folder: Path, batch: int, threads: int) -> float | None:
    """The rise of this process's resident memory while it loads a student and classifies a batch."""
    torch.set_num_threads(threads)
    before = _status("VmRSS")
    spec, network = load_student(folder)
    classifier = StudentClassifier(spec, network)
    side = spec.preprocess.input_size
    with torch.inference_mode():
        forward_of(classifier)(torch.zeros(batch, side, side, 3, dtype=torch.uint8))
    peak = _status("VmHWM")
    return None if before is None or peak is None else max(0.0, (peak - before) / 1024)


def _status(name: str) -> int | None:
    """A line of /proc/self/status, in KiB: unlike getrusage's, its peak does not begin with that of the parent."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


if __name__ == "__main__":
    print(json.dumps(_in_fresh_process(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
