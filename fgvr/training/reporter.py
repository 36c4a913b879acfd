"""The interface between a training loop and its surroundings: device, resumption, reports, and communication."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Reporter(Protocol):
    """What training loops receive; cluster.train_worker implements it.

    Attributes:
        rank: rank of this process, 0 … world_size − 1.
        world_size: number of processes that train together; if above 1, torch.distributed is already initialised.
        device: device of this process.
    """

    rank: int
    world_size: int
    device: torch.device

    def resume_folder(self) -> Path | None:
        """The last checkpoint of an interrupted run, as a local folder; None for a fresh start."""
        ...

    def report(self, metrics: dict[str, float], save: Callable[[Path], None] | None = None) -> None:
        """Report progress. All ranks call it at the same points.

        Args:
            metrics: numbers by name.
            save: writes a checkpoint into the folder that it receives; called on rank 0 only.
        """
        ...


class LocalReporter:
    """A reporter for one process without Ray: keeps all metrics, and the last checkpoint in a folder."""

    def __init__(self, folder: Path, device: str | torch.device = "cpu") -> None:
        self.folder = folder
        self.rank = 0
        self.world_size = 1
        self.device = torch.device(device)
        self.history: list[dict[str, float]] = []

    @property
    def checkpoint(self) -> Path:
        """The folder of the last checkpoint."""
        return self.folder / "checkpoint"

    def resume_folder(self) -> Path | None:
        """The checkpoint that an earlier run left in the folder."""
        return self.checkpoint if self.checkpoint.is_dir() else None

    def report(self, metrics: dict[str, float], save: Callable[[Path], None] | None = None) -> None:
        """Keep the metrics and replace the checkpoint; after a crash during writing, the previous one still exists."""
        self.history.append(dict(metrics))
        if save is None:
            return
        fresh = self.folder / "checkpoint.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save(fresh)
        shutil.rmtree(self.checkpoint, ignore_errors=True)
        fresh.rename(self.checkpoint)


def sum_over_workers(tensor: Tensor, world_size: int) -> Tensor:
    """The sum of the workers' tensors, in place, on every worker; a single worker needs no process group."""
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
    """One worker's contiguous share of `total` rows; shares differ by at most one row."""
    return slice(rank * total // world_size, (rank + 1) * total // world_size)


def data_parallel(model: nn.Module, reporter: Reporter) -> nn.Module:
    """The model to call in training: it averages the gradients of several workers. The weights stay the model's own."""
    if reporter.world_size <= 1:
        return model
    on_gpu = [reporter.device.index] if reporter.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=on_gpu)
