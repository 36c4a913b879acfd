"""The driver of the elastic training of test_elastic, and its loop: python -m tests.faults.elastic ADDRESS FOLDER."""

import sys
import time
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed

import cluster.train
from fgvr.config.base import TrainWorkers
from fgvr.training.reporter import Reporter

EPOCHS = 40


def count_workers(config: dict[str, Any], reporter: Reporter) -> None:
    """An epoch a second; each adds a line to the diary: its number, and how many workers took part."""
    folder = reporter.resume_folder()
    epoch = 0 if folder is None else torch.load(folder / "state.pt")
    while epoch < EPOCHS:
        time.sleep(1)
        workers = torch.ones(1)
        if reporter.world_size > 1:
            torch.distributed.all_reduce(workers)
        epoch += 1
        if reporter.rank == 0:
            with Path(config["diary"]).open("a") as diary:
                diary.write(f"{epoch} {int(workers)}\n")
        reporter.report({"epoch": epoch}, save=lambda place, epoch=epoch: torch.save(epoch, place / "state.pt"))


if __name__ == "__main__":
    address, folder = sys.argv[1:]
    cluster.train.RESIZE_SECONDS = 3.0
    ray.init(address=address)
    workers = TrainWorkers(min_workers=1, num_workers=2, num_cpus=1)
    result = cluster.train.train(
        count_workers, {"diary": f"{folder}/diary"}, name="elastic", folder=folder, workers=workers
    )
    sys.stdout.write(f"epochs: {result.metrics['epoch']:.0f}\n")
