"""Part workers and training loops of the tests; Ray's workers import them from here, most of them without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pyarrow as pa

from fgvr.errors import UserError
from fgvr.part_worker import WorkerLost
from fgvr.schemas import ERROR, IMAGE_ID, Failure, Reason

if TYPE_CHECKING:
    from fgvr.training.reporter import Reporter

SCHEMA = pa.schema([IMAGE_ID, ("square", pa.int64()), ("prompt_tokens", pa.int32()), ERROR])


class SquareWorker:
    """Squares the ids. An id below `fails` fails while `mended` does not exist.

    Args:
        diary: a folder in which a file a processed part says which ids it was given.
        dies_at: the first process that is given this id says that its model is dead.
        kills_at: every process that is given this id dies.
    """

    remarks = ("squares of ids",)

    def __init__(
        self, diary: str, fails: int = 0, mended: str = "", dies_at: int | None = None, kills_at: int | None = None
    ) -> None:
        self.diary, self.fails, self.mended = Path(diary), fails, mended
        self.dies_at, self.kills_at = dies_at, kills_at

    def process(self, rows: pa.Table) -> pa.Table:
        ids = rows["image_id"].to_pylist()
        marker = self.diary / "died"
        if self.dies_at in ids and not marker.exists():
            marker.touch()
            raise WorkerLost("the model is dead")
        if self.kills_at in ids:
            os._exit(9)
        with (self.diary / "processed").open("a") as stream:
            stream.write(f"{ids[0]}-{ids[-1]}:{len(ids)}\n")
        mended = bool(self.mended) and Path(self.mended).exists()
        bad = [n < self.fails and not mended for n in ids]
        failure = Failure(Reason.CORRUPT, "cut off").as_row()
        return pa.table(
            {
                "image_id": ids,
                "square": [None if failed else n * n for n, failed in zip(ids, bad, strict=True)],
                "prompt_tokens": [3] * len(ids),
                "error": pa.array([failure if failed else None for failed in bad], ERROR.type),
            }
        ).cast(SCHEMA)


class ForgetfulWorker(SquareWorker):
    """Loses the last row of each part."""

    def process(self, rows: pa.Table) -> pa.Table:
        return super().process(rows).slice(0, rows.num_rows - 1)


class CrewWorker(SquareWorker):
    """Ends no part before `crew` workers have begun, and that with the id `long` when one of them is gone.

    Writes down its process, and that one was gone.
    """

    LONGEST = 200.0
    """Seconds until it goes on all the same."""

    def __init__(self, diary: str, crew: int, long: int | None = None) -> None:
        super().__init__(diary)
        self.crew, self.long = crew, long
        self.pids = self.diary / "pids"
        self.pids.mkdir(exist_ok=True)
        (self.pids / str(os.getpid())).touch()

    def process(self, rows: pa.Table) -> pa.Table:
        self._wait(lambda: len(list(self.pids.iterdir())) >= self.crew)
        if self.long in rows["image_id"].to_pylist():
            self._wait(lambda: alive(self.pids) < self.crew)
            (self.diary / f"left-{alive(self.pids)}").touch()
        return super().process(rows)

    def _wait(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + self.LONGEST
        while not until() and time.monotonic() < end:
            time.sleep(0.1)


def alive(pids: Path) -> int:
    """How many of the processes that are written down there are still there."""
    return sum(psutil.pid_exists(int(file.name)) for file in pids.glob("*"))


class KeylessWorker(SquareWorker):
    """Meets what a person has to mend."""

    def process(self, rows: pa.Table) -> pa.Table:
        raise UserError("set the key in the environment")


def threads_and(word: str) -> tuple[str, str]:
    return word, os.environ["OMP_NUM_THREADS"]


def refuses() -> None:
    raise UserError("set the key in the environment")


def fails() -> None:
    raise LookupError("no such thing")


def dies(diary: str) -> None:
    with Path(diary).open("a") as stream:
        stream.write("died\n")
    os._exit(7)


class Model:
    """Knows its process."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def label(self) -> int:
        return self.pid


class Asking(SquareWorker):
    """Squares, and notes the process of the model that it asks."""

    def __init__(self, diary: str, backend: Model) -> None:
        super().__init__(diary)
        self.backend = backend

    def process(self, rows: pa.Table) -> pa.Table:
        with (self.diary / "pids").open("a") as stream:
            stream.write(f"{self.backend.pid}\n")
        return super().process(rows)


def pid_of(backend: Model, word: str) -> tuple[int, str]:
    return backend.pid, word


def sum_of_ranks(config: dict[str, float], reporter: Reporter) -> None:
    """Adds rank + 1 over all ranks in every epoch to a running total.

    Unless it resumed, it fails in epoch `dies_at`, its process ends in epoch `killed_at` after `waits` seconds, and in
    epoch `refuses_at` it meets what the user has to fix.
    """
    import time

    import torch
    import torch.distributed

    folder = reporter.resume_folder()
    epoch, total = 0, 0.0
    if folder is not None:
        epoch, total = torch.load(folder / "state.pt")
    resumed = epoch
    while epoch < config["epochs"]:
        if epoch == config.get("dies_at") and not resumed:
            raise ValueError("out of luck in the loop")
        if epoch == config.get("killed_at") and not resumed:
            time.sleep(config.get("waits", 0))
            os._exit(9)
        if epoch == config.get("refuses_at"):
            raise UserError("lower the rate")
        value = torch.tensor([reporter.rank + 1.0])
        if reporter.world_size > 1:
            torch.distributed.all_reduce(value)
        epoch, total = epoch + 1, total + float(value)
        state = (epoch, total)
        reporter.report(
            {"total": total, "epoch": epoch, "resumed": resumed},
            save=lambda place, state=state: torch.save(state, place / "state.pt"),
        )
