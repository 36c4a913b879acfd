"""Sums over the workers of a training, written so that one worker needs no process group."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_over_workers(tensor: Tensor, world_size: int) -> Tensor:
    """The sum of the workers' tensors, in place, on every worker."""
    if world_size > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def joined_rows(rows: Tensor, first: int, total: int, world_size: int) -> Tensor:
    """All rows [total, …] from the workers' shares [n, …] that start at `first`; no gradient passes through.

    A sum of zero-padded tensors: exact, and shares may differ in size.
    """
    if world_size <= 1:
        return rows.detach()
    everything = torch.zeros((total, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    everything[first : first + len(rows)] = rows.detach()
    return sum_over_workers(everything, world_size)


def share(total: int, rank: int, world_size: int) -> slice:
    """One worker's stretch of `total` rows; the stretches differ by at most one row."""
    return slice(rank * total // world_size, (rank + 1) * total // world_size)
