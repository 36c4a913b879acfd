"""Part workers and training loops of the tests; Ray's workers import them from here."""

import os
import time
from pathlib import Path

import pyarrow as pa
import torch
import torch.distributed

from fgvr.errors import UserError
from fgvr.part_worker import WorkerLost
from fgvr.schemas import ERROR, IMAGE_ID, Failure, Reason
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


class PatientWorker(SquareWorker):
    """Takes `seconds` for a part, and ten times as long for the part with the id `long`; writes down its process."""

    def __init__(self, diary: str, seconds: float, long: int) -> None:
        super().__init__(diary)
        self.seconds, self.long = seconds, long
        (self.diary / "pids").mkdir(exist_ok=True)
        (self.diary / "pids" / str(os.getpid())).touch()

    def process(self, rows: pa.Table) -> pa.Table:
        is_long = self.long in rows["image_id"].to_pylist()
        time.sleep(self.seconds * (10 if is_long else 1))
        return super().process(rows)


class KeylessWorker(SquareWorker):
    """Meets what a person has to mend."""

    def process(self, rows: pa.Table) -> pa.Table:
        raise UserError("set the key in the environment")


def sum_of_ranks(config: dict[str, float], reporter: Reporter) -> None:
    """Adds rank + 1 over all ranks in every epoch to a running total; dies in epoch `dies_at` unless it resumed."""
    folder = reporter.resume_folder()
    epoch, total = 0, 0.0
    if folder is not None:
        epoch, total = torch.load(folder / "state.pt")
    resumed = epoch
    while epoch < config["epochs"]:
        if epoch == config.get("dies_at") and not resumed:
            raise ValueError("out of luck in the loop")
        value = torch.tensor([reporter.rank + 1.0])
        if reporter.world_size > 1:
            torch.distributed.all_reduce(value)
        epoch, total = epoch + 1, total + float(value)
        state = (epoch, total)
        reporter.report(
            {"total": total, "epoch": epoch, "resumed": resumed},
            save=lambda place, state=state: torch.save(state, place / "state.pt"),
        )
