"""What this machine can do for a search: the measured rate of its matrix product, and its memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from fgvr.neighbours.exact import Product, torch_threads

WORTH_IT = 1.2  # a shorter type is used if it is this many times as fast as fp32
SHAPES = {"cpu": (512, 2048, 512), "cuda": (4096, 16_384, 512)}  # queries, database, dimension
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Machine:
    """The resources of a search.

    Attributes:
        product: device and dtype of the fastest product.
        rate: FLOP/s of this product, over all machines.
        fp32_rate: FLOP/s of the product in fp32.
        memory: bytes that vectors may take on one machine.
        machines: how many work in parallel.
    """

    product: Product
    rate: float
    fp32_rate: float
    memory: float
    machines: int = 1

    def times(self, machines: int) -> Machine:
        """The resources of several machines like this one."""
        return replace(self, machines=machines)


@cache
def this_machine(device: str = "cpu", threads: int = 1) -> Machine:
    """This machine, measured once per process, in a tenth of a second; bf16 (CPU) or fp16 (CUDA) if faster."""
    short = "float16" if device == "cuda" else "bfloat16"
    with torch_threads(threads):
        rates = {dtype: gemm_rate(device, dtype) for dtype in ("float32", short)}
    chosen = short if rates[short] >= WORTH_IT * rates["float32"] else "float32"
    return Machine(Product(device, chosen), rates[chosen], rates["float32"], available_memory())


def gemm_rate(device: str, dtype: str, repeats: int = 5) -> float:
    """FLOP/s of the product of unit vectors; the best of `repeats`."""
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
    """Half of the free memory of this machine, in bytes: the other half is for the search's intermediate results."""
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1]) / 2
    raise OSError(f"{MEMINFO} does not say how much memory is available")
