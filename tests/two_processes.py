"""Two processes that train together over gloo, without Ray."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fgvr.training.reporter import LocalReporter


class RankReporter(LocalReporter):
    """The reporter of one of two processes; the first keeps checkpoints."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(folder)
        self.rank, self.world_size = rank, 2

    def report(self, metrics: dict[str, float], save: Callable[[Path], None] | None = None) -> None:
        super().report(metrics, save if self.rank == 0 else None)


@contextmanager
def two_processes(folder: Path, work: Callable[..., None], *args: Any) -> Iterator[None]:
    """Run `work(rank, *args)` in two processes of one group beside the body; both have ended well behind it.

    Args:
        folder: where the two meet; nobody else may meet there.
        work: a module-level function.
        args: of it; must pickle.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_one_of_two, args=(rank, folder, work, args)) for rank in (0, 1)]
    for process in processes:
        process.start()
    yield
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]


def _one_of_two(rank: int, folder: Path, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    work(rank, *args)
    torch.distributed.destroy_process_group()
    # Once in many runs torch's own threads are still there when the interpreter takes itself apart, and abort it
    # ("terminate called without an active exception"). All that counts is on disk: leave without taking apart. An
    # exception above does not come here, and gives an exit code of its own.
    os._exit(0)
