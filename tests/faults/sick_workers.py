"""A row-parallel stage and a training that are quick, whose results are known, and that fall ill on demand."""

import hashlib
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray
import torch

from fgvr import liveness, storage
from fgvr.part_worker import WorkerLost
from fgvr.schemas import ERROR, IMAGE_ID, Failure, Reason
from fgvr.training.reporter import Reporter

SCHEMA = pa.schema([IMAGE_ID, ("digest", pa.string()), ("prompt_tokens", pa.int32()), ERROR])


@dataclass(frozen=True)
class Illness:
    """What befalls the workers, and how often over all of them.

    Attributes:
        kind: start-dies, start-raises, start-hangs, start-elsewhere (on all nodes but one), work-dies (at its
            first work), row-hangs, row-needs-memory or none.
        times: so many workers are befallen.
        at: image id of the row.
    """

    kind: str = "none"
    times: int = 1
    at: int = 13


class Diary:
    """What happened, in files that all processes on this machine share."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def befalls(self, illness: Illness, kind: str) -> bool:
        """Whether the illness befalls this process now; counts."""
        if illness.kind != kind:
            return False
        for number in range(illness.times):
            try:
                os.close(os.open(self.folder / f"{kind}-{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False

    def is_first(self, name: str, text: str) -> bool:
        """Whether no other text was given before for this name."""
        try:
            with (self.folder / name).open("x") as stream:
                stream.write(text)
        except FileExistsError:
            return (self.folder / name).read_text() in {text, ""}
        return True

    def note(self, name: str, text: str) -> None:
        """A line at the end of a file."""
        with (self.folder / name).open("a") as stream:
            stream.write(f"{text}\n")

    def lines(self, name: str) -> list[str]:
        """All lines of a file."""
        file = self.folder / name
        return file.read_text().split("\n")[:-1] if file.exists() else []


class HashWorker:
    """One row an image: the SHA-256 of its bytes, or why there is none.

    Args:
        diary: folder of the diary.
        illness: what befalls it.
        seconds: a row takes.
    """

    def __init__(self, diary: str, illness: Illness, seconds: float) -> None:
        self.diary, self.illness, self.seconds = Diary(diary), illness, seconds
        self.diary.note("starts", str(os.getpid()))
        node = ray.get_runtime_context().get_node_id()
        self.diary.note("gpus", f"{node} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}")
        if self.diary.befalls(illness, "start-dies"):
            os._exit(7)
        if self.diary.befalls(illness, "start-raises"):
            raise RuntimeError("CUDA error: device lost")
        if self.diary.befalls(illness, "start-hangs"):
            time.sleep(3600)
        if illness.kind == "start-elsewhere" and not self.diary.is_first("well", node):
            self.diary.note("sick", node)
            raise RuntimeError("CUDA error: device lost")

    def process(self, rows: pa.Table) -> pa.Table:
        ids = rows["image_id"].to_pylist()
        if self.diary.befalls(self.illness, "work-dies"):
            raise WorkerLost("no kernel image is available for execution on the device")
        self.diary.note("parts", f"{os.getpid()} {ids[0]}")
        done = [self._row(*row) for row in zip(ids, rows["uri"].to_pylist(), strict=True)]
        return pa.Table.from_pylist(done, schema=SCHEMA)

    def _row(self, image_id: int, uri: str) -> dict[str, object]:
        if image_id == self.illness.at and self.diary.befalls(self.illness, "row-hangs"):
            time.sleep(3600)
        if image_id == self.illness.at and self.diary.befalls(self.illness, "row-needs-memory"):
            resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))  # 64 GiB of addresses
            bytearray(2**37)
        time.sleep(self.seconds)
        liveness.beat()
        data = storage.read_bytes(uri)
        row: dict[str, object] = {"image_id": image_id, "prompt_tokens": len(data)}
        if not data:
            return row | {"error": Failure(Reason.EMPTY_FILE, "no bytes").as_row()}
        return row | {"digest": hashlib.sha256(data).hexdigest()}


def count_up(config: dict[str, object], reporter: Reporter) -> None:
    """Epochs of ten steps; the state is a chain of hashes that shows whether any epoch was left out or done twice.

    The workers meet at every step, as they do where gradients are summed.
    """
    diary, illness = Diary(str(config["diary"])), config["illness"]
    assert isinstance(illness, Illness)
    folder = reporter.resume_folder()
    epoch, chain = torch.load(folder / "state.pt") if folder else (0, "")
    diary.note("trainings", f"{os.getpid()} {reporter.rank} {epoch}")
    while epoch < int(str(config["epochs"])):
        for step in range(10):
            if (epoch, step) == (2, 5) and reporter.rank == 0 and diary.befalls(illness, "row-hangs"):
                time.sleep(3600)
            ones = torch.ones(1)
            if reporter.world_size > 1:
                torch.distributed.all_reduce(ones)
            time.sleep(0.1)
            liveness.beat()
        epoch += 1
        chain = hashlib.sha256(f"{chain}:{epoch}".encode()).hexdigest()
        diary.note("epochs", f"{os.getpid()} {reporter.rank} {epoch}")
        state = (epoch, chain)
        reporter.report({"epoch": epoch}, save=lambda place, state=state: torch.save(state, place / "state.pt"))
