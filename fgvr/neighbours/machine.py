"""What this machine can do for a search: the measured rate of its matrix product, and its memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from fgvr.neighbours.exact import Product, torch_threads

WORTH_IT = 1.2  # so many times the rate of fp32 must a shorter type have
SHAPES = {"cpu": (512, 2048, 512), "cuda": (4096, 16_384, 512)}  # queries, database, dimension
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Machine:
    """What a search may use.

    Attributes:
        product: device and type of the quickest product.
        rate: of this product, FLOP/s, all machines alike.
        fp32_rate: of the product in fp32, FLOP/s.
        memory: bytes that vectors may take on one machine.
        machines: how many work at once.
    """

    product: Product
    rate: float
    fp32_rate: float
    memory: float
    machines: int = 1

    def times(self, machines: int) -> Machine:
        """So many of this machine."""
        return replace(self, machines=machines)


@cache
def this_machine(device: str = "cpu", threads: int = 1) -> Machine:
    """Measured once in a process, in a tenth of a second; bf16 on a CPU and fp16 on CUDA where they are quicker."""
    short = "float16" if device == "cuda" else "bfloat16"
    with torch_threads(threads):
        rates = {dtype: gemm_rate(device, dtype) for dtype in ("float32", short)}
    chosen = short if rates[short] >= WORTH_IT * rates["float32"] else "float32"
    return Machine(Product(device, chosen), rates[chosen], rates["float32"], available_memory())


def gemm_rate(device: str, dtype: str, repeats: int = 5) -> float:
    """FLOP/s of the product of unit vectors, the best of `repeats`."""
    queries, database, dim = SHAPES[torch.device(device).type]
    kind: torch.dtype = getattr(torch, dtype)
    left = torch.ones((queries, dim), device=device).div_(dim).to(kind)
    right = torch.ones((database, dim), device=device).div_(dim).to(kind)
    out = torch.empty((queries, database), device=device, dtype=kind)
    torch.mm(left, right.T, out=out)
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        torch.mm(left, right.T, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * queries * database * dim / best


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def available_memory() -> float:
    """Half of the memory that is free on this machine, bytes: the other half is for what a search makes of it."""
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1]) / 2
    raise OSError(f"{MEMINFO} does not say how much memory is available")
